# SPDX-License-Identifier: Apache-2.0
"""The reason for a verdict in one line: the policy and rule, or the isolation and nearest rule.

Made on demand; ``steps`` has every step.
"""

from collections.abc import Callable

from podtally.policy.explain.domains import evidence
from podtally.policy.explain.formatting import (
    format_endpoint,
    format_policy,
    format_protocol,
    format_rule,
    join_words,
)
from podtally.policy.explain.near_miss import NearMiss, describe_doubt, describe_miss, nearest_miss
from podtally.policy.model import (
    EGRESS,
    INGRESS,
    UNIDENTIFIED,
    UNSYNCED,
    DirectionVerdict,
    Policy,
    Question,
    Verdict,
)
from podtally.policy.reference import engine
from podtally.policy.reference.matching import RuleInput, rules_of

NearestSearch = Callable[[tuple[Policy, ...], RuleInput], NearMiss | None]

_MAX_POLICIES = 5
_BY_SERVICE = ", through a Service where no admin rule denies it"


def reason(question: Question, verdict: Verdict) -> str:
    """Return the reasons of the directions that gave the verdict; once if they are the same."""
    outcomes = ((EGRESS, verdict.egress), (INGRESS, verdict.ingress))
    sentences = (
        direction_reason(outcome, engine.rule_input(question, direction))
        for direction, outcome in outcomes
        if outcome.verdict == verdict.verdict
    )
    return "; ".join(dict.fromkeys(sentences))


def direction_reason(
    outcome: DirectionVerdict, conn: RuleInput, search: NearestSearch | None = None
) -> str:
    """Return the reason of one direction; ``search`` finds the nearest isolating rule."""
    words = _by_cause(outcome, conn)
    if words is not None:
        return words
    policies = _named(outcome)
    if outcome.cause == engine.ISOLATED:
        near = _nearest_words(outcome.policies, conn, search or _of_all)
        return f"{_denied_by_default(outcome, conn.direction)}{near}"
    if outcome.cause == engine.SAME_PRIORITY:
        return f"{policies} have the same priority and disagree"
    if outcome.cause == engine.PROTOCOL:
        protocol = format_protocol(conn.protocol)
        return f"isolation by {policies} is not defined for {protocol}"
    if outcome.cause in (engine.UNREADABLE, UNSYNCED):
        why = outcome.policies[0].unreadable
        return why if outcome.cause == UNSYNCED else f"{policies} cannot be read: {why}"
    local = format_endpoint(conn.local, 0)
    return f"{policies} may select {local} in {conn.direction}: its labels are unknown"


def short_reason(outcome: DirectionVerdict, direction: str) -> str:
    """Return what decided, without the nearest rule: cheap for any number of rules."""
    if outcome.rule is not None and outcome.policies:
        return format_rule(outcome.policies[0], outcome.rule, direction)
    if outcome.policies:
        if outcome.cause == engine.ISOLATED:
            return _denied_by_default(outcome, direction)
        return f"{outcome.cause} in {direction} by {_named(outcome)}"
    return outcome.cause


def _denied_by_default(outcome: DirectionVerdict, direction: str) -> str:
    select = "selects" if len(outcome.policies) == 1 else "select"
    return f"denied by default: {_named(outcome)} {select} it and no {direction} rule allows this"


def _named(outcome: DirectionVerdict) -> str:
    words = [format_policy(policy) for policy in outcome.policies[:_MAX_POLICIES]]
    return join_words([*words, *[""] * (len(outcome.policies) - len(words))], "and")


def deciding_policies(outcome: DirectionVerdict) -> str:
    """Return the deciding policies for a label; "" if none did.

    Isolating policies may be many: only the first are named.
    """
    if outcome.cause == engine.RULE:
        return format_policy(outcome.policies[0])
    if outcome.cause != engine.ISOLATED:
        return ""
    words = [format_policy(policy) for policy in outcome.policies[:_MAX_POLICIES]]
    if len(outcome.policies) > _MAX_POLICIES:
        words.append(f"+{len(outcome.policies) - _MAX_POLICIES}")
    return ",".join(words)


def _nearest_words(policies: tuple[Policy, ...], conn: RuleInput, search: NearestSearch) -> str:
    found = search(policies, conn)
    if found is None:
        return ""
    rule = format_rule(found.policy, found.rule, conn.direction)
    return f"; nearest {rule}: {describe_miss(found, conn)}"


def _of_all(policies: tuple[Policy, ...], conn: RuleInput) -> NearMiss | None:
    """Return the nearest of all rules by linear search."""
    return nearest_miss(
        ((policy, rule) for policy in policies for rule in rules_of(policy, conn.direction) or ()),
        conn,
    )


def _by_cause(outcome: DirectionVerdict, conn: RuleInput) -> str | None:
    if outcome.rule is not None and outcome.cause == engine.RULE:
        policy, rule = outcome.policies[0], outcome.rule
        return f"{format_rule(policy, rule, conn.direction)}{evidence(rule, policy, conn)}"
    if outcome.rule is not None and outcome.cause == engine.DOUBT:
        policy = outcome.policies[0]
        doubt = describe_doubt(outcome.rule, policy, conn)
        return f"{format_rule(policy, outcome.rule, conn.direction)}: {doubt}"
    local = format_endpoint(conn.local, conn.local_ip)
    peer = format_endpoint(conn.peer, conn.peer_ip)
    unidentified = local if conn.local.kind == UNIDENTIFIED else peer
    return {
        engine.OPEN: f"no policy isolates {local} in {conn.direction}",
        engine.LOOPBACK: f"{local} always reaches itself{_BY_SERVICE if conn.by_service else ''}",
        engine.OWN_NODE: f"always allowed: {peer} is the node of {local}",
        engine.HOST_NETWORK: f"{local} uses its node's network, so no policy selects it",
        engine.OUTSIDE: f"{local} is not a pod, so no policy selects it",
        engine.UNKNOWN_END: f"no known owner of {unidentified}",
    }.get(outcome.cause)
