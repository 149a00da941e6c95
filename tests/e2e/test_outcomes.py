# SPDX-License-Identifier: Apache-2.0
"""What became of real connections, across a kill of the agent, and whether policy was enforced."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.agents import Agent, Samples
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Node, Pod, pod_socket
from tests.e2e.policy_world import (
    Static,
    by,
    configuration,
    converse,
    events,
    eventually,
    records,
    wait_for,
    write,
)
from tests.kernel.links_support import inside

OUTCOMES, ENFORCEMENT = "podtally_connection_outcomes_total", "podtally_policy_enforcement_total"
CLOSED, DROPPED, OPEN, DENIED = 81, 82, 80, 83
PODS = {"web": Static("shop", "web", {"app": "web"}), "db": Static("shop", "db", {"app": "db"})}
POLICY = f"""
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: db, namespace: shop}}
spec:
  podSelector: {{matchLabels: {{app: db}}}}
  ingress: [{{ports: [{{port: {OPEN}}}, {{port: {CLOSED}}}, {{port: {DROPPED}}}]}}]
"""


@pytest.fixture
def shop(node: Node, tmp_path: Path) -> tuple[Node, tuple[str, ...]]:
    for number, name in enumerate(PODS, 5):
        node.routed_pod(name, number)
    pods = {node.pods[name].netns: each for name, each in PODS.items()}
    policy = tmp_path / "policy.yaml"
    write(policy, POLICY)
    return (
        node,
        (
            *configuration(tmp_path / "podtally.yaml", pods),
            *("--policies", str(policy), "--events", str(tmp_path / "events")),
            *("--flow-log", str(tmp_path / "flows")),
        ),
    )


def drop(pod: Pod, port: int) -> None:
    """Drop what comes to a port of a pod, in its own namespace, which ends with the test."""
    rules = (
        "add table inet t; add chain inet t c { type filter hook input priority 0; }; "
        f"add rule inet t c tcp dport {port} drop"
    )
    with inside(pod.netns):
        subprocess.run(["nft", rules], check=True)


def attempt(client: Pod, server: Pod, port: int) -> None:
    with pod_socket(client, socket.AF_INET, socket.SOCK_STREAM) as asking:
        asking.settimeout(1.5)
        assert asking.connect_ex((server.ipv4, port))


def egress(samples: Samples) -> dict[str, int]:
    return by("outcome", samples, OUTCOMES, direction="egress", workload="web")


def running(make_agent: MakeAgent, *flags: str) -> Agent:
    agent = make_agent(*flags)
    agent.start()
    agent.wait_ready()
    return agent


def test_outcomes_across_a_kill(
    shop: tuple[Node, tuple[str, ...]], make_agent: MakeAgent, tmp_path: Path
) -> None:
    (node, flags), flow_log = shop, tmp_path / "flows"
    web, db = node.pods["web"], node.pods["db"]
    agent = running(make_agent, *flags)
    drop(db, DROPPED)
    attempt(web, db, CLOSED)
    attempt(web, db, DROPPED)
    agent.kill()
    converse(web, db, OPEN)
    agent = running(make_agent, *flags)
    eventually(agent, egress, {"established": 1, "refused": 1, "unanswered": 1})
    closed = wait_for(lambda: records(flow_log), lambda each: each.outcome == "established")
    assert (closed.ending, closed.retries) == ("closed", 0)
    assert closed.answer_seconds is not None
    assert 0 < closed.answer_seconds < 60
    silent = wait_for(
        lambda: [each for each in records(flow_log) if each.peer.port == CLOSED],
        lambda each: each.direction == "egress",
    )
    assert (silent.outcome, silent.ending) == ("refused", "")


def test_a_policy_that_is_not_enforced_is_found(
    shop: tuple[Node, tuple[str, ...]], make_agent: MakeAgent, tmp_path: Path
) -> None:
    node, flags = shop
    agent = running(make_agent, *flags)
    converse(node.pods["web"], node.pods["db"], OPEN)
    converse(node.pods["web"], node.pods["db"], DENIED)

    def results(samples: Samples) -> dict[str, int]:
        return by("result", samples, ENFORCEMENT, workload="db")

    eventually(agent, results, {"passed": 1, "not_enforced": 1})
    found = wait_for(lambda: events(tmp_path / "events"), lambda each: each.event == "not_enforced")
    assert (found.policy, found.port, found.direction) == ("shop/db", DENIED, "ingress")
    listen = agent.places.url.removeprefix("http://")
    ran = subprocess.run(
        [sys.executable, "-m", "podtally", "audit", "--listen", listen],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1, ran.stderr
    assert "not_enforced shop/db ingress shop/web tcp 83 denied 1" in " ".join(ran.stdout.split())
