# SPDX-License-Identifier: Apache-2.0
"""The compiled form: the same sides as the plain engine's, after any change too."""

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import differential
from bench.policy_worlds import Probe
from podtally.policy.model import (
    ADDRESS,
    ALLOW,
    EVERYTHING,
    TCP,
    VERDICTS,
    Block,
    Network,
    PodPeer,
    PodSubject,
    Policy,
    PolicyEndpoint,
    PolicyPort,
    Rule,
)
from podtally.policy.reference import engine
from podtally.policy.reference.matching import in_block
from podtally.policy.vector import evaluator, matching, rule_table
from podtally.policy.vector.addresses import Addresses, BlockRanges, RangeTable
from podtally.policy.vector.cache import MISSING, VerdictCache
from podtally.policy.vector.classes import EndpointClasses
from podtally.policy.vector.evaluator import (
    ADDRESS_INDEX,
    UNKNOWN_INDEX,
    Evaluator,
    PackedConnections,
    combine,
)
from podtally.policy.vector.selectors import MAYBE, NO, YES
from tests.unit.policy.policy_support import ip, labelled, pod, policy, rules

PROBES = int(os.environ.get("PODTALLY_DIFFERENTIAL_PROBES", "40000"))
WEB, DB = pod("shop/web", "10.99.0.1"), pod("shop/db", "10.99.0.2")
FROM_WEB = rules(Rule(0, ALLOW, (PodPeer(None, labelled(app="web")),), (PolicyPort(TCP, 80, 80),)))
CLOSED = policy("shop/closed", ingress=())
OPEN_TO_WEB = policy("shop/web", ingress=FROM_WEB)
TO_DB = Probe(1, 0, WEB.ips[0], TCP, 80, False)


def verdicts(judge: Evaluator, *probes: Probe) -> list[str]:
    judged = judge.judge(differential.connections(list(probes)))
    return [VERDICTS[code] for code in judged.verdict]


def test_both_judge_alike_for_any_question() -> None:
    outcome = differential.run(PROBES)
    assert not outcome.differences, outcome.differences[0]
    assert outcome.strict > 0
    # The worlds are only worth something if they come to everything that there is.
    causes = {cause.partition(": ")[2] for cause in outcome.causes}
    assert causes == {
        engine.RULE, engine.ISOLATED, engine.OPEN, engine.LOOPBACK, engine.OWN_NODE,
        engine.HOST_NETWORK, engine.OUTSIDE, engine.UNKNOWN_END, engine.UNREADABLE,
        engine.DOUBT, engine.SELECTION, engine.SAME_PRIORITY, engine.PROTOCOL,
    }  # fmt: skip


def test_what_is_judged_in_parts_is_judged_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "_PAIRS", 7)
    monkeypatch.setattr(rule_table, "_ROWS", 5)
    outcome = differential.run(3_000, 10_000)
    assert not outcome.differences, outcome.differences[0]


def test_a_changed_party_is_judged_again_at_either_end() -> None:
    judge = Evaluator([OPEN_TO_WEB], [WEB, DB])
    from_db = Probe(0, 1, DB.ips[0], TCP, 80, False)
    assert verdicts(judge, TO_DB, from_db) == ["allowed", "denied"]
    judge.set_endpoint(0, WEB._replace(labels=(("app", "other"),)))
    assert verdicts(judge, TO_DB, from_db) == ["denied", "denied"]
    judge.set_endpoint(0, WEB._replace(namespace="bank"))
    assert verdicts(judge, TO_DB, from_db) == ["denied", "undeclared"]


def test_a_party_that_is_new_and_one_that_there_cannot_be() -> None:
    judge = Evaluator([OPEN_TO_WEB], [WEB, DB])
    judge.set_endpoint(2, pod("shop/new", "10.99.0.3", labels=WEB.labels))
    assert verdicts(judge, TO_DB._replace(peer=2)) == ["allowed"]
    with pytest.raises(IndexError):
        judge.set_endpoint(4, WEB)


