# SPDX-License-Identifier: Apache-2.0
"""Known egress: which traffic an entry matches, until when, in events and in metrics."""

import datetime
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from podtally.config import load
from podtally.errors import PodtallyError
from podtally.export.event_log import EventOrigin, event
from podtally.export.expected import ComparedTraffic, ExpectedCollector, ExpectedMatcher
from podtally.ledger.events.events import Due, EventLabels
from podtally.ledger.metrics.families import DENIED
from podtally.ledger.metrics.view import View
from podtally.ledger.series.label_sets import DeniedLabels
from podtally.ledger.series.series import SeriesView

ENTRY = """\
expected:
- {workload: shop/*, domain: example.com, port: 443, until: 2027-03-31, reason: migration}
- {workload: billing/pay, peer: old-bank, until: 2027-01-31, reason: the bank moves}
- {workload: shop/web, peer: shop/cache, port: 6379/TCP, until: 2027-01-31, reason: removed soon}
"""
TODAY = datetime.date(2027, 1, 15)
WEB = ComparedTraffic(
    namespace="shop",
    workload="web",
    direction="egress",
    peer_kind="external",
    peer_namespace="",
    peer_workload="",
    peer_domain="example.com",
    protocol="tcp",
    port="443",
)


@pytest.fixture
def matcher(tmp_path: Path) -> ExpectedMatcher:
    return ExpectedMatcher(read(tmp_path, ENTRY))


def read(folder: Path, text: str):  # type: ignore[no-untyped-def]
    path = folder / "podtally.yaml"
    path.write_text(text)
    return load(path, {}).expected


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "migration"),
        ({"peer_domain": "api.example.com"}, "migration"),
        ({"peer_domain": "evil-example.com"}, ""),
        ({"port": "80"}, ""),
        ({"protocol": "udp"}, ""),
        ({"namespace": "other"}, ""),
        ({"direction": "ingress"}, ""),
        ({"peer_domain": "", "peer_workload": "old-bank"}, ""),
        (
            {"namespace": "billing", "workload": "pay", "peer_workload": "old-bank", "port": "1"},
            "the bank moves",
        ),
        (
            {
                "peer_kind": "pod",
                "peer_namespace": "shop",
                "peer_workload": "cache",
                "peer_domain": "",
                "port": "6379",
            },
            "removed soon",
        ),
    ],
)
def test_what_an_entry_matches(
    matcher: ExpectedMatcher, changes: dict[str, str], reason: str
) -> None:
    assert matcher.reason(WEB._replace(**changes), TODAY) == reason


def test_the_day_until_is_the_last(matcher: ExpectedMatcher) -> None:
    assert matcher.reason(WEB, datetime.date(2027, 3, 31)) == "migration"
    assert matcher.reason(WEB, datetime.date(2027, 4, 1)) == ""


def test_an_event_says_why_it_is_expected(matcher: ExpectedMatcher) -> None:
    labels = EventLabels(
        verdict="denied",
        direction="egress",
        namespace="shop",
        pod="web-0",
        workload="web",
        workload_kind="Deployment",
        peer_kind="external",
        peer_namespace="",
        peer_workload="",
        peer_name="",
        peer_address="203.0.113.9",
        scope="internet",
        protocol="tcp",
        port="443",
        policy="shop/out",
        reason="denied",
        exposure="",
        peer_domain="api.example.com",
    )
    due = Due(labels, 1, 1, 60, 0, 0, 0)
    now = datetime.datetime(2027, 1, 15, tzinfo=datetime.UTC)
    origin = EventOrigin("", "", matcher)
    assert event(due, 0, now, origin).expected == "migration"
    assert event(due, 0, now.replace(month=4), origin).expected == ""
    other = due._replace(labels=labels._replace(verdict="spoofed"))
    assert event(other, 0, now, origin).expected == ""


def test_the_gauge_has_the_labels_of_what_is_denied(tmp_path: Path) -> None:
    text = ENTRY.replace("2027", "2999")
    collector = ExpectedCollector(ExpectedMatcher(read(tmp_path, text)))
    labels = DeniedLabels(
        *("shop", "web", "egress", "external", "", "", "tcp", "443", "shop/out", "example.com")
    )
    rows = [labels, labels._replace(port="80")]
    collector.view = View({DENIED.name: SeriesView(rows, np.ones((2, 1), np.int64))})
    (family,) = collector.collect()
    (sample,) = family.samples
    assert sample.labels == {**WEB._asdict()}
    assert sample.value == 1
    collector.view = replace(collector.view, series={})
    (family,) = collector.collect()
    assert family.samples == []


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{workload: web, peer: a/b, until: 2027-01-01, reason: x}", "is not NAMESPACE/WORKLOAD"),
        ("{workload: a/b, until: 2027-01-01, reason: x}", "needs one of peer and domain"),
        ("{workload: a/b, peer: c, until: soon, reason: x}", "until 'soon' is not a day"),
        ("{workload: a/b, peer: c, until: 2027-01-01, reason: ' '}", "needs a reason"),
        ("{workload: a/b, peer: c, port: http, until: 2027-01-01, reason: x}", "port 'http'"),
        ("{workload: a/b, pear: c, until: 2027-01-01, reason: x}", "unknown field 'pear'"),
        ("{workload: a/b, peer: c, reason: x}", "until"),
    ],
)
def test_invalid_entries_name_the_fault(tmp_path: Path, entry: str, message: str) -> None:
    with pytest.raises(PodtallyError, match=message):
        read(tmp_path, f"expected:\n- {entry}\n")
