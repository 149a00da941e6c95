# SPDX-License-Identifier: Apache-2.0
"""Policies of files, judged by the real agent on real connections; edited, and tried as candidates."""

import random
import time
from functools import partial
from pathlib import Path

import pytest

from podtally.export.event_log import EventRecord
from podtally.export.flow_log import FlowRecord
from tests.e2e.agents import Agent, Samples, Scraper, assert_books_close, booked, value
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Counters, Node, counters
from tests.e2e.policy_world import (
    DENIED,
    FLOWS,
    OUTSIDE,
    SIZE,
    TIMES,
    Static,
    Talk,
    begun,
    configuration,
    converse,
    events,
    eventually,
    outside,
    records,
    series_of,
    talk,
    until_verdict,
    verdicts,
    wait_for,
    write,
)
from tests.pressure import Stopwatch

EVENT_SECONDS = 2.0  # from a connection to its line, with epochs of a second
DIRECTIONS = ("egress", "ingress")

FRONTEND = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: allow-frontend, namespace: shop}}
spec:
  podSelector: {{matchLabels: {{app: frontend}}}}
  ingress: [{{from: [{{podSelector: {{matchLabels: {{role: {role}}}}}}}]}}]
"""
OUT = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out, namespace: data}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress:
  - to: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.10/32]}}]
    ports: [{protocol: TCP, port: 3306}]
"""
PODS = {
    "frontend": Static("shop", "frontend", {"app": "frontend"}),
    "user": Static("shop", "user", {"role": "user"}),
    "stray": Static("shop", "stray", {"role": "stray"}),
    "loader": Static("data", "loader", {}),
}


@pytest.fixture
def shop(node: Node) -> Node:
    for number, name in enumerate(PODS, 5):
        node.routed_pod(name, number)
    return node


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    folder = tmp_path / "policies"
    folder.mkdir()
    write(folder / "frontend.yaml", FRONTEND.format(role="user"))
    write(folder / "out.yaml", OUT)
    return folder


@pytest.fixture
def flags(shop: Node, policies: Path, tmp_path: Path) -> tuple[str, ...]:
    pods = {shop.pods[name].netns: each for name, each in PODS.items()}
    return (
        *configuration(tmp_path / "podtally.yaml", pods),
        *("--policies", str(policies)),
        *("--events", str(tmp_path / "events"), "--flow-log", str(tmp_path / "flows")),
    )


def running(make_agent: MakeAgent, *flags: str) -> Agent:
    agent = make_agent(*flags)
    agent.start()
    agent.wait_ready()
    return agent


def assert_sums(samples: Samples, pods: Node) -> None:
    """Flows of all verdicts are the interface's flows, and the pod has all of its books."""
    books = booked(samples)
    for name, static in PODS.items():
        link = pods.pods[name].link
        for direction in DIRECTIONS:
            who = {"namespace": static.namespace, "direction": direction}
            flows = sum(verdicts(samples, FLOWS, workload=name, **who).values())
            place = {"interface": link, "direction": direction}
            assert flows == value(
                samples, "podtally_books_bytes_total", account="flows", **place
            ), (name, direction)
            assert (
                value(samples, "podtally_pod_bytes_total", pod=name, **who)
                == (books[link, direction])
            ), (name, direction)


