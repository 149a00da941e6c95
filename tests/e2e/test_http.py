# SPDX-License-Identifier: Apache-2.0
"""The HTTP contract: health, /metrics in both formats, and 404."""

import json
import os
import re
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.e2e.agents import Agent, Places, environment, value
from tests.e2e.conftest import free_port
from tests.e2e.pods import Node, Pod, ip, node
from tests.kernel.links_support import inside
from tests.podtally_command import podtally

CONTRACT = {
    "podtally_pod_bytes_total": {"namespace", "pod", "direction"},
    "podtally_pod_packets_total": {"namespace", "pod", "direction"},
    "podtally_books_bytes_total": {"interface", "direction", "account"},
    "podtally_books_gap_bytes": {"interface", "direction"},
}
FLOW_LABELS = {
    *("namespace", "workload", "workload_kind", "direction", "peer_kind", "peer_namespace"),
    *("peer_workload", "scope", "protocol", "port", "verdict", "peer_domain"),
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


def test_openmetrics_on_request(running: Agent) -> None:
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


PORT, OTHER_PORT = 8080, 8081
NEW_TRUTH_SECONDS = 60.0  # usually 2: a look at the files each second, and an epoch


def network_policy(name: str, **spec: Any) -> str:
    """For ``shop/db``."""
    selected = {"podSelector": {"matchLabels": {"app": "db"}}}
    meta = {"name": name, "namespace": "shop"}
    head = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta}
    return yaml.safe_dump(head | {"spec": selected | spec})


INTO_DB = network_policy(
    "into-db",
    ingress=[
        {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": PORT}]}
    ],
)


class Judging(NamedTuple):
    """An agent with a policy and a candidate, over ``shop/web-0`` and ``shop/db-0``."""

    agent: Agent
    web: Pod
    db: Pod
    policy: Path
    candidate: Path

    def run(self, *arguments: str) -> tuple[int, str, str]:
        listen = ("--listen", f"127.0.0.1:{self.agent.places.port}")
        return podtally(*arguments, *listen, variables=environment(), seconds=30)

    def explain(self, *asked: str) -> dict[str, Any]:
        _, out, err = self.run("explain", *asked, "--output", "json")
        assert err == ""
        result: dict[str, Any] = json.loads(out)
        return result

    def connect(self, port: int) -> None:
        """From web to db; both are judged by what is declared, and neither is stopped."""
        with inside(self.db.netns):
            listening = socket.create_server((self.db.ipv4, port))
        with listening, inside(self.web.netns):
            socket.create_connection((self.db.ipv4, port), timeout=5).close()

    def booked(self, port: int, verdict: str) -> None:
        """Wait until a connection to that port is in the metrics under the verdict."""
        end = time.monotonic() + NEW_TRUTH_SECONDS
        labels = {"workload": "web-0", "port": str(port), "verdict": verdict}
        while not value(self.agent.samples(), "podtally_connections_total", **labels):
            assert time.monotonic() < end, self.agent.get("/metrics")[1]
            time.sleep(0.05)


@pytest.fixture(scope="module")
def judging(bpffs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judging]:
    scratch = tmp_path_factory.mktemp("judging")
    policy, candidate = scratch / "policy.yaml", scratch / "next.yaml"
    policy.write_text(INTO_DB)
    candidate.write_text(network_policy("no-one", policyTypes=["Egress"]))
    places = Places(bpffs / f"ptl-judging-{os.getpid()}", scratch / "state", free_port())
    with node() as made:
        web, db = made.bridged_pod("web"), made.bridged_pod("db")
        entries = [
            {"netns": pod.netns, "namespace": "shop", "name": f"{name}-0", "labels": {"app": name}}
            for name, pod in (("web", web), ("db", db))
        ]
        config = scratch / "podtally.yaml"
        config.write_text(yaml.safe_dump({"endpoints": entries}))
        flags = ("--config", str(config), "--policies", str(policy), "--candidate", str(candidate))
        agent = Agent(places, flags, log=scratch / "agent.log")
        try:
            agent.start()
            agent.wait_ready()
            yield Judging(agent, web, db, policy, candidate)
        finally:
            agent.end()
            agent.detach()


def test_what_is_explained_is_what_is_counted(judging: Judging) -> None:
    judging.connect(PORT)
    judging.connect(OTHER_PORT)
    for port, verdict in ((PORT, "allowed"), (OTHER_PORT, "denied")):
        judging.booked(port, verdict)
        for web in ("shop/web-0", judging.web.ipv4):
            result = judging.explain(web, "shop/db-0", str(port))
            assert (result["verdict"], result["from"]) == (
                verdict,
                f"shop/web-0 ({judging.web.ipv4})",
            )
    code, out, _ = judging.run("explain", "shop/web-0", judging.db.ipv6, f"{OTHER_PORT}/TCP")
    assert code == 1
    assert out.endswith(
        f"denied: denied by default: shop/into-db selects it and no ingress rule allows this; nearest shop/into-db ingress[0]: "
        f"port {OTHER_PORT} is not {PORT}\n\nwith the candidates: the same\n"
    )
    code, _, err = judging.run("explain", "shop/wep-0", "shop/db-0", "80")
    assert code == 2
    assert "unknown endpoint 'shop/wep-0'; known names: shop/web-0, " in err


def test_a_candidate_is_a_second_verdict_and_its_changes_are_shown(judging: Judging) -> None:
    result = judging.explain("shop/db-0", "203.0.113.9", "80")
    assert (result["verdict"], result["candidate"]["verdict"]) == ("undeclared", "denied")
    code, out, _ = judging.run("candidates")
    assert code == 0
    assert re.fullmatch(
        r"nothing observed would change since 2\S+Z; candidates: shop/no-one\n", out
    )
    judging.candidate.write_text(network_policy("into-db", ingress=[{}]))
    end = time.monotonic() + NEW_TRUTH_SECONDS
    while judging.explain("shop/web-0", "shop/db-0", "9")["candidate"]["verdict"] != "allowed":
        assert time.monotonic() < end, judging.agent.said()
    judging.connect(9)
    judging.booked(9, "denied")
    code, out, _ = judging.run("candidates")
    assert code == 1
    assert "denied allowed shop/db-0 ingress shop/web-0 tcp 9 - 1" in " ".join(out.split())


def test_an_edited_policy_is_explained_soon(judging: Judging) -> None:
    judging.policy.write_text(INTO_DB.replace(str(PORT), str(OTHER_PORT)))
    end = time.monotonic() + NEW_TRUTH_SECONDS
    while judging.explain("shop/web-0", "shop/db-0", str(OTHER_PORT))["verdict"] != "allowed":
        assert time.monotonic() < end, judging.agent.said()
    assert judging.explain("shop/web-0", "shop/db-0", str(PORT))["verdict"] == "denied"
