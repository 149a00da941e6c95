"""Rules that never make a difference, since others match all that they match."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from podtally.policy.covering import covers_rule, covers_subject
from podtally.policy.engine import order
from podtally.policy.model import ADMIN_TIER, NETWORK_TIER, PASS, Policy, Rule
from podtally.policy.rules import EGRESS, INGRESS, rules_of


class Shadow(NamedTuple):
    """``rule`` of ``policy`` is covered by ``other_rule`` of ``other``."""

    direction: str
    policy: Policy
    rule: Rule
    other: Policy
    other_rule: Rule


def shadows(policies: Iterable[Policy]) -> Iterator[Shadow]:
    """For each rule that is shadowed the first that shadows it."""
    ordered = sorted((p for p in policies if not p.unreadable), key=order)
    cluster = [policy for policy in ordered if policy.tier != NETWORK_TIER]
    spaces: dict[str, list[Policy]] = {}
    for policy in ordered:
        if policy.tier == NETWORK_TIER:
            spaces.setdefault(policy.namespace, []).append(policy)
    for direction in (INGRESS, EGRESS):
        deciding = _deciding(cluster, direction)
        for policy in cluster:
            others = [other for other in cluster if _is_asked_before(other, policy)]
            yield from _in_order(policy, direction, others, deciding)
        for space in spaces.values():
            yield from _in_union(space, direction, deciding)


Entry = tuple[Policy, Rule]


def _deciding(cluster: Sequence[Policy], direction: str) -> list[Entry]:
    """Rules of the Admin tier that decide for all tiers: no Pass is, or may be, asked before."""
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
    """Of two of one priority nobody knows which is."""
    return other.tier == policy.tier and other.priority < policy.priority


def _in_order(
    policy: Policy, direction: str, before: Sequence[Policy], deciding: Sequence[Entry]
) -> Iterator[Shadow]:
    rules = rules_of(policy, direction) or ()
    outer = [(other, r) for other in before for r in rules_of(other, direction) or ()]
    if policy.tier != ADMIN_TIER:
        outer += deciding
    outer = [entry for entry in outer if covers_subject(entry[0], policy)]
    for number, rule in enumerate(rules):
        earlier = [(policy, other) for other in rules[:number]]
        found = _first_cover(policy, rule, (*outer, *earlier))
        if found:
            yield Shadow(direction, policy, rule, *found)


def _in_union(
    space: Sequence[Policy], direction: str, deciding: Sequence[Entry]
) -> Iterator[Shadow]:
    """NetworkPolicies of a namespace: of two rules that mean the same the later is told."""
    entries = [(policy, rule) for policy in space for rule in rules_of(policy, direction) or ()]
    for policy in space:
        rules = rules_of(policy, direction) or ()
        if not rules:
            continue
        wider = {id(other) for other in space if covers_subject(other, policy)}
        admin = [entry for entry in deciding if covers_subject(entry[0], policy)]
        outer = [entry for entry in entries if id(entry[0]) in wider]
        for rule in rules:
            others = _but_later_equals((policy, rule), outer)
            found = _first_cover(policy, rule, (*admin, *others))
            if found:
                yield Shadow(direction, policy, rule, *found)


def _but_later_equals(entry: Entry, outer: Sequence[Entry]) -> Iterator[Entry]:
    policy, rule = entry
    later = False
    for other, other_rule in outer:
        if other is policy and other_rule is rule:
            later = True
            continue
        same = later and covers_subject(policy, other)
        if not (same and covers_rule(rule, policy, other_rule, other)):
            yield other, other_rule


def _first_cover(policy: Policy, rule: Rule, outer: Iterable[Entry]) -> Entry | None:
    if rule.peers == () or rule.ports == ():
        return None  # matches nothing at all, which is another's to tell
    for other, other_rule in outer:
        if covers_rule(other_rule, other, rule, policy):
            return other, other_rule
    return None
