# SPDX-License-Identifier: Apache-2.0
"""/metrics as text: exact numbers under the contract's names, as Prometheus reads them."""

import re
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from podtally.export.agent_metrics import AgentMetrics
from podtally.export.exposition import Exposition, label_text
from podtally.export.publisher import Health, Publisher
from podtally.ledger.metrics import families
from podtally.ledger.metrics.costs import PARTS
from podtally.ledger.metrics.families import FAMILIES
from podtally.ledger.metrics.family import Family
from podtally.ledger.metrics.view import View
from podtally.ledger.series.label_sets import (
    BookLabels,
    CandidateLabels,
    CostLabels,
    DeniedLabels,
    ExposedLabels,
    FlowLabels,
    KubecostLabels,
    PodLabels,
    ScanLabels,
    SpoofedLabels,
    UndecidedLabels,
    UnknownLabels,
)
from podtally.ledger.series.series import SeriesView

LARGE = 2**53 + 1  # the first number that a float cannot hold
WEB = ("shop", "web", "Deployment", "egress")
OFFICE = ("external", "", "office")


def view_of(series: dict[Family[Any], tuple[list[Any], Any]], **totals: int) -> View:
    """Return a view of label sets and their sums, by family."""
    shown = {
        family.name: SeriesView(labels, np.array(sums)) for family, (labels, sums) in series.items()
    }
    return View(shown, **totals)  # type: ignore[arg-type]