def test_both_ends_have_the_verdict_and_the_end_that_denies_is_reported(
    shop: Node, flags: tuple[str, ...], make_agent: MakeAgent, tmp_path: Path
) -> None:
    world, pods = outside(shop), shop.pods
    frontend, loader = pods["frontend"], pods["loader"]
    opening = counters()
    agent = running(make_agent, *flags)
    with Scraper(agent.places.url).running() as scraper:
        converse(pods["user"], frontend, 80)
        converse(pods["stray"], frontend, 80)
        converse(pods["stray"], pods["user"], 81)
        converse(loader, world, 3306, (OUTSIDE[1], 3306))
        converse(loader, world, 3306, (OUTSIDE[0], 3306))
        converse(loader, frontend, 80)
        shop.quiet(0.5)
        samples = assert_books_close(agent, opening)
    assert scraper.faults == []
    assert_sums(samples, shop)
    for client, server, port, verdict in (
        ("user", "frontend", "80", "allowed"),
        ("stray", "frontend", "80", "denied"),
        ("stray", "user", "81", "undeclared"),
        ("loader", "frontend", "80", "denied"),
    ):
        ours = {"workload": client, "peer_workload": server, "port": port}
        theirs = {"workload": server, "peer_workload": client, "port": port}
        assert verdicts(samples, **ours, direction="egress") == {verdict: 1}
        assert verdicts(samples, **theirs, direction="ingress") == {verdict: 1}
        assert verdicts(samples, FLOWS, **ours).keys() == {verdict}
        assert verdicts(samples, FLOWS, **theirs).keys() == {verdict}
    out = {"workload": "loader", "peer_kind": "external", "port": "3306"}
    assert verdicts(samples, **out) == {"allowed": 1, "denied": 1}
    assert denials(samples) == {
        ("frontend", "ingress", "stray", "80", "shop/allow-frontend"): 1,
        ("frontend", "ingress", "loader", "80", "shop/allow-frontend"): 1,
        ("loader", "egress", "frontend", "80", "data/out"): 1,
        ("loader", "egress", "", "3306", "data/out"): 1,
    }
    lines = records_of(tmp_path / "flows", 2 * 4 + 2)
    reasons = {(r.endpoint.pod, r.peer.address, r.verdict): r.reason for r in lines}
    nearest = "nearest data/out egress[0]: 203.0.113.10"
    assert nearest in reasons["loader", OUTSIDE[0], "denied"]
    assert "data/out egress[0]" in reasons["loader", OUTSIDE[1], "allowed"]
    for here, there, role in (("frontend", "stray", "stray"), ("stray", "frontend", "stray")):
        reason = reasons[here, pods[there].ipv4, "denied"]
        assert (
            "denied by default: shop/allow-frontend selects it and no ingress rule allows this; nearest"
            in reason
        )
        assert f"role={role}, not role=user" in reason
    assert reasons["user", pods["frontend"].ipv4, "allowed"] == "shop/allow-frontend ingress[0]"


def test_an_event_is_reported_within_two_seconds(
    shop: Node, flags: tuple[str, ...], make_agent: MakeAgent, tmp_path: Path
) -> None:
    """With epochs of a second, at any instant of one."""
    chance, took = random.Random(23), list[float]()
    agent = running(make_agent, *flags, "--epoch", "1")
    for port in range(8001, 8009):
        time.sleep(chance.uniform(0.2, 1.2))
        watch = Stopwatch()
        converse(shop.pods["stray"], shop.pods["frontend"], port)
        line = wait_for(partial(events, tmp_path / "events"), partial(is_denied, port))
        took.append(watch.unhindered())
        assert (line.direction, line.policy) == ("ingress", "shop/allow-frontend")
        assert (line.endpoint.pod, line.peer.name) == ("frontend", "stray")
        assert line.peer.address == shop.pods["stray"].ipv4
        assert "role=stray, not role=user" in line.reason
        assert (line.connections, line.new_connections) == (1, 1)
        eventually(agent, partial(is_counted, port), True)
    print(f"events after {[round(each, 2) for each in sorted(took)]} s")
    assert max(took) <= EVENT_SECONDS


def is_counted(port: int, samples: Samples) -> bool:
    return any(("port", str(port)) in labels for labels in series_of(samples, DENIED))


def is_denied(port: int, line: EventRecord) -> bool:
    return (line.event, line.port) == ("denied", port)


def denials(samples: Samples) -> dict[tuple[str, ...], int]:
    names = ("workload", "direction", "peer_workload", "port", "policy")
    return {
        tuple(dict(labels)[name] for name in names): count
        for labels, count in series_of(samples, DENIED).items()
    }


def records_of(path: Path, count: int) -> list[FlowRecord]:
    """All that are there, once there are enough."""
    wait_for(lambda: [len(records(path))], lambda found: found >= count)
    return records(path)


