# SPDX-License-Identifier: Apache-2.0
"""Finds rules that never make a difference, because others match everything they match.

An index (``cover_index``) limits comparisons, so the cost grows with rules, not pairs. If it
finds too many, a budget ends the search.
"""

from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import groupby
from typing import NamedTuple

from podtally.policy.lint.cover_index import PeerIndex, PortIndex
from podtally.policy.lint.subsumption import covers_rule, covers_subject
from podtally.policy.model import ADMIN_TIER, EGRESS, INGRESS, NETWORK_TIER, PASS, Policy, Rule
from podtally.policy.reference.engine import evaluation_order
from podtally.policy.reference.matching import rules_of

_FEW = 32  # rules: comparing them is faster than searching for fewer
MAX_COMPARISONS = 2_000_000  # of two rules; about ten seconds


class ShadowedRule(NamedTuple):
    """``rule`` of ``policy`` is covered by ``other_rule`` of ``other``."""

    direction: str
    policy: Policy
    rule: Rule
    other: Policy
    other_rule: Rule


class ComparisonBudget:
    """The comparisons of two rules left; ``skipped`` counts rules not compared."""

    def __init__(self, comparisons: int = MAX_COMPARISONS) -> None:
        self.left = comparisons
        self.skipped = 0


def shadowed_rules(
    policies: Iterable[Policy], budget: ComparisonBudget | None = None
) -> Iterator[ShadowedRule]:
    """Yield each shadowed rule with the first rule that shadows it."""
    budget = budget or ComparisonBudget()
    ordered = sorted((p for p in policies if not p.unreadable), key=evaluation_order)
    cluster = [policy for policy in ordered if policy.tier != NETWORK_TIER]
    spaces: dict[str, list[Policy]] = {}
    for policy in ordered:
        if policy.tier == NETWORK_TIER:
            spaces.setdefault(policy.namespace, []).append(policy)
    for direction in (INGRESS, EGRESS):
        tiers = _RuleSet(cluster, direction, budget)
        deciding = _deciding(cluster, direction)
        decides = {(id(policy), rule.index) for policy, rule in deciding}
        for policy in cluster:
            yield from _in_order(policy, tiers, decides)
        admin = _RuleSet(dict.fromkeys(p for p, _ in deciding), direction, budget, deciding)
        for space in spaces.values():
            yield from _in_union(space, _RuleSet(space, direction, budget), admin)


Entry = tuple[Policy, Rule]


class _RuleSet:
    """The rules of some policies in one direction, in order, indexed by what they may cover."""

    def __init__(
        self,
        policies: Iterable[Policy],
        direction: str,
        budget: ComparisonBudget,
        entries: Iterable[Entry] | None = None,
    ) -> None:
        self.direction = direction
        self.budget = budget
        if entries is None:
            entries = ((p, rule) for p in policies for rule in rules_of(p, direction) or ())
        self.entries = list(entries)
        self._peers, self._ports, self._subjects = PeerIndex(), PortIndex(), PeerIndex()
        self._same: dict[tuple[object, str], list[int]] = {}  # numbers of entries, by subject
        self._kinds: list[tuple[Policy, list[int]]] = []  # one policy for each subject
        self._wider: dict[tuple[object, str], list[list[int]]] = {}
        for number, (policy, rule) in enumerate(self.entries):
            self._peers.add(number, rule.peers, policy.namespace)
            self._ports.add(number, rule.ports)
            key = (policy.subject, policy.namespace)
            if key not in self._same:
                self._same[key] = []
                self._subjects.add(len(self._kinds), (policy.subject,), policy.namespace)
                self._kinds.append((policy, self._same[key]))
            self._same[key].append(number)

    def covering(self, policy: Policy, rule: Rule) -> Iterator[Entry]:
        """Yield in order the rules that cover it in policies covering its subject; itself too."""
        if rule.peers == () or rule.ports == ():
            return  # matches nothing; reported by another check
        wider = self._of_wider(policy)
        fewest = self._peers.find(rule.peers, policy.namespace)
        if fewest.count > _FEW:
            fewest = min(fewest, self._ports.find(rule.ports), key=lambda found: found.count)
        of_wider = sum(map(len, wider)) <= fewest.count
        for number in merge(*wider) if of_wider else fewest:
            if self.budget.left <= 0:
                self.budget.skipped += 1
                return
            self.budget.left -= 1
            other, other_rule = self.entries[number]
            if covers_rule(other_rule, other, rule, policy) and (
                of_wider or covers_subject(other, policy)
            ):
                yield other, other_rule

    def _of_wider(self, policy: Policy) -> list[list[int]]:
        """Return the numbers of rules of policies that cover its subject, a list per subject."""
        key = (policy.subject, policy.namespace)
        found = self._wider.get(key)
        if found is None:
            maybe = self._subjects.find((policy.subject,), policy.namespace)
            kinds = (self._kinds[number] for number in maybe)
            found = [numbers for other, numbers in kinds if covers_subject(other, policy)]
            self._wider[key] = found
        return found


def _deciding(cluster: Sequence[Policy], direction: str) -> list[Entry]:
    """Return the Admin tier's rules that decide for all tiers: no Pass can come first."""
    found: list[Entry] = []
    admin = (policy for policy in cluster if policy.tier == ADMIN_TIER)
    for _, group in groupby(admin, key=lambda policy: policy.priority):
        entries = [(p, rule) for p in group for rule in rules_of(p, direction) or ()]
        passing = [number for number, (_, rule) in enumerate(entries) if rule.action == PASS]
        if not passing:
            found += entries
            continue
        alone = all(policy is entries[0][0] for policy, _ in entries)
        return found + (entries[: passing[0]] if alone else [])
    return found


def _is_asked_before(other: Policy, policy: Policy) -> bool:
    """Return whether ``other`` comes first; unknown, so False, for equal priorities."""
    return other.tier == policy.tier and other.priority < policy.priority


def _in_order(
    policy: Policy, rules: _RuleSet, decides: set[tuple[int, int]]
) -> Iterator[ShadowedRule]:
    for rule in rules_of(policy, rules.direction) or ():
        for other, other_rule in rules.covering(policy, rule):
            if other is policy:
                before = other_rule.index < rule.index
            else:
                before = _is_asked_before(other, policy) or (
                    policy.tier != ADMIN_TIER and (id(other), other_rule.index) in decides
                )
            if before:
                yield ShadowedRule(rules.direction, policy, rule, other, other_rule)
                break


def _in_union(space: Sequence[Policy], rules: _RuleSet, admin: _RuleSet) -> Iterator[ShadowedRule]:
    """Check NetworkPolicies of one namespace; of two equal rules the later one is reported."""
    numbers = {
        (id(policy), rule.index): number for number, (policy, rule) in enumerate(rules.entries)
    }
    for policy in space:
        for rule in rules_of(policy, rules.direction) or ():
            here = numbers[id(policy), rule.index]
            found = next(admin.covering(policy, rule), None)
            if found is None:
                found = next(
                    (
                        entry
                        for entry in rules.covering(policy, rule)
                        if not _is_same_or_later(entry, numbers, (policy, rule), here)
                    ),
                    None,
                )
            if found is not None:
                yield ShadowedRule(rules.direction, policy, rule, *found)


def _is_same_or_later(
    entry: Entry, numbers: dict[tuple[int, int], int], own: Entry, here: int
) -> bool:
    """Return whether it is the rule itself, or a later equal one."""
    (other, other_rule), (policy, rule) = entry, own
    number = numbers[id(other), other_rule.index]
    if number <= here:
        return number == here
    return covers_subject(policy, other) and covers_rule(rule, policy, other_rule, other)
