# SPDX-License-Identifier: Apache-2.0
"""Reasons of many connections: those of the plain form, searched for once, and within a budget."""

import random
from collections import Counter

import numpy as np
import pytest

from bench.differential import asked, connections
from bench.policy_worlds import Maker
from podtally.policy.explain.near_miss import NearMiss
from podtally.policy.explain.reasons import direction_reason
from podtally.policy.model import ALLOW, TCP, Network, Policy, PolicyPort, Rule
from podtally.policy.reference.engine import Engine
from podtally.policy.reference.matching import in_network
from podtally.policy.vector import reasons
from podtally.policy.vector.evaluator import ADDRESS_INDEX, Evaluator, PackedConnections
from podtally.policy.vector.reasons import AddressClasses, PortClasses, ReasonBudget
from tests.unit.policy.policy_support import block, ip, network, pod, policy, rules

WORLDS, PROBES = 150, 40
WEB = pod("shop/web", "10.99.0.1")


@pytest.mark.slow
def test_reasons_are_those_of_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    result: Counter[str] = Counter()
    for plain in (0, 1 << 20):  # by arrays, and without
        monkeypatch.setattr(reasons, "_MAX_PLAIN_RULES", plain)
        for seed in range(WORLDS):
            maker = Maker(seed)
            world = maker.world()
            probes = [maker.probe(world.endpoints) for _ in range(PROBES)]
            judge = Evaluator(world.policies, world.endpoints, world.by_service)
            given = connections(probes)
            words = judge.reasons(given, judge.judge(given).outcome)
            engine = Engine(world.policies)
            for probe, got in zip(probes, words, strict=True):
                ask = asked(probe, world)
                side = engine.direction_verdict(ask)
                assert got == direction_reason(side, ask), (seed, probe)
                result[side.cause] += 1
    assert result["isolated"] > 500


def many(count: int) -> Policy:
    """Many rules, none of which allows anything outside of 10.0.0.0/8."""
    return policy(
        "shop/many",
        egress=rules(
            *(
                Rule(
                    0, ALLOW, (block(f"10.{i >> 8}.{i & 255}.0/24"),), (PolicyPort(TCP, 443, 443),)
                )
                for i in range(count)
            )
        ),
    )


def denied(addresses: list[str], port: int = 443) -> PackedConnections:
    count, ips = len(addresses), [ip(text) for text in addresses]
    return PackedConnections(
        np.zeros(count, np.int32),
        np.full(count, ADDRESS_INDEX, np.int32),
        np.array([address >> 64 for address in ips], np.uint64),
        np.array([address & (1 << 64) - 1 for address in ips], np.uint64),
        np.full(count, TCP, np.int32),
        np.full(count, port, np.int32),
        np.ones(count, np.bool_),
    )


def test_connections_that_no_rule_distinguishes_are_searched_for_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searches: list[object] = []
    search = reasons.ReasonWriter._search

    def counted(*given: object) -> NearMiss | None:
        searches.append(given)
        return search(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(reasons.ReasonWriter, "_search", counted)
    judge = Evaluator([many(500)], [WEB])
    for port in (443, 444, 80):
        given = denied([f"203.0.113.{last}" for last in range(200)], port)
        words = judge.reasons(given, judge.judge(given).outcome)
        assert len(set(words)) == 200
        assert words[7].startswith(
            "denied by default: shop/many selects it and no egress rule allows this; nearest shop/many egress[0]: "
            "203.0.113.7 is not in 10.0.0.0/24"
        )
    assert len(searches) == 3  # below, at and above the port of the rules
    given = denied(["10.0.7.1", "10.0.7.2", "10.1.7.1"], 80)
    words = judge.reasons(given, judge.judge(given).outcome)
    assert [text.split("nearest ")[1] for text in words] == [
        "shop/many egress[7]: port 80 is not 443",
        "shop/many egress[7]: port 80 is not 443",
        "shop/many egress[263]: port 80 is not 443",
    ]
    assert len(searches) == 5


def test_beyond_the_budget_a_reason_names_the_policies_only() -> None:
    judge = Evaluator([many(500)], [WEB, pod("shop/db", "10.99.0.2")])
    given = denied([f"203.0.113.{last}" for last in range(100)])
    sides = judge.judge(given).outcome
    budget = ReasonBudget(200, 100)
    words = judge.reasons(given, sides, budget)
    short = words.count("denied by default: shop/many selects it and no egress rule allows this")
    assert 20 < short < 80
    # What one endpoint asks for costs no other anything.
    other = given._replace(local=np.ones(100, np.int32))
    assert "nearest" in judge.reasons(other, judge.judge(other).outcome, budget)[0]
    # What is known costs nothing, and the next epoch has its own.
    assert (
        sum("nearest" in text for text in judge.reasons(given, sides, ReasonBudget(0, 0)))
        == 100 - short
    )
    budget.begin()
    assert sum("nearest" in text for text in judge.reasons(given, sides, budget)) > 100 - short


def test_a_first_search_may_cost_more_than_an_endpoints_share() -> None:
    budget = ReasonBudget(100, 10)
    assert budget.take(1, 50)
    assert not budget.take(1, 1)
    assert budget.take(2, 50)
    assert not budget.take(3, 1)


def test_reasons_follow_labels_and_policies() -> None:
    by_label = policy("shop/p", ingress=rules(Rule(0, ALLOW, ())))
    judge = Evaluator([by_label], [WEB])
    given = denied(["203.0.113.1"])._replace(is_egress=np.zeros(1, np.bool_))
    assert "it has no peers" in judge.reasons(given, judge.judge(given).outcome)[0]
    judge.set_endpoint(0, WEB._replace(name="other"))
    judge.set_policies([by_label._replace(name="q")])
    assert (
        "denied by default: shop/q selects it"
        in judge.reasons(given, judge.judge(given).outcome)[0]
    )


def test_address_classes_are_the_networks_around_an_address() -> None:
    chance = random.Random(4)
    for _ in range(200):
        given = [_network(chance) for _ in range(chance.randint(0, 12))]
        classes = AddressClasses(given)
        seen: dict[int, frozenset[Network]] = {}
        for _ in range(60):
            address = _network(chance).first | chance.randrange(1, 4)
            inside = frozenset(each for each in given if in_network(each, address))
            assert seen.setdefault(classes.of(address), inside) == inside
        assert len(set(seen.values())) == len(seen)


def _network(chance: random.Random) -> Network:
    if chance.random() < 0.5:
        bits = chance.choice((0, 8, 24, 28, 30, 32))
        first = chance.randrange(64) << chance.choice((0, 0, 24))
        return (
            network(f"{first >> 24}.0.0.{first & 255}/{bits}")
            if bits == 32
            else Network(
                0xFFFF << 32 | first >> 32 - bits << 32 - bits if bits else 0xFFFF << 32, 96 + bits
            )
        )
    bits = chance.choice((0, 32, 120, 126, 128))
    first = 0x20010DB8 << 96 | chance.randrange(64)
    return Network(first >> 128 - bits << 128 - bits if bits else 0, bits)


def test_port_classes_are_the_stretches_between_bounds() -> None:
    classes = PortClasses([PolicyPort(TCP, 80, 90), PolicyPort(TCP, 85, 85)])
    numbers = [classes.of(port) for port in (0, 1, 79, 80, 84, 85, 86, 90, 91, 65535)]
    assert numbers[1] == numbers[2]
    assert numbers[3] == numbers[4]
    assert numbers[6] == numbers[7]
    assert numbers[8] == numbers[9]
    assert len(set(numbers)) == 6
