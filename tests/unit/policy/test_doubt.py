# SPDX-License-Identifier: Apache-2.0
"""What is in doubt counts only where it matters, and what is decided stands in any case."""

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from bench.differential import asked
from bench.policy_worlds import NOW, Maker, Probe, World
from podtally.dns.known_names import Answered
from podtally.policy.model import (
    ALLOW,
    DENY,
    EVERYTHING,
    NETWORK_TIER,
    PASS,
    DirectionVerdict,
    DomainPeer,
    Peer,
    PodSubject,
    Policy,
    Rule,
)
from podtally.policy.reference import engine
from podtally.policy.reference.engine import Engine
from tests.unit.policy.policy_support import ask, block, labelled, outside, pod, policy, rules

WEB, DB = pod("shop/web", "10.99.0.1"), pod("shop/db", "10.99.0.2")
NAME = DomainPeer(("a.example.com",))
ALL_V4 = block("0.0.0.0/0")
UNREADABLE = "it is broken"
WORLDS, PROBES, TURNS = 300, 12, 6


def admin(*written: Rule, tier: int = 0, name: str = "p", priority: int = 0) -> Policy:
    whole = PodSubject(EVERYTHING, EVERYTHING)
    kind = "ClusterNetworkPolicy"
    return Policy(kind, "", name, whole, None, rules(*written), tier, priority)


def egress(*policies: Policy) -> DirectionVerdict:
    return Engine(policies).judge(ask(WEB, outside(), 443)).egress


CLOSED = policy("shop/closed", egress=())
OPEN = policy("shop/open", egress=(Rule(0, ALLOW),))
BROKEN = policy("shop/broken", unreadable=UNREADABLE)
BASE_DENY = admin(Rule(0, DENY, (ALL_V4,)), tier=2)


@pytest.mark.parametrize(
    ("policies", "verdict", "cause"),
    [
        ([admin(Rule(0, DENY, (NAME,)), Rule(0, DENY, (ALL_V4,)))], "denied", engine.RULE),
        ([admin(Rule(0, DENY, (NAME,)), Rule(0, ALLOW, (ALL_V4,)))], "unknown", engine.DOUBT),
        ([admin(Rule(0, DENY, (NAME,))), CLOSED], "denied", engine.ISOLATED),
        ([admin(Rule(0, ALLOW, (NAME,))), OPEN], "allowed", engine.RULE),
        ([admin(Rule(0, PASS, (NAME,)), Rule(0, ALLOW, (ALL_V4,))), OPEN], "allowed", engine.RULE),
        ([admin(Rule(0, PASS, (NAME,)), Rule(0, DENY, (ALL_V4,))), OPEN], "unknown", engine.DOUBT),
        ([admin(Rule(0, PASS, (NAME,))), CLOSED], "denied", engine.ISOLATED),
        ([admin(Rule(0, DENY, (NAME,))), BROKEN], "unknown", engine.DOUBT),
        ([BROKEN, OPEN], "allowed", engine.RULE),
        ([BROKEN, CLOSED], "unknown", engine.UNREADABLE),
        ([BROKEN, BASE_DENY], "unknown", engine.UNREADABLE),
        ([BROKEN._replace(untouched="egress")], "undeclared", engine.OPEN),
        ([BROKEN._replace(untouched="ingress")], "unknown", engine.UNREADABLE),
        ([admin(Rule(0, DENY, (NAME,)), tier=2)], "unknown", engine.DOUBT),
    ],
)
def test_a_doubt_counts_where_it_matters(
    policies: Sequence[Policy], verdict: str, cause: str
) -> None:
    side = egress(*policies)
    assert (side.verdict, side.cause) == (verdict, cause)


def test_of_several_doubts_the_one_that_matters_is_named() -> None:
    harmless = admin(Rule(0, DENY, (NAME,)), name="harmless")
    other = policy("shop/q", egress=rules(Rule(0, ALLOW, (NAME,))))
    side = egress(harmless, other)
    assert (side.verdict, side.cause) == ("unknown", engine.DOUBT)
    assert [each.name for each in side.policies] == ["q"]


