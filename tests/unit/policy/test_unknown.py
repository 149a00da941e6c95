# SPDX-License-Identifier: Apache-2.0
"""What is not known: a verdict that does not depend on it holds in any case."""

from collections import Counter

import pytest

from bench.differential import asked
from bench.policy_worlds import Maker, Probe, World
from podtally.policy.model import (
    ALLOW,
    ANY_PROTOCOL,
    DENY,
    EVERYTHING,
    LAST_PORT,
    SCTP,
    TCP,
    UDP,
    UNIDENTIFIED,
    NamedPort,
    PodSubject,
    Policy,
    PolicyEndpoint,
    PolicyPort,
    Question,
    Rule,
)
from podtally.policy.reference import engine
from podtally.policy.reference.engine import Engine
from podtally.policy.reference.matching import HAVE_PORTS
from podtally.policy.vector.evaluator import ADDRESS_INDEX, UNKNOWN_INDEX
from tests.unit.policy.policy_support import ask, pod, policy, rules

WEB, DB = pod("shop/web", "10.99.0.1"), pod("shop/db", "10.99.0.2")
# Of each number that the worlds use the neighbours too: between them no rule tells ports apart.
PORTS = (1, 2, 52, 53, 54, 79, 80, 81, 82, 8079, 8080, 8081, LAST_PORT - 1, LAST_PORT)
WORLDS, PROBES = 400, 20


def allows(*ports: PolicyPort) -> Policy:
    return policy("shop/p", ingress=rules(Rule(0, ALLOW, None, ports)))


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        (PolicyPort(TCP), "allowed"),
        (PolicyPort(TCP, 1, LAST_PORT), "allowed"),
        (PolicyPort(TCP, 2, LAST_PORT), "unknown"),
        (PolicyPort(TCP, 1, LAST_PORT - 1), "unknown"),
        (PolicyPort(TCP, 80, 80), "unknown"),
        (PolicyPort(UDP), "denied"),
        (PolicyPort(SCTP, 1, 9), "denied"),
        (PolicyPort(TCP, name="sql"), "unknown"),
        (PolicyPort(ANY_PROTOCOL, name="sql"), "unknown"),
        (PolicyPort(UDP, name="sql"), "denied"),
        (PolicyPort(TCP, name="dns"), "denied"),
        (PolicyPort(ANY_PROTOCOL, name="none"), "denied"),
    ],
)
def test_a_port_that_is_not_known_is_one_of_all(port: PolicyPort, expected: str) -> None:
    db = DB._replace(ports=(NamedPort("sql", TCP, 3306), NamedPort("dns", UDP, 53)))
    assert Engine([allows(port)]).judge(ask(WEB, db, 0)).ingress.verdict == expected


def test_names_of_ports_that_are_not_known_leave_it_open() -> None:
    named = Engine([allows(PolicyPort(TCP, name="sql"))])
    assert named.judge(ask(WEB, DB._replace(ports=None), 0)).verdict == "unknown"
    nobody = Question(WEB, PolicyEndpoint(UNIDENTIFIED), TCP, 0, WEB.ips[0], 0)
    egress = policy("shop/q", egress=rules(Rule(0, ALLOW, None, (PolicyPort(TCP, name="sql"),))))
    assert Engine([egress]).judge(nobody).egress.cause == engine.DOUBT


def test_nothing_denies_for_certain_an_unknown_peer() -> None:
    """It may be the pod itself or its own node, which pass whatever a tier says."""
    deny = policy(
        "p",
        kind="ClusterNetworkPolicy",
        subject=PodSubject(EVERYTHING),
        ingress=rules(Rule(0, DENY)),
        tier=0,
    )
    question = Question(PolicyEndpoint(UNIDENTIFIED), DB, TCP, 80, 0, DB.ips[0])
    side = Engine([deny]).judge(question).ingress
    assert (side.verdict, side.cause) == ("unknown", engine.UNKNOWN_END)
    assert Engine([deny]).judge(ask(WEB, DB)).verdict == "denied"
    allow = deny._replace(ingress=rules(Rule(0, ALLOW)))
    assert Engine([allow]).judge(question).ingress.verdict == "allowed"


def test_what_is_decided_without_the_port_is_so_for_every_port() -> None:
    decided: Counter[str] = Counter()
    for seed in range(WORLDS):
        maker = Maker(seed)
        world = maker.world()
        engine_ = Engine(world.policies)
        for _ in range(PROBES):
            probe = maker.probe(world.endpoints)
            if probe.protocol not in HAVE_PORTS:
                continue
            open_ = engine_.direction_verdict(asked(probe._replace(port=0), world)).verdict
            decided[open_] += 1
            if open_ == "unknown":
                continue
            each = {
                engine_.direction_verdict(asked(probe._replace(port=p), world)).verdict
                for p in PORTS
            }
            assert each == {open_}, (seed, probe)
    assert min(decided[verdict] for verdict in ("allowed", "denied", "undeclared")) > 100


def _of(engine_: Engine, world: World, probe: Probe) -> str:
    return engine_.direction_verdict(asked(probe, world)).verdict


def test_what_is_decided_without_the_peer_is_so_for_every_peer() -> None:
    decided: Counter[str] = Counter()
    for seed in range(WORLDS):
        maker = Maker(seed)
        world = maker.world()
        engine_ = Engine(world.policies)
        for _ in range(PROBES):
            probe = maker.probe(world.endpoints)._replace(peer=UNKNOWN_INDEX, ip=0)
            open_ = engine_.direction_verdict(asked(probe, world)).verdict
            decided[open_] += 1
            if open_ in ("allowed", "denied"):
                ends = [(number, ip) for number, p in enumerate(world.endpoints) for ip in p.ips]
                ends.append((ADDRESS_INDEX, maker.probe(world.endpoints).ip or 1))
                # A peer of whom less is known may leave open what is decided here.
                each = {_of(engine_, world, probe._replace(peer=n, ip=ip)) for n, ip in ends}
                assert each <= {open_, "unknown"}, (seed, probe)
    assert decided["allowed"] > 100
