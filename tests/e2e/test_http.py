"""What others may rely on over HTTP: health, /metrics in both formats, and what is not there."""

import os
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.e2e.agents import Agent, Places
from tests.e2e.conftest import free_port
from tests.e2e.pods import Node, ip, node

CONTRACT = {
    "podtally_pod_bytes_total": {"namespace", "pod", "direction"},
    "podtally_pod_packets_total": {"namespace", "pod", "direction"},
    "podtally_books_bytes_total": {"interface", "direction", "account"},
    "podtally_books_gap_bytes": {"interface", "direction"},
}
FLOW_LABELS = {
    *("namespace", "workload", "workload_kind", "direction", "peer_kind", "peer_namespace"),
    *("peer_workload", "scope", "protocol", "port", "verdict"),
}
CONTRACT |= {
    f"podtally_{name}_total": FLOW_LABELS for name in ("flow_bytes", "flow_packets", "connections")
}


@pytest.fixture(scope="module")
def running(bpffs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """An agent that has seen a few packets; these tests only ask it."""
    scratch = tmp_path_factory.mktemp("http")
    places = Places(bpffs / f"ptl-http-{os.getpid()}", scratch / "state", free_port())
    agent = Agent(places, log=scratch / "agent.log")
    with node() as made:
        a, b = made.bridged_pod("a"), made.bridged_pod("b")
        try:
            agent.start()
            agent.wait_ready()
            ip("netns", "exec", a.netns, "ping", "-c", "2", "-i", "0.2", b.ipv4)
            time.sleep(0.3)
            yield agent
        finally:
            agent.end()
            agent.detach()


def test_metrics_keep_to_the_contract(running: Agent) -> None:
    found: dict[str, set[str]] = {}
    for name, labels in running.samples():
        found.setdefault(name, {key for key, _ in labels})
    assert {name: found.get(name) for name in CONTRACT} == CONTRACT


def test_openmetrics_where_it_is_asked_for(running: Agent) -> None:
    asked = urllib.request.Request(
        running.places.url + "/metrics",
        headers={"Accept": "application/openmetrics-text; version=1.0.0"},
    )
    with urllib.request.urlopen(asked, timeout=5) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        text = answer.read().decode()
    assert text.endswith("# EOF\n")
    names = {family.name for family in text_string_to_metric_families(text)}  # type: ignore[no-untyped-call]
    assert {"podtally_books_bytes", "podtally_books_gap_bytes", "podtally_build_info"} <= names


def test_health_and_what_is_not_there(running: Agent) -> None:
    assert running.get("/livez") == (200, "ok\n")
    assert running.get("/readyz") == (200, "ok\n")
    assert running.get("/elsewhere")[0] == 404
    assert running.get("/metrics?name[]=up")[0] == 200


def test_a_scrape_reads_no_kernel_and_waits_for_no_epoch(three_pods: Node, agent: Agent) -> None:
    agent.start("--epoch", "3600")
    agent.wait_said("watching 3 interfaces")
    assert agent.get("/metrics")[0] == 200
    assert agent.get("/readyz") == (503, "no epoch is booked yet\n")
    assert agent.get("/livez") == (200, "ok\n")


def test_every_series_shows_up_once(running: Agent) -> None:
    _, text = running.get("/metrics")
    series = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(series) == len(set(series))