def test_what_a_policy_may_select_is_judged_either_way() -> None:
    web = WEB._replace(labels=None)
    some = policy("shop/some", subject=PodSubject(None, labelled(a="b")), egress=())
    for policies, expected in (
        ((some, BASE_DENY), "denied"),
        ((some,), "unknown"),
        ((some._replace(egress=(Rule(0, ALLOW),)), admin(Rule(0, ALLOW, (ALL_V4,)), tier=2)),
         "allowed"),
    ):  # fmt: skip
        assert Engine(policies).judge(ask(web, outside(), 443)).egress.verdict == expected


def test_what_is_decided_stands_however_the_doubts_turn_out() -> None:
    """Unknown labels, names of DNS and unreadable policies, each made to mean something."""
    decided: Counter[str] = Counter()
    for seed in range(WORLDS):
        maker, chance = Maker(seed), random.Random(seed)
        world = maker.world()
        probes = [maker.probe(world.endpoints) for _ in range(PROBES)]
        now = [
            Engine(world.policies).direction_verdict(asked(probe, world)).verdict
            for probe in probes
        ]
        decided.update(now)
        for _ in range(TURNS):
            turned = _turned(world, maker, chance)
            engine_ = Engine(turned.policies)
            for probe, before in zip(probes, now, strict=True):
                if before != "unknown":
                    seen = asked(_seen(probe, maker), turned)
                    after = engine_.direction_verdict(seen).verdict
                    # An end of which nothing is known, a port 0, and the like are left as they are.
                    assert after in (before, "unknown"), (seed, probe)
    assert all(decided[verdict] > 100 for verdict in ("allowed", "denied", "undeclared", "unknown"))


def _turned(world: World, maker: Maker, chance: random.Random) -> World:
    """One of the worlds that this one may be."""
    endpoints = [
        endpoint._replace(
            labels=endpoint.labels if endpoint.labels is not None else _labels(chance)
        )
        for endpoint in world.endpoints
    ]
    policies = [_read(each, maker, chance) for each in world.policies]
    return world._replace(
        policies=[_resolved(p, chance) for p in policies if p], endpoints=endpoints
    )


def _labels(chance: random.Random) -> tuple[tuple[str, str], ...]:
    return tuple((key, chance.choice(("x", "y", ""))) for key in "ab" if chance.random() < 0.6)


def _read(given: Policy, maker: Maker, chance: random.Random) -> Policy | None:
    """None: it is not applied at all."""
    if not given.unreadable:
        return given
    if chance.random() < 0.3:
        return None
    action = ALLOW if given.tier == NETWORK_TIER else chance.choice((ALLOW, DENY, PASS))
    written = chance.choice([(), (Rule(0, action),)])
    ingress, egress = (
        None if way == given.untouched or chance.random() < 0.3 else written
        for way in ("ingress", "egress")
    )
    return given._replace(unreadable="", untouched="", ingress=ingress, egress=egress)


def _resolved(given: Policy, chance: random.Random) -> Policy:
    def all_of(written: tuple[Rule, ...] | None) -> tuple[Rule, ...] | None:
        return None if written is None else tuple(_rule(rule, chance) for rule in written)

    return given._replace(ingress=all_of(given.ingress), egress=all_of(given.egress))


def _rule(rule: Rule, chance: random.Random) -> Rule:
    """A name that has no defined meaning means what it does elsewhere, or nothing."""
    if rule.peers is None:
        return rule
    means_nothing = chance.random() < 0.5
    peers: list[Peer] = []
    for peer in rule.peers:
        if not isinstance(peer, DomainPeer) or peer.is_defined:
            peers.append(peer)
        elif not means_nothing:
            peers.append(peer._replace(is_defined=True))
    return rule._replace(peers=tuple(peers))


def _seen(probe: Probe, maker: Maker) -> Probe:
    """All DNS of the endpoint was seen, and there may have been another answer."""
    if not probe.names.missing:
        return probe
    answers, more = probe.names.answers, maker.place(2)
    if more:
        answers = (*answers, Answered(maker.domain_name(), NOW - 1, NOW + 9))
    return probe._replace(names=probe.names._replace(answers=answers, missing=0))