SERIES: dict[Family[Any], tuple[list[Any], Any]] = {
    families.PODS: ([PodLabels("shop", "web-0", "egress")], [[LARGE, 23]]),
    families.FLOWS: (
        [FlowLabels(*WEB, *OFFICE, "internet", "tcp", "443", "unknown", "example.com")],
        [[1541, 5, 1]],
    ),
    families.BOOKS: ([BookLabels("veth7", "egress")], [[1541, 61, LARGE]]),
    families.DENIED: (
        [
            DeniedLabels(
                "shop", "web", "egress", *OFFICE, "tcp", "443", "shop/strict", "example.com"
            )
        ],
        [[19]],
    ),
    families.UNKNOWN_VERDICTS: ([UnknownLabels("unknown initiator")], [[23]]),
    families.EXPOSED: ([ExposedLabels("shop", "web", "internet", "tcp", "80")], [[29]]),
    families.CANDIDATES: (
        [
            CandidateLabels(
                *("shop", "web", "egress", *OFFICE, "tcp", "443"),
                *("undeclared", "denied", "shop/next", "example.com"),
            )
        ],
        [[LARGE, 31, 37]],
    ),
    families.COSTS: (
        [
            CostLabels("shop", "web", "internet", "egress"),
            CostLabels("shop", "web", "internet", "ingress"),
            CostLabels("shop", "db", "cross_zone", "egress"),
        ],
        [[23, PARTS // 4], [0, 1], [0, 0]],
    ),
    families.SCANS: ([ScanLabels("shop", "web", "egress", "denied")], [[41]]),
    families.GAPS: ([BookLabels("veth7", "egress")], [[-29]]),
    families.DROPS_BYTES: ([BookLabels("veth7", "egress")], [[0, 89, 14]]),
    families.UNDECIDED: (
        [UndecidedLabels("shop", "web", "egress", "external", "gre", "protocol")],
        [[41]],
    ),
    families.SPOOFED: ([SpoofedLabels("shop", "web")], [[43]]),
}
VIEW = view_of(
    SERIES,
    connections=3,
    unknown_initiators=5,
    limited=7,
    overflow_packets=11,
    waiting=13,
    name_timeouts=17,
)
FLOW = (
    'namespace="shop",workload="web",workload_kind="Deployment",direction="egress",'
    'peer_kind="external",peer_namespace="",peer_workload="office",scope="internet",'
    'protocol="tcp",port="443",verdict="unknown",peer_domain="example.com"'
)
OF_WEB = (
    'namespace="shop",workload="web",direction="egress",peer_kind="external",'
    'peer_namespace="",peer_workload="office",protocol="tcp",port="443"'
)
TEXT = f"""\
# HELP podtally_pod_bytes_total Bytes on the endpoint's interfaces, all accounts together.
# TYPE podtally_pod_bytes_total counter
podtally_pod_bytes_total{{namespace="shop",pod="web-0",direction="egress"}} 9007199254740993
# HELP podtally_pod_packets_total Packets on the endpoint's interfaces, as on the wire.
# TYPE podtally_pod_packets_total counter
podtally_pod_packets_total{{namespace="shop",pod="web-0",direction="egress"}} 23
# HELP podtally_flow_bytes_total Bytes of flows; direction is that of the bytes, port the server's.
# TYPE podtally_flow_bytes_total counter
podtally_flow_bytes_total{{{FLOW}}} 1541
# HELP podtally_flow_packets_total Packets of flows, as on the wire.
# TYPE podtally_flow_packets_total counter
podtally_flow_packets_total{{{FLOW}}} 5
# HELP podtally_connections_total New connections: egress if the endpoint opened them, ingress if its peer did.
# TYPE podtally_connections_total counter
podtally_connections_total{{{FLOW}}} 1
# HELP podtally_policy_denied_total Connections that policy denies, counted at the end that denies them.
# TYPE podtally_policy_denied_total counter
podtally_policy_denied_total{{{OF_WEB},policy="shop/strict",peer_domain="example.com"}} 19
# HELP podtally_verdict_unknown_connections_total Connections with the verdict unknown, by cause.
# TYPE podtally_verdict_unknown_connections_total counter
podtally_verdict_unknown_connections_total{{cause="unknown initiator"}} 23
# HELP podtally_policy_undecided_total Connections of isolated endpoints on which policy cannot be decided.
# TYPE podtally_policy_undecided_total counter
podtally_policy_undecided_total{{namespace="shop",workload="web",direction="egress",peer_kind="external",protocol="gre",cause="protocol"}} 41
# HELP podtally_spoofed_packets_total Packets that an endpoint sent from addresses that are not its own.
# TYPE podtally_spoofed_packets_total counter
podtally_spoofed_packets_total{{namespace="shop",workload="web"}} 43
# HELP podtally_undeclared_exposure_connections_total Connections from outside the cluster to pods that no Ingress, LoadBalancer, NodePort or external IP declares.
# TYPE podtally_undeclared_exposure_connections_total counter
podtally_undeclared_exposure_connections_total{{namespace="shop",workload="web",scope="internet",protocol="tcp",port="80"}} 29
# HELP podtally_scan_connections_total Connections to, or from, more ports or addresses than are reported one by one.
# TYPE podtally_scan_connections_total counter
podtally_scan_connections_total{{namespace="shop",workload="web",direction="egress",verdict="denied"}} 41
# HELP podtally_candidate_connections_total Connections that get another verdict with the candidate policies.
# TYPE podtally_candidate_connections_total counter
podtally_candidate_connections_total{{{OF_WEB},verdict="undeclared",candidate="denied",policy="shop/next",peer_domain="example.com"}} 37
# HELP podtally_candidate_bytes_total Bytes of connections that get another verdict with the candidate policies.
# TYPE podtally_candidate_bytes_total counter
podtally_candidate_bytes_total{{{OF_WEB},verdict="undeclared",candidate="denied",policy="shop/next",peer_domain="example.com"}} 9007199254740993
# HELP podtally_egress_cost_dollars_total Estimated cost of sent bytes, by the prices in the configuration.
# TYPE podtally_egress_cost_dollars_total counter
podtally_egress_cost_dollars_total{{namespace="shop",workload="web",scope="internet"}} 23.25
podtally_egress_cost_dollars_total{{namespace="shop",workload="db",scope="cross_zone"}} 0.0
# HELP podtally_ingress_cost_dollars_total Estimated cost of received bytes, by the prices in the configuration.
# TYPE podtally_ingress_cost_dollars_total counter
podtally_ingress_cost_dollars_total{{namespace="shop",workload="web",scope="internet"}} 1e-13
# HELP podtally_books_bytes_total Bytes booked on an interface, by account: flows, other, overflow.
# TYPE podtally_books_bytes_total counter
podtally_books_bytes_total{{interface="veth7",direction="egress",account="flows"}} 1541
podtally_books_bytes_total{{interface="veth7",direction="egress",account="other"}} 61
podtally_books_bytes_total{{interface="veth7",direction="egress",account="overflow"}} 9007199254740993
# HELP podtally_books_drops_bytes_total Bytes that only the interface or only podtally counted, by kind.
# TYPE podtally_books_drops_bytes_total counter
podtally_books_drops_bytes_total{{interface="veth7",direction="egress",kind="before_hook"}} 0
podtally_books_drops_bytes_total{{interface="veth7",direction="egress",kind="after_hook"}} 89
podtally_books_drops_bytes_total{{interface="veth7",direction="egress",kind="header"}} 14
# HELP podtally_books_gap_bytes Bytes that the interface counted, less those booked and drops.
# TYPE podtally_books_gap_bytes gauge
podtally_books_gap_bytes{{interface="veth7",direction="egress"}} -29
"""
OPENMETRICS = "".join(
    line.replace("_total ", " ", 1) if line.startswith("#") else line
    for line in TEXT.splitlines(keepends=True)
)


def rendered(view: View, openmetrics: bool = False) -> str:
    return with_series(Exposition().render(view, openmetrics))


def with_series(text: str) -> str:
    """Return the text without metrics that have no series."""
    return re.sub(r"# HELP .*\n# TYPE .*\n(?=# |\Z)", "", text)


def test_text() -> None:
    assert rendered(VIEW) == TEXT


def test_openmetrics() -> None:
    assert rendered(VIEW, openmetrics=True) == OPENMETRICS


def with_pod(labels: PodLabels) -> View:
    return view_of({**SERIES, families.PODS: ([labels], [[LARGE, 23]])})


def test_label_texts_are_kept_and_not_confused() -> None:
    exposition = Exposition()
    for _ in range(3):
        assert with_series(exposition.render(VIEW, openmetrics=False)) == TEXT
    moved = exposition.render(with_pod(PodLabels("shop", "web-1", "egress")), openmetrics=False)
    assert with_series(moved) == TEXT.replace("web-0", "web-1")
    assert with_series(exposition.render(VIEW, openmetrics=False)) == TEXT


def test_nothing_booked_yet_still_describes_every_metric() -> None:
    found = Exposition().render(View({}), openmetrics=False).splitlines()
    metrics = [m for family in FAMILIES for m in family.metrics if not m.if_any]
    assert [line.split()[2] for line in found] == [m.sample_name for m in metrics for _ in range(2)]


def test_kubecosts_names_are_there_only_if_enabled() -> None:
    labels = KubecostLabels("web-0", "shop", "true", "false", "false", "office")
    text = rendered(view_of({families.KUBECOST: ([labels], [[LARGE]])}))
    assert (
        'kubecost_pod_network_egress_bytes_total{pod_name="web-0",namespace="shop",'
        'internet="true",same_region="false",same_zone="false",service="office",nat_gateway="false"} 9007199254740993\n'
    ) in text
    assert "kubecost" not in Exposition().render(VIEW, openmetrics=False)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ('a "quote"', r"a \"quote\""),
        ("C:\\", "C:\\\\"),
        ("two\nlines", r"two\nlines"),
        ("\\n", r"\\n"),
        ("größe {a=b},", "größe {a=b},"),
        ("", ""),
    ],
)
def test_escapes(value: str, text: str) -> None:
    assert label_text(["pod"], [value]) == f'pod="{text}"'
    view = with_pod(PodLabels("shop", value, "egress"))
    (pods, *_) = parse_text(Exposition().render(view, openmetrics=False))
    assert pods.samples[0].labels["pod"] == value


