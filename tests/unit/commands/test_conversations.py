# SPDX-License-Identifier: Apache-2.0
"""Conversations from a page of /metrics, and rates since an earlier one."""

import pytest

from podtally.commands.traffic.conversation_rows import ConversationFilter, rows
from podtally.commands.traffic.conversations import TrafficReader, TrafficTotal, totals
from podtally.ledger.series.label_sets import FlowLabels
from tests.unit.commands.top_support import (
    BUILD,
    EVERYTHING,
    METRICS,
    STRAY,
    USED,
    WEB,
    books,
    found,
    printed,
    seen,
    series,
    talked,
)

GOLDEN = """\
WORKLOAD    TO  PEER             PORT      SCOPE     VERDICT     CONNECTIONS  SENT  RECEIVED  FAILED
shop/web    ->  data/db          3306/tcp  node      allowed     23           1000  4000      0
shop/web    <-  external:office  80/tcp    private   undeclared  3            400   300       0
shop/stray  ->  internet         4444/tcp  internet  denied      7            460   0         0

denied 7 (460 B), undeclared 3 (700 B), unknown 0, of 33 connections; the books close: 6,246 bytes; \
why: `podtally explain FROM TO PORT`, or the event log
"""


# -- what a page says -----------------------------------------------------------------------


def test_exact_columns() -> None:
    assert printed(METRICS + books()) == GOLDEN


@pytest.mark.parametrize(
    ("outcome", "protocol", "shown"),
    [("refused", "tcp", True), ("unanswered", "udp", False), ("established", "tcp", False)],
)
def test_failed_connections_are_selected(outcome: str, protocol: str, shown: bool) -> None:
    labels = WEB._replace(protocol=protocol)._asdict() | {"outcome": outcome}
    text = ",".join(f'{name}="{value}"' for name, value in labels.items())
    metrics = METRICS + books() + f"podtally_connection_outcomes_total{{{text}}} 3\n"
    first, second = printed(metrics, ConversationFilter(failed=True)).splitlines()[:2]
    if shown:
        assert (first.split()[-1], second.split()[-1]) == ("FAILED", "3")
    else:
        assert first == "none of 3 conversations matches"


def test_a_limit_leaves_out_lines_and_no_total() -> None:
    lines = printed(METRICS + books(), limit=1).splitlines()
    assert lines[1].startswith("shop/web  ->")
    assert lines[2:] == GOLDEN.splitlines()[4:]


def test_sums_are_exact_beyond_the_integers_that_a_float_has() -> None:
    big = 2**53 + 1
    (row,) = found(talked(WEB, 23, big, 2))
    assert (row.counts.sent, row.counts.received, row.counts.bytes) == (big, 2, big + 2)
    assert totals(seen(BUILD + talked(WEB, 1, big, 2)).conversations)["allowed"] == TrafficTotal(
        1, big + 2
    )


@pytest.mark.parametrize(
    ("metrics", "direction"),
    [
        (talked(WEB, 2, 23, 23), "egress"),
        (talked(WEB._replace(direction="ingress"), 2, 23, 23), "ingress"),
        (talked(WEB, 2, 23, 23) + series("connections", WEB._replace(direction="ingress"), 3), "both"),
        (talked(WEB, 0, 23, 23), "unknown"),
    ],
)  # fmt: skip
def test_direction_follows_the_initiator(metrics: str, direction: str) -> None:
    assert [row.direction for row in found(metrics)] == [direction]


def test_direction_after_a_change_of_verdict() -> None:
    """The connection is counted under the earlier verdict, later bytes under the new one."""
    metrics = talked(WEB, 2, 23, 23) + talked(WEB._replace(verdict="denied"), 0, 997, 23)
    result = {row.conversation.verdict: row for row in found(metrics)}
    assert {verdict: row.direction for verdict, row in result.items()} == {
        "allowed": "egress", "denied": "egress",
    }  # fmt: skip
    assert result["denied"].counts == (997, 23, 0, 0, 0)
    assert "denied 0 (1.0 kB)" in printed(BUILD + metrics)


def test_series_without_counts_have_no_line() -> None:
    assert found(talked(STRAY, 0, 0, 0)) == []


OTHER = FlowLabels(*["other"] * len(FlowLabels._fields))._replace(direction="ingress")
UNSEEN = WEB._replace(port="unknown", verdict="unknown")


@pytest.mark.parametrize(
    ("wanted", "workloads"),
    [
        (EVERYTHING, ["data/db", "other/other", "shop/stray", "shop/unseen", "shop/used", "shop/web"]),
        (ConversationFilter(egress=True), ["shop/stray", "shop/unseen", "shop/web"]),
        (ConversationFilter(outside=True), ["other/other", "shop/stray", "shop/used"]),
        (ConversationFilter(denied=True), ["other/other", "shop/stray", "shop/used"]),
        (ConversationFilter(namespace="data"), ["data/db"]),
        (ConversationFilter(egress=True, denied=True, namespace="shop"), ["shop/stray"]),
    ],
)  # fmt: skip
def test_filters(wanted: ConversationFilter, workloads: list[str]) -> None:
    """Rows of unknown direction, and those beyond the series limit, always match."""
    metrics = (
        talked(STRAY, 7, 460, 0)
        + talked(WEB, 23, 1000, 4000)
        + talked(WEB._replace(namespace="data", workload="db", direction="ingress"), 23, 1, 1)
        + talked(USED._replace(workload="used"), 3, 400, 300)
        + talked(UNSEEN._replace(workload="unseen"), 0, 5, 5)
        + talked(OTHER, 3, 2, 2)
    )
    names = [
        f"{row.conversation.namespace}/{row.conversation.workload}"
        for row in found(metrics, wanted)
    ]
    assert sorted(names) == workloads


