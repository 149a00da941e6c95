# SPDX-License-Identifier: Apache-2.0
"""Shadowed rules: those that a comparison of all pairs finds, at a cost that grows with the rules."""

from collections.abc import Iterator, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from podtally.policy.lint.checks import lint
from podtally.policy.lint.findings import NO_DNS, SHADOWED
from podtally.policy.lint.shadowed_rules import ComparisonBudget, shadowed_rules
from podtally.policy.lint.subsumption import covers_rule, covers_subject
from podtally.policy.model import (
    ADMIN_TIER,
    ALLOW,
    ANY_PROTOCOL,
    BASELINE_TIER,
    DENY,
    EGRESS,
    EVERYTHING,
    INGRESS,
    LAST_PORT,
    NETWORK_TIER,
    PASS,
    TCP,
    UDP,
    DomainPeer,
    HostSubject,
    NodePeer,
    Peer,
    PodPeer,
    PodSubject,
    Policy,
    PolicyPort,
    Requirement,
    Rule,
    Selector,
)
from podtally.policy.reference.engine import evaluation_order
from podtally.policy.reference.matching import rules_of
from tests.unit.policy.policy_support import block, labelled, rules
from tests.unit.policy.policy_text import declared_of

VALUES = st.frozensets(st.sampled_from("ab"), min_size=1, max_size=2)
REQUIREMENTS = st.builds(
    Requirement, st.sampled_from(["app", "all"]), st.sampled_from(["In", "NotIn"]), VALUES
) | st.builds(Requirement, st.just("app"), st.sampled_from(["Exists", "DoesNotExist"]))
SELECTORS = st.builds(Selector, st.lists(REQUIREMENTS, max_size=2).map(tuple))
BLOCKS = st.sampled_from(
    [block("10.0.0.0/8"), block("10.1.0.0/16"), block("10.1.2.0/24"), block("0.0.0.0/0"),
     block("::/0"), block("10.0.0.0/8", "10.1.0.0/16"), block("2001:db8::/32")]
)  # fmt: skip
PEERS: st.SearchStrategy[Peer] = (
    BLOCKS
    | st.builds(PodPeer, st.none() | SELECTORS, SELECTORS)
    | st.builds(NodePeer, SELECTORS)
    | st.builds(
        DomainPeer,
        st.lists(
            st.sampled_from(["a.example", "x.a.example", "*.a.example", "*.example"]),
            min_size=1,
            max_size=2,
            unique=True,
        ).map(tuple),
        st.booleans(),
    )
    | st.sampled_from([HostSubject(host=True), HostSubject(units=("ssh.service",))])
)
PORTS = st.sampled_from(
    [PolicyPort(TCP, 80, 80), PolicyPort(TCP, 80, 90), PolicyPort(TCP, 0, LAST_PORT), PolicyPort(UDP, 80, 80),
     PolicyPort(TCP, name="http"), PolicyPort(ANY_PROTOCOL, name="http"), PolicyPort(TCP, 85, 86)]
)  # fmt: skip