def publisher() -> Publisher:
    return Publisher(VIEW, AgentMetrics(), lambda: Health("", ""))


def values(body: str, openmetrics: bool) -> dict[tuple[str, str], float]:
    parse = parse_openmetrics if openmetrics else parse_text
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in parse(body)
        for sample in family.samples
    }


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_both_formats_are_read_back_to_the_same_numbers(accept: str) -> None:
    body, kind = publisher().render(accept)
    assert kind.startswith("application/openmetrics-text" if accept else "text/plain")
    read = values(body.decode(), bool(accept))
    assert read["podtally_pod_packets_total", "shop,web-0,egress"] == 23
    assert read["podtally_books_bytes_total", "veth7,egress,other"] == 61
    assert read["podtally_books_gap_bytes", "veth7,egress"] == -29
    assert read["podtally_table_overflow_packets_total", ""] == 11
    assert read["podtally_connections_unknown_initiator_total", ""] == 5
    assert read["podtally_flow_series_limited_total", ""] == 7
    assert read["podtally_checkpoint_errors_total", ""] == 0
    assert body.decode().count("# EOF") == (1 if accept else 0)


def test_a_view_that_is_published_is_the_next_that_is_rendered() -> None:
    serving = publisher()
    moved = {families.PODS: ([PodLabels("shop", "web-0", "egress")], [[LARGE, 24]])}
    serving.publish(view_of(moved, overflow_packets=13))
    read = values(serving.render("")[0].decode(), False)
    assert read["podtally_pod_packets_total", "shop,web-0,egress"] == 24
    assert read["podtally_table_overflow_packets_total", ""] == 13


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_has_nothing_to_say() -> None:
    body, _ = publisher().render("")
    result = subprocess.run(
        ["promtool", "check", "metrics"], input=body, capture_output=True, check=False, timeout=300
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, b"")