def test_many_parties_are_added_at_once_and_the_rest_stays_remembered() -> None:
    judge = Evaluator([OPEN_TO_WEB], [WEB, DB])
    assert verdicts(judge, TO_DB) == ["allowed"]
    fresh = [pod(f"shop/p{i}", labels=(("app", app),)) for i, app in enumerate(("web", "x"))]
    assert judge.add_endpoints(iter(fresh)) == 2
    assert judge.add_endpoints([]) == 4
    assert judge.cached == 1
    assert verdicts(judge, TO_DB._replace(peer=2), TO_DB._replace(peer=3)) == ["allowed", "denied"]
    judge.set_endpoints({3: fresh[0], 4: fresh[1]})
    assert judge.cached == 2
    assert verdicts(judge, TO_DB._replace(peer=3), TO_DB._replace(peer=4)) == ["allowed", "denied"]
    judge.set_endpoint(0, WEB)
    assert judge.cached == 4  # nothing has changed


def test_a_connection_of_an_unknown_number_is_an_error() -> None:
    judge = Evaluator([OPEN_TO_WEB], [WEB, DB])
    for nobody in (TO_DB._replace(peer=2), TO_DB._replace(local=2)):
        with pytest.raises(IndexError, match="out of range"):
            verdicts(judge, nobody)
    assert judge.cached == 0


def test_adding_parties_costs_nothing_of_what_is_there() -> None:
    """10,000, 50 at a time: as long as it takes for the new ones alone, with a full cache."""
    judge = Evaluator([OPEN_TO_WEB], [WEB, DB])
    count, everywhere = 100_000, differential.connections([TO_DB._replace(peer=ADDRESS_INDEX)])
    asked = PackedConnections._make(column[np.zeros(count, np.int64)] for column in everywhere)
    asked = asked._replace(low=np.arange(1, count + 1, dtype=np.uint64))
    judge.judge(asked)
    assert judge.cached == count
    alone = adding_takes(Evaluator([OPEN_TO_WEB], [WEB, DB]))
    assert adding_takes(judge) < 5 * alone  # were the cache gone through, more than 20 times
    assert judge.cached == count + 200


def adding_takes(judge: Evaluator) -> float:
    began = time.process_time()
    for first in range(0, 10_000, 50):
        fresh = [PolicyEndpoint(ADDRESS, ips=(ip("2001:db8::") + first + i,)) for i in range(49)]
        fresh.append(pod(f"shop/new-{first}", labels=(("n", str(first)),)))
        number = judge.add_endpoints(fresh)
        verdicts(judge, TO_DB._replace(peer=number + 49))
    return time.process_time() - began


def test_an_endpoint_that_is_its_own_peer_is_reported_after_many_others_have_come_and_gone() -> (
    None
):
    judge = Evaluator([CLOSED], [WEB, DB])
    for i in range(10_007):
        judge.set_endpoint(2, pod(f"shop/churn-{i}", labels=()))
    again = [pod("shop/churn-10006", "10.99.0.9", labels=()), pod("shop/churn-1", labels=()), WEB]
    first = judge.add_endpoints(again)
    itself = TO_DB._replace(local=2, peer=first)
    assert verdicts(judge, itself, itself._replace(peer=first + 1)) == ["allowed", "denied"]
    assert verdicts(judge, itself._replace(local=0, peer=first + 2)) == ["allowed"]


def test_two_ends_come_to_what_the_engine_says() -> None:
    codes = np.arange(len(VERDICTS), dtype=np.uint8)
    ingress, egress = np.repeat(codes, 4), np.tile(codes, 4)
    words = [VERDICTS[code] for code in combine(ingress, egress)]
    pairs = zip(ingress, egress, strict=True)
    assert words == [engine.combine(VERDICTS[one], VERDICTS[other]) for one, other in pairs]


def test_policies_that_come_change_and_go() -> None:
    judge = Evaluator([], [WEB, DB])
    assert verdicts(judge, TO_DB) == ["undeclared"]
    judge.set_policies([CLOSED])
    assert verdicts(judge, TO_DB) == ["denied"]
    judge.set_policies([CLOSED, OPEN_TO_WEB])
    assert verdicts(judge, TO_DB) == ["allowed"]
    judge.set_policies([OPEN_TO_WEB._replace(subject=PodSubject(None, labelled(app="web")))])
    assert verdicts(judge, TO_DB) == ["undeclared"]


