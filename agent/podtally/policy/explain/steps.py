# SPDX-License-Identifier: Apache-2.0
"""The steps to a verdict: which policies isolate, whether each rule matches, what decides."""

from collections.abc import Iterable
from typing import NamedTuple

from podtally.policy.explain.domains import evidence
from podtally.policy.explain.formatting import format_policy, format_rule
from podtally.policy.explain.near_miss import describe_doubt, describe_mismatch
from podtally.policy.explain.reasons import direction_reason
from podtally.policy.model import EGRESS, INGRESS, Policy, Question, Rule
from podtally.policy.reference.engine import Engine, rule_input
from podtally.policy.reference.matching import RuleInput, rule_matches, rules_of

_TIERS = ("admin tier", "network policies", "baseline tier")


class Step(NamedTuple):
    """``item`` is a policy or a rule, or empty if the step is the direction's verdict."""

    direction: str
    tier: str
    item: str
    result: str


def explain(question: Question, policies: Iterable[Policy]) -> list[Step]:
    """Return the steps of the source's egress, then the destination's ingress, each with a verdict.

    They include the tiers after the one that decides; the verdict names that one.
    """
    engine = Engine(policies)
    steps: list[Step] = []
    for direction in (EGRESS, INGRESS):
        conn = rule_input(question, direction)
        outcome = engine.direction_verdict(conn)
        selecting = engine.selecting(conn.local)
        tiers = (sum(selecting.admin, ()), selecting.network, sum(selecting.baseline, ()))
        for tier, chosen in zip(_TIERS, tiers, strict=True):
            for policy, certain in chosen:
                steps += _of_policy(policy, certain, tier, conn)
        verdict = f"{outcome.verdict}: {direction_reason(outcome, conn)}"
        steps.append(Step(direction, "", "", verdict))
    return steps


def _of_policy(policy: Policy, certain: bool, tier: str, conn: RuleInput) -> list[Step]:
    item = format_policy(policy)
    if policy.unreadable:
        return [Step(conn.direction, tier, item, f"cannot be read: {policy.unreadable}")]
    rules = rules_of(policy, conn.direction)
    if rules is None:
        return []
    selects = "selects" if certain else "may select"
    isolates = " and isolates it" if tier == _TIERS[1] else ""
    head = f"{selects} the {'source' if conn.direction == EGRESS else 'destination'}{isolates}"
    steps = [Step(conn.direction, tier, item, head)]
    return steps + [_of_rule(rule, policy, tier, conn) for rule in rules]


def _of_rule(rule: Rule, policy: Policy, tier: str, conn: RuleInput) -> Step:
    met = rule_matches(rule, policy, conn)
    if met:
        result = f"matches: {rule.action}{evidence(rule, policy, conn)}"
    elif met is None:
        result = f"may match: {describe_doubt(rule, policy, conn)}"
    else:
        result = f"does not match: {describe_mismatch(rule, policy, conn)}"
    return Step(conn.direction, tier, format_rule(policy, rule, conn.direction), result)