def test_a_policy_edited_under_an_open_connection(
    shop: Node, flags: tuple[str, ...], policies: Path, make_agent: MakeAgent
) -> None:
    """What came before stays as it was judged, what comes after is judged by the new one."""
    pods, opening = shop.pods, counters()
    stray = {"workload": "frontend", "peer_workload": "stray", "port": "80"}
    agent = running(make_agent, *flags)

    def flows(samples: Samples) -> dict[str, int]:
        return verdicts(samples, FLOWS, **stray)

    with Scraper(agent.places.url, 0.05).running() as scraper:
        with talk(pods["stray"], pods["frontend"], 80) as open_:
            before = said(agent, shop, open_, opening)
            assert flows(before).keys() == {"denied"}
            for role, verdict in (("stray", "allowed"), ("user", "denied"), ("stray", "allowed")):
                write(policies / "frontend.yaml", FRONTEND.format(role=role))
                wait_for_policy(agent, shop, verdict)
                was = flows(agent.samples())
                assert was == flows(before)
                before = said(agent, shop, open_, opening)
                other = {"denied": "allowed", "allowed": "denied"}[verdict]
                assert flows(before).get(other) == was.get(other)
                assert flows(before)[verdict] > was.get(verdict, 0) + 2 * TIMES * SIZE
        shop.quiet(0.5)
        samples = assert_books_close(agent, opening)
    assert scraper.faults == []
    assert scraper.scrapes > 20
    assert_sums(samples, shop)
    assert verdicts(samples, **stray) == {"denied": 1}  # it opened once
    newly = {port: count for (_, _, _, port, _), count in denials(samples).items()}
    assert newly["80"] == 2  # denied from its beginning, and once more from the second edit on


def said(agent: Agent, node: Node, open_: Talk, opening: Counters) -> Samples:
    """Let an open connection say something; the metrics when all of it is booked."""
    open_.exchange()
    node.quiet(0.3)
    return assert_books_close(agent, opening)


def wait_for_policy(agent: Agent, node: Node, verdict: str, port: int = 81) -> None:
    """Until connections of a stray's to another port are judged so."""
    stray, frontend = node.pods["stray"], node.pods["frontend"]
    look = begun(workload="frontend", peer_workload="stray", port=str(port))
    took = until_verdict(agent, lambda: converse(stray, frontend, port), look, verdict)
    print(f"{verdict} after {took:.2f} s")


def test_candidates_report_what_they_would_change(
    shop: Node, flags: tuple[str, ...], make_agent: MakeAgent, tmp_path: Path
) -> None:
    """One in the place of its live namesake, which would let in strays, not users; one beside."""
    world, pods, candidate = outside(shop), shop.pods, tmp_path / "next.yaml"
    lock = OUT.replace("name: out", "name: lock").replace("namespace: data", "namespace: shop")
    lock = lock.replace("podSelector: {}", "podSelector: {matchLabels: {role: user}}")
    candidate.write_text(f"{FRONTEND.format(role='stray')}---{lock}")
    agent = running(make_agent, *flags, "--candidate", str(candidate))
    opening = counters()
    with Scraper(agent.places.url).running() as scraper:
        converse(pods["user"], pods["frontend"], 80)
        converse(pods["stray"], pods["frontend"], 80)
        converse(pods["user"], world, 443, (OUTSIDE[0], 443))
        converse(pods["loader"], world, 3306, (OUTSIDE[1], 3306))
        shop.quiet(0.5)
        samples = assert_books_close(agent, opening)
        assert would(samples) == {
            ("frontend", "ingress", "user", "allowed", "denied", "shop/allow-frontend"): 1,
            ("frontend", "ingress", "stray", "denied", "allowed", ""): 1,
            ("user", "egress", "frontend", "allowed", "denied", "shop/lock"): 1,
            ("user", "egress", "", "undeclared", "denied", "shop/lock"): 1,
        }
        changed = {("candidate", "denied"), ("workload", "user"), ("peer_kind", "external")}
        moved = sum(
            count
            for labels, count in series_of(samples, "podtally_candidate_bytes_total").items()
            if changed <= set(labels)
        )
        out = {"workload": "user", "peer_kind": "external"}
        assert verdicts(samples, FLOWS, **out) == {"undeclared": moved}
        assert value(samples, "podtally_candidate_policies") == 2
        # The live verdicts are as if there were no candidates.
        assert denials(samples).keys() == {
            ("frontend", "ingress", "stray", "80", "shop/allow-frontend")
        }
        candidate.write_text("")
        eventually(agent, lambda found: value(found, "podtally_candidate_policies"), 0)
        converse(pods["user"], pods["frontend"], 80)
        eventually(agent, begun(workload="user", peer_kind="pod"), {"allowed": 2})
        assert sum(would(agent.samples()).values()) == 4
    assert scraper.faults == []


def would(samples: Samples) -> dict[tuple[str, ...], int]:
    """Connections that candidates would judge otherwise."""
    names = ("workload", "direction", "peer_workload", "verdict", "candidate", "policy")
    return {
        tuple(dict(labels)[name] for name in names): count
        for labels, count in series_of(samples, "podtally_candidate_connections_total").items()
    }
