# SPDX-License-Identifier: Apache-2.0
"""Compares suggested policies with those declared, rule by rule."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from podtally.policy.explain.formatting import format_policy, format_rule
from podtally.policy.lint.shadowed_rules import shadowed_rules
from podtally.policy.lint.subsumption import covers_rule
from podtally.policy.model import NETWORK_TIER, PodSubject, Policy, Rule
from podtally.policy.reference.matching import rules_of
from podtally.policy.reference.selectors import selects
from podtally.suggest.flows import Flow
from podtally.suggest.proof import flows_matching
from podtally.suggest.suggestion import SuggestedPolicy
from podtally.suggest.workloads import Workloads

ADDED, NARROWED, KEPT, REPLACED = "added", "narrowed", "kept", "replaced"
NOT_EXERCISED, SHADOWED = "not exercised", "shadowed"


class RuleChange(NamedTuple):
    """``change`` of a rule or policy; ``by``: the rule that it is compared with."""

    change: str
    rule: str
    by: str = ""


def compare(
    suggested: Sequence[SuggestedPolicy],
    declared: Sequence[Policy],
    flows: Sequence[Flow],
    workloads: Workloads,
) -> list[RuleChange]:
    """Return the changes that the suggestion makes, then what in the declared policies is idle."""
    changes: list[RuleChange] = []
    allowed = [flow for flow in flows if not flow.excluded]
    names = {(policy.kind, policy.namespace, policy.name) for policy in declared}
    for each in suggested:
        if (each.policy.kind, each.policy.namespace, each.policy.name) in names:
            changes.append(RuleChange(REPLACED, format_policy(each.policy)))
        others = [policy for policy in declared if _is_for(policy, each, workloads)]
        changes += _rules(each, others)
        for policy in others:
            changes += _idle(policy, each.direction, allowed, workloads)
    changes += [
        RuleChange(
            SHADOWED,
            format_rule(shadow.policy, shadow.rule, shadow.direction),
            format_rule(shadow.other, shadow.other_rule, shadow.direction),
        )
        for shadow in shadowed_rules(declared)
    ]
    return list(dict.fromkeys(changes))


def _is_for(policy: Policy, each: SuggestedPolicy, workloads: Workloads) -> bool:
    """Return whether a declared NetworkPolicy selects a suggested workload in its direction."""
    if policy.tier != NETWORK_TIER or policy.namespace != each.policy.namespace:
        return False
    if policy.unreadable or rules_of(policy, each.direction) is None:
        return False
    subject = policy.subject
    return isinstance(subject, PodSubject) and any(
        selects(subject.pods, labels)
        for name in each.workloads
        for labels in workloads.label_sets(name)
    )


def _rules(each: SuggestedPolicy, others: Sequence[Policy]) -> Iterator[RuleChange]:
    """Yield a suggested rule as kept, as narrower than a declared one, or as added."""
    declared = [
        (policy, rule) for policy in others for rule in rules_of(policy, each.direction) or ()
    ]
    for rule in (evidence.rule for evidence in each.rules):
        name = format_rule(each.policy, rule, each.direction)
        wider = next(
            (entry for entry in declared if covers_rule(entry[1], entry[0], rule, each.policy)),
            None,
        )
        if wider is None:
            yield RuleChange(ADDED, name)
        else:
            same = covers_rule(rule, each.policy, wider[1], wider[0])
            by = format_rule(*wider, each.direction)
            yield RuleChange(KEPT if same else NARROWED, name, by)


def _idle(
    policy: Policy, direction: str, flows: Sequence[Flow], workloads: Workloads
) -> Iterator[RuleChange]:
    """Yield the declared rules that no allowed flow of the window matches."""
    for rule in rules_of(policy, direction) or ():
        if not _is_exercised(rule, policy, direction, flows, workloads):
            yield RuleChange(NOT_EXERCISED, format_rule(policy, rule, direction))


def _is_exercised(
    rule: Rule, policy: Policy, direction: str, flows: Sequence[Flow], workloads: Workloads
) -> bool:
    return any(flows_matching(rule, policy, direction, flow, workloads) for flow in flows)