def test_what_a_change_has_no_say_in_stays_remembered() -> None:
    deny = policy(
        "deny",
        kind="ClusterNetworkPolicy",
        subject=PodSubject(EVERYTHING),
        ingress=rules(Rule(0, "deny", (PodPeer(EVERYTHING, labelled(app="other")),))),
        tier=0,
    )
    judge = Evaluator([deny, OPEN_TO_WEB], [WEB, DB])
    verdicts(judge, TO_DB)
    elsewhere = policy("bank/p", ingress=())
    judge.set_policies([deny, OPEN_TO_WEB, elsewhere])
    judge.set_policies([OPEN_TO_WEB, elsewhere])
    remembered = judge.cached
    assert verdicts(judge, TO_DB) == ["allowed"]
    assert remembered == judge.cached == 1
    judge.set_policies([elsewhere])
    assert judge.cached == 0


def test_what_is_gone_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluator, "_MIN_SIZE", 100)
    judge = Evaluator([OPEN_TO_WEB], [WEB, DB])
    for i in range(1009):
        judge.set_endpoint(2, pod("shop/churn", labels=(("i", str(i)),)))
        assert verdicts(judge, TO_DB, TO_DB._replace(peer=2)) == ["allowed", "denied"]
        assert judge.classes <= 105
    for i in range(1009):
        other = policy("bank/p", ingress=(), subject=PodSubject(None, labelled(i=str(i))))
        judge.set_policies([OPEN_TO_WEB, other])
        assert verdicts(judge, TO_DB) == ["allowed"]
    assert judge.cached == 2


def test_a_reason_names_the_policy_and_what_did_not_match() -> None:
    judge = Evaluator([OPEN_TO_WEB], [WEB, DB])
    asked = differential.connections([TO_DB, TO_DB._replace(port=5432)])
    allowed, denied = judge.judge(asked).outcome
    assert judge.reason(asked, 0, int(allowed)) == "shop/web ingress[0]"
    assert judge.reason(asked, 1, int(denied)) == (
        "denied by default: shop/web selects it and no ingress rule allows this; nearest shop/web ingress[0]: port 5432 is not 80"
    )


def test_ends_that_are_not_endpoints() -> None:
    judge = Evaluator([OPEN_TO_WEB], [WEB, DB])
    outside = TO_DB._replace(peer=ADDRESS_INDEX, ip=ip("203.0.113.9"))
    unknown = TO_DB._replace(peer=UNKNOWN_INDEX, ip=0)
    assert verdicts(judge, outside, unknown) == ["denied", "unknown"]


def test_no_connections_are_judged_to_nothing() -> None:
    empty = differential.connections([TO_DB])
    judged = Evaluator([CLOSED], [WEB, DB]).judge(type(empty)._make(column[:0] for column in empty))
    assert (len(judged.verdict), len(judged.outcome)) == (0, 0)


def test_classes_that_come_after_compiling_are_graded_too() -> None:
    classes = EndpointClasses()
    slot = classes.slot(PodPeer(None, labelled(app="web")), "shop")
    endpoints = [pod(f"shop/p{i}", labels=(("app", "web"), ("i", str(i)))) for i in range(700)]
    numbers = [classes.number(endpoint) for endpoint in endpoints]
    other = classes.number(pod("shop/db"))
    hidden = classes.number(pod("shop/x", labels=None))
    grades = classes.table.of_row(slot)
    assert set(grades[numbers]) == {YES}
    assert (grades[other], grades[hidden]) == (NO, MAYBE)
    several = np.array([numbers[0], other, hidden])
    assert classes.table.at(np.full(3, slot), several).tolist() == [YES, NO, MAYBE]
    assert classes.table.at(np.array([slot]), numbers[-1]).tolist() == [YES]


def test_endpoints_are_one_class_if_no_policy_can_distinguish_them() -> None:
    classes = EndpointClasses()
    assert classes.number(pod("shop/a", labels=())) == classes.number(pod("shop/b", labels=()))
    assert classes.number(pod("shop/a", labels=())) != classes.number(pod("bank/a", labels=()))


def random_words(seed: int, count: int) -> Any:
    return np.random.default_rng(seed).integers(0, 1 << 63, (count, 4)).astype(np.uint64)


