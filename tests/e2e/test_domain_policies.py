# SPDX-License-Identifier: Apache-2.0
"""Rules by domain name on real traffic: real resolvers, a real client, a real agent."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.e2e.agents import Agent, environment, value
from tests.e2e.conftest import MakeAgent
from tests.e2e.dns_servers import dig, dnsmasq, unbound
from tests.e2e.forged_dns import CLIENT_PORT, ask_without_answer, forge_answer
from tests.e2e.pods import Node, Pod, pod_socket, sysctl
from tests.e2e.policy_world import (
    OUTSIDE,
    Static,
    begun,
    by,
    configuration,
    converse,
    events,
    eventually,
    outside,
    records,
    wait_for,
)

pytestmark = pytest.mark.slow

API, SHORT, OTHER = OUTSIDE
PORT, SECONDS = 443, 60.0
POLICY = """
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: payments}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  egress:
  - action: Accept
    to: [{networks: [10.99.0.0/16]}]
    protocols: [{udp: {destinationPort: {number: 53}}}, {tcp: {destinationPort: {number: 53}}}]
  - {action: Accept, to: [{domainNames: ["*.stripe.com"]}]}
  - {action: Deny, to: [{networks: [0.0.0.0/0]}]}
"""
RULE = "ClusterNetworkPolicy/payments egress[1]"
# What the trusted resolver says, and what a pod's own one says.
TRUSTED = {"api.stripe.com": (API, 300), "short.stripe.com": (SHORT, 1)}
ROGUE = {"api.stripe.com": (OTHER, 300)}


class Stage(NamedTuple):
    web: Pod
    world: Pod
    trusted: Pod
    rogue: Pod
    agent: Agent
    events: Path
    flows: Path

    def connect(self, address: str) -> None:
        converse(self.web, self.world, PORT, (address, PORT))

    def counted(self, **verdicts: int) -> None:
        """Wait until the connections to PORT are these, by verdict."""
        eventually(self.agent, begun(namespace="shop", port=str(PORT)), verdicts)


@pytest.fixture
def longest_ttl() -> str:
    return "1d"


@pytest.fixture
def stage(node: Node, make_agent: MakeAgent, tmp_path: Path, longest_ttl: str) -> Iterator[Stage]:
    web, trusted, rogue = (node.routed_pod(n, i) for n, i in (("web", 5), ("dns", 6), ("rogue", 7)))
    policy, config = tmp_path / "policy.yaml", tmp_path / "podtally.yaml"
    policy.write_text(POLICY)
    flags = configuration(config, {web.netns: Static("shop", "web", {})})
    written = yaml.safe_load(config.read_text())
    written |= {"resolvers": [trusted.ipv4], "longest_ttl": longest_ttl}
    config.write_text(yaml.safe_dump(written))
    logs = tmp_path / "events", tmp_path / "flows"
    agent = make_agent(
        *flags,
        *("--policies", str(policy), "--events", str(logs[0]), "--events-interval", "0.3"),
        *("--flow-log", str(logs[1])),
    )
    world = outside(node)
    with unbound(trusted, tmp_path, TRUSTED), dnsmasq(rogue, ROGUE):
        agent.start()
        agent.wait_ready()
        yield Stage(web, world, trusted, rogue, agent, *logs)


def test_only_what_the_pod_asked_a_trusted_resolver_for_is_allowed(stage: Stage) -> None:
    stage.connect(API)  # before it asks
    stage.counted(denied=1)
    assert dig(stage.web, stage.rogue.ipv4, "api.stripe.com") == [OTHER]
    stage.connect(OTHER)
    stage.counted(denied=2)
    named = wait_for(lambda: events(stage.events), lambda e: e.peer.address == OTHER)
    assert named.event == "denied"
    assert dig(stage.web, stage.trusted.ipv4, "ApI.StRiPe.CoM") == [API]
    stage.connect(API)
    stage.counted(denied=2, allowed=1)
    assert dig(stage.web, stage.trusted.ipv4, "short.stripe.com", "+tcp") == [SHORT]
    stage.connect(SHORT)
    stage.counted(denied=2, allowed=2)
    flow = wait_for(
        lambda: records(stage.flows), lambda f: (f.peer.address, f.verdict) == (API, "allowed")
    )
    assert flow.reason.startswith(f"{RULE}: api.stripe.com, queried ")
    assert flow.reason.endswith(", TTL 300")
    explained = _explain(stage.agent, "api.stripe.com")
    assert (explained["to"], explained["verdict"]) == (API, "allowed")
    assert "by a resolver that is not trusted" in json.dumps(_explain(stage.agent, OTHER)["steps"])
    assert "Traceback" not in stage.agent.said()


def test_an_expired_answer_is_allowed_and_reported_with_the_strict_verdict(stage: Stage) -> None:
    assert dig(stage.web, stage.trusted.ipv4, "short.stripe.com") == [SHORT]
    time.sleep(1.5)  # until its TTL has ended
    stage.connect(SHORT)
    stage.counted(allowed=1)
    eventually(
        stage.agent,
        lambda samples: by("policy", samples, "podtally_policy_expired_names_total"),
        {"ClusterNetworkPolicy/payments": 1},
    )
    event = wait_for(lambda: events(stage.events), lambda e: e.event == "expired")
    assert event.peer.address == SHORT
    assert event.reason == (
        f"{RULE}: the answer for short.stripe.com had expired; denied where the TTLs of DNS "
        "answers are enforced"
    )
    flow = wait_for(lambda: records(stage.flows), lambda f: f.peer.address == SHORT)
    assert (flow.verdict, flow.strict) == ("allowed", "denied")
    assert "TTL 1, expired " in flow.reason


def test_names_outlive_the_agent_and_are_learned_while_it_is_away(stage: Stage) -> None:
    assert dig(stage.web, stage.trusted.ipv4, "api.stripe.com") == [API]
    stage.connect(API)
    stage.counted(allowed=1)
    stage.agent.kill()
    assert dig(stage.web, stage.trusted.ipv4, "short.stripe.com") == [SHORT]
    stage.connect(SHORT)
    stage.connect(OTHER)
    stage.agent.start()
    stage.agent.wait_ready()
    stage.connect(API)
    stage.counted(allowed=3, denied=1)


@pytest.mark.parametrize("longest_ttl", ["10s"])
def test_lost_messages_are_a_doubt_for_the_longest_ttl(stage: Stage) -> None:
    stage.connect(OTHER)
    stage.counted(denied=1)
    flood_until_lost(stage)
    assert "DNS messages were lost" in _explain(stage.agent, OTHER)["reason"]
    stage.connect(OTHER)
    stage.counted(denied=1, unknown=1)
    wait_for(lambda: [_explain(stage.agent, OTHER)["verdict"]], lambda said: said == "denied")
    stage.connect(OTHER)
    stage.counted(denied=2, unknown=1)
    stage.agent.kill()
    stage.agent.start()
    stage.agent.wait_ready()
    stage.connect(OTHER)
    stage.counted(denied=3, unknown=1)


def flood_until_lost(stage: Stage) -> None:
    end = time.monotonic() + SECONDS
    while not value(stage.agent.samples(), "podtally_dns_messages_total", kind="lost"):
        assert time.monotonic() < end
        with pod_socket(stage.web, socket.AF_INET, socket.SOCK_DGRAM) as flooding:
            for _ in range(5000):
                flooding.sendto(bytes(1400), (stage.trusted.ipv4, 53))


def _explain(agent: Agent, to: str) -> dict[str, str]:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "podtally", "explain", "shop/web", to, str(PORT)),
            *("--listen", agent.places.url.removeprefix("http://"), "-o", "json"),
        ],
        capture_output=True,
        text=True,
        env=environment(agent.sources),
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("forger", ["itself", "another pod"])
def test_forged_answers_allow_nothing(stage: Stage, node: Node, forger: str) -> None:
    """A pod with raw sockets, on a host that does not filter sources, names an address."""
    other = node.routed_pod("friend", 8)
    for link in ("all", stage.web.link, other.link):
        sysctl(f"ipv4/conf/{link}/rp_filter", 0)
    ask_without_answer(stage.web, stage.trusted.ipv4, "api.stripe.com")
    sender = stage.web if forger == "itself" else other
    with received(stage.web) as arrived:
        forge_answer(sender, stage.web, stage.trusted.ipv4, "api.stripe.com", OTHER)
        arrived()
    stage.connect(OTHER)
    stage.counted(denied=1)
    # The resolver's own answers count as before.
    assert dig(stage.web, stage.trusted.ipv4, "api.stripe.com") == [API]
    stage.connect(API)
    stage.counted(denied=1, allowed=1)


@contextmanager
def received(pod: Pod) -> Iterator[Callable[[], None]]:
    """A function that waits until a datagram has reached the forged answer's port."""
    with pod_socket(pod, socket.AF_INET, socket.SOCK_DGRAM) as waiting:
        waiting.bind(("", CLIENT_PORT))
        waiting.settimeout(30)

        def wait() -> None:
            assert waiting.recv(4096)

        yield wait