def some(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.none() | st.lists(strategy, max_size=3).map(tuple)


def ruled(*actions: str) -> st.SearchStrategy[tuple[Rule, ...]]:
    each = st.builds(Rule, st.just(0), st.sampled_from(actions), some(PEERS), some(PORTS))
    return st.lists(each, max_size=3).map(lambda found: rules(*found))


NETWORK = st.tuples(
    st.sampled_from(["shop", "pay"]),
    st.builds(PodSubject, st.none(), SELECTORS),
    ruled(ALLOW),
    ruled(ALLOW),
).map(lambda found: Policy("NetworkPolicy", found[0], "p", *found[1:]))
ADMIN = st.tuples(
    st.builds(PodSubject, SELECTORS, SELECTORS),
    ruled(ALLOW, DENY, PASS),
    ruled(DENY),
    st.sampled_from([ADMIN_TIER, BASELINE_TIER]),
    st.integers(0, 2),
).map(lambda found: Policy("ClusterNetworkPolicy", "", "a", *found))
Found = tuple[str, str, int]


@settings(deadline=None, max_examples=300)
@given(st.lists(NETWORK | ADMIN, max_size=5))
def test_what_the_index_finds_is_what_all_pairs_find(drawn: list[Policy]) -> None:
    policies = [policy._replace(name=f"{policy.name}{n}") for n, policy in enumerate(drawn)]
    found = {(s.direction, s.policy.name, s.rule.index) for s in shadowed_rules(policies)}
    assert found == set(by_all_pairs(policies))
    for shadow in shadowed_rules(policies):
        assert covers_rule(shadow.other_rule, shadow.other, shadow.rule, shadow.policy)
        assert covers_subject(shadow.other, shadow.policy)


def by_all_pairs(policies: Sequence[Policy]) -> Iterator[Found]:
    ordered = sorted(policies, key=evaluation_order)
    for direction in (INGRESS, EGRESS):
        entries = [(p, rule) for p in ordered for rule in rules_of(p, direction) or ()]
        for at, (policy, rule) in enumerate(entries):
            others = [
                number
                for number, (other, other_rule) in enumerate(entries)
                if number != at
                and covers_subject(other, policy)
                and covers_rule(other_rule, other, rule, policy)
            ]
            if any(counts(entries, at, number, direction) for number in others) and not (
                rule.peers == () or rule.ports == ()
            ):
                yield direction, policy.name, rule.index


def counts(entries: Sequence[tuple[Policy, Rule]], at: int, number: int, direction: str) -> bool:
    """Whether a rule that covers another takes its effect away."""
    (policy, rule), (other, other_rule) = entries[at], entries[number]
    if policy.tier == other.tier == NETWORK_TIER:
        if policy.namespace != other.namespace:
            return False
        same = covers_subject(policy, other) and covers_rule(rule, policy, other_rule, other)
        return number < at or not same
    if policy is other:
        return number < at
    if policy.tier == other.tier:
        return other.priority < policy.priority
    return other.tier == ADMIN_TIER and decides(entries, number, direction)


def decides(entries: Sequence[tuple[Policy, Rule]], number: int, direction: str) -> bool:
    """Whether no Pass is, or may be, asked before the rule of the Admin tier."""
    other, other_rule = entries[number]
    passing = [
        (policy, rule)
        for policy, rule in entries
        if policy.tier == ADMIN_TIER and policy.priority <= other.priority and rule.action == PASS
    ]
    equals = {
        id(policy)
        for policy, _ in entries
        if policy.tier == ADMIN_TIER and policy.priority == other.priority
    }
    if len(equals) > 1:
        return not passing
    return all(policy is other and rule.index > other_rule.index for policy, rule in passing)


def many(count: int) -> list[Policy]:
    """Rules of all usual kinds, none of which covers another."""
    networks = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(count)]
    by_network = [
        Rule(n, ALLOW, (block(text),), (PolicyPort(TCP, 443, 443),))
        for n, text in enumerate(networks)
    ]
    by_range = [
        Rule(n, ALLOW, (block(text),), (PolicyPort(TCP, n + 1, LAST_PORT),))
        for n, text in enumerate(networks)
    ]
    by_port = [Rule(n, ALLOW, None, (PolicyPort(TCP, n + 1, n + 1),)) for n in range(count)]
    by_label = [
        Rule(n, ALLOW, (PodPeer(EVERYTHING, labelled(app=f"a{n}")),), (PolicyPort(TCP, 80, 80),))
        for n in range(count)
    ]
    whole = [
        Policy("NetworkPolicy", f"n{n}", "p", PodSubject(None), None, rules(*each))
        for n, each in enumerate((by_network, by_range, by_port, by_label))
    ]
    single = [
        Policy("NetworkPolicy", "one", f"p{n}", PodSubject(None, labelled(app=f"a{n}")), None,
               rules(Rule(0, ALLOW, None, (PolicyPort(TCP, 80, 80),))))
        for n in range(count)
    ]  # fmt: skip
    return [*whole, *single]


def test_the_comparisons_grow_with_the_rules_and_not_with_their_pairs() -> None:
    for count in (100, 1600):
        budget = ComparisonBudget()
        before = budget.left
        assert list(shadowed_rules(many(count), budget)) == []
        assert before - budget.left <= 5 * count * 4
        assert budget.skipped == 0


def test_a_search_that_ends_early_says_so() -> None:
    budget = ComparisonBudget(comparisons=10)
    found = list(shadowed_rules(many(20), budget))
    assert (found, budget.left) == ([], 0)
    assert budget.skipped > 0
    text = "{ports: [{port: 80}, {port: 443}]}, {ports: [{port: 80}]}"
    given = declared_of(text)
    assert [each.check for each in lint(given, None)] == [NO_DNS, SHADOWED]
    _, short = lint(given, None, ComparisonBudget(comparisons=0))
    assert (short.check, short.problem.subject) == (SHADOWED, "policies")
    assert "2 rules not compared" in short.problem.message