def test_the_cache_finds_what_was_put_and_nothing_else() -> None:
    cache, words = VerdictCache(), random_words(23, 20_011)
    for part in range(0, len(words), 997):
        numbers = np.arange(part, min(part + 997, len(words)), dtype=np.int32)
        cache.put(words[part : part + 997], numbers)
    assert (cache.find(words) == np.arange(len(words))).all()
    for column in range(4):
        other = words.copy()
        other[:, column] += np.uint64(1)
        assert (cache.find(other) == MISSING).all()


def test_the_cache_forgets_and_learns_again() -> None:
    cache, words = VerdictCache(), random_words(23, 2_003)
    numbers = np.arange(len(words), dtype=np.int32)
    cache.put(words, numbers)
    slots = cache.known()
    odd = cache.words(slots)[:, 0] % np.uint64(2) == 1
    cache.forget(slots[odd])
    is_odd = words[:, 0] % np.uint64(2) == 1
    assert (cache.find(words) == np.where(is_odd, MISSING, numbers)).all()
    cache.put(words[is_odd], numbers[is_odd] + 5)
    assert (cache.find(words) == np.where(is_odd, numbers + 5, numbers)).all()
    cache.clear()
    assert (cache.find(words) == MISSING).all()


def test_the_cache_stays_bounded() -> None:
    cache = VerdictCache()
    for seed in range(5):
        words = random_words(seed, 100_003)
        cache.put(words, np.zeros(len(words), np.int32))
        assert (cache.find(words) == 0).all()
    assert len(cache) < 300_000


EDGES = (0, 1, 0xFFFF << 32, (0xFFFF << 32) - 1, (0x10000 << 32) - 1, 0x10000 << 32, (1 << 128) - 1)
ADDRESSES = st.one_of(
    st.sampled_from(EDGES),
    st.integers(0, 255).map(lambda low: 0xFFFF << 32 | 0x0A630000 | low),
    st.integers(0, 255).map(lambda low: 0x20010DB8 << 96 | low),
)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    bits = draw(st.sampled_from((0, 1, 32, 64, 95, 96, 97, 104, 120, 124, 127, 128)))
    return Network(draw(ADDRESSES) >> (128 - bits) << (128 - bits), bits)


BLOCKS = st.builds(Block, networks(), st.lists(networks(), max_size=3).map(tuple))


@given(st.lists(BLOCKS, max_size=4), st.lists(ADDRESSES, min_size=1, max_size=20))
def test_ranges_hold_what_one_of_the_blocks_holds(
    blocks: Sequence[Block], addresses: Sequence[int]
) -> None:
    asked = Addresses(
        np.array([address >> 64 for address in addresses], np.uint64),
        np.array([address & (1 << 64) - 1 for address in addresses], np.uint64),
    )
    # Each block stands alone as well, so that one may be taken for another.
    many = RangeTable([BlockRanges(blocks), *(BlockRanges([block]) for block in blocks)])
    for number, held in enumerate([blocks, *([block] for block in blocks)]):
        found = many.hold(np.full(len(addresses), number), asked)
        expected = [any(in_block(block, address) for block in held) for address in addresses]
        assert found.tolist() == expected


def test_unreadable_policies_may_bear_one_name() -> None:
    broken: list[Policy] = [
        policy("x", kind="unreadable", subject=PodSubject(each), tier=0, unreadable="broken")
        for each in (labelled(a="b"), EVERYTHING)
    ]
    judge = Evaluator(broken, [WEB, DB])
    assert verdicts(judge, TO_DB) == ["unknown"]
    judge.set_policies(broken[:1])
    assert verdicts(judge, TO_DB) == ["undeclared"]


def test_a_nameless_pod_is_itself_only_as_the_same_party() -> None:
    nameless: list[PolicyEndpoint] = [
        WEB._replace(name=""),
        WEB._replace(name="", ips=(ip("10.99.0.7"),)),
    ]
    judge = Evaluator([CLOSED], nameless)
    assert verdicts(judge, TO_DB, TO_DB._replace(peer=1)) == ["denied", "allowed"]


def test_rules_of_long_lists_are_looked_up_and_judged_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(matching, "_LONG", 2)
    outcome = differential.run(12_000, first_seed=10_000)
    assert not outcome.differences