def test_every_scope_within_the_cluster_is_not_outside() -> None:
    scopes = ("node", "zone", "cross_zone", "cluster", "private", "internet", "unknown")
    metrics = "".join(talked(WEB._replace(scope=scope), 2, 23, 23) for scope in scopes)
    outside = {row.conversation.scope for row in found(metrics, ConversationFilter(outside=True))}
    assert outside == {"private", "internet", "unknown"}


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (WEB, "data/db 3306/tcp node"),
        (WEB._replace(peer_kind="service"), "service:data/db 3306/tcp node"),
        (STRAY._replace(peer_workload="bank"), "external:bank 4444/tcp internet"),
        (STRAY._replace(scope="private"), "private 4444/tcp private"),
        (STRAY._replace(peer_kind="unknown", scope="unknown"), "unknown 4444/tcp unknown"),
        (STRAY._replace(peer_kind="host", scope="node"), "host 4444/tcp node"),
        (STRAY._replace(protocol="icmp", port="0"), "internet icmp internet"),
        (STRAY._replace(port="unknown"), "internet unknown/tcp internet"),
    ],
)
def test_a_peer_and_its_port(labels: FlowLabels, words: str) -> None:
    line = printed(BUILD + talked(labels, 23, 1, 1)).splitlines()[1]
    assert f"-> {words} {labels.verdict} 23 1 1" in " ".join(line.split())


# -- rates ------------------------------------------------------------------------------------


def rated(before: str, now: str, seconds: float = 2.0) -> dict[str, float | None]:
    reader = TrafficReader()
    first, second = (
        reader.read(BUILD + before, 10.0),
        reader.read(BUILD + now, 10.0 + seconds),
    )
    return {row.conversation.workload: row.rate for row in rows(second, first, EVERYTHING)}


def test_rate_is_of_both_directions_since_the_earlier_page() -> None:
    before = talked(WEB, 1, 1000, 4000) + talked(STRAY, 1, 100, 0)
    now = talked(WEB, 1, 1100, 4023) + talked(STRAY, 1, 900, 23)
    assert list(rated(before, now).items()) == [("stray", 411.5), ("web", 61.5)]


def test_a_vanished_counter_has_no_rate_and_a_new_one_has_all_of_it() -> None:
    assert rated(talked(WEB, 1, 1000, 0), talked(STRAY, 1, 46, 0)) == {"stray": 23.0}


def test_a_restarted_counter_has_no_negative_rate() -> None:
    assert rated(talked(WEB, 1, 1000, 4000), talked(WEB, 1, 46, 4000)) == {"web": 23.0}


def test_the_first_page_has_no_rates_and_is_sorted_by_bytes() -> None:
    result = found(talked(STRAY, 1, 100, 0) + talked(WEB, 1, 1000, 4000))
    assert [(row.conversation.workload, row.rate) for row in result] == [
        ("web", None),
        ("stray", None),
    ]


# -- what is wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        ("0.0", "the books close: 6,246 bytes"),
        ("-1023", "the books do not close: veth1 egress: a gap of -1,023 bytes"),
        ("", "the books do not close: veth1 egress: no gap reported"),
    ],
)
def test_books(gap: str, words: str) -> None:
    assert f"; {words}; why" in printed(METRICS + books(gap))
    assert bool(seen(METRICS + books(gap)).book_summary().gaps) == ("not close" in words)


def test_several_gaps_are_counted() -> None:
    out = printed(METRICS + books("23", "veth2") + books("", "veth1") + books("0", "veth0"))
    assert "do not close: veth1 egress: no gap reported and 1 more;" in out


def test_no_hint_if_all_is_allowed() -> None:
    last = printed(BUILD + talked(WEB, 23, 1, 1) + books()).splitlines()[-1]
    assert (
        last == "denied 0, undeclared 0, unknown 0, of 23 connections; the books close: 6,246 bytes"
    )


def test_an_unfamiliar_verdict_is_unknown_in_the_totals() -> None:
    sums = totals(seen(BUILD + talked(OTHER, 3, 2, 2) + talked(UNSEEN, 0, 5, 5)).conversations)
    assert sums == {
        "allowed": TrafficTotal(),
        "denied": TrafficTotal(),
        "undeclared": TrafficTotal(),
        "unknown": TrafficTotal(3, 14),
    }


def test_empty_results_have_a_message() -> None:
    assert printed(BUILD).startswith("no traffic seen yet\n")
    assert printed(METRICS, ConversationFilter(namespace="x")).startswith(
        "none of 3 conversations matches\n"
    )
