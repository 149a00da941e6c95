# SPDX-License-Identifier: Apache-2.0
"""A verdict's reason as one line: the policy and the rule, or what isolates and what came nearest.

Made when it is asked for; see ``explaining`` for every step.
"""

from collections.abc import Callable

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
    """Of the side, or sides, that made the verdict what it is; once, where both say the same."""
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
    """``search`` finds the rule that came nearest, of policies that isolate."""
    words = _by_cause(outcome, conn)
    if words is not None:
        return words
    policies = _named(outcome)
    if outcome.cause == engine.ISOLATED:
        nearest_ = _nearest_words(outcome.policies, conn, search or _of_all)
        return f"isolated in {conn.direction} by {policies}; {nearest_}"
    if outcome.cause == engine.SAME_PRIORITY:
        return f"{policies} have the same priority and do not agree"
    if outcome.cause == engine.PROTOCOL:
        protocol = format_protocol(conn.protocol)
        return f"what isolation by {policies} means for {protocol} is not defined"
    if outcome.cause in (engine.UNREADABLE, UNSYNCED):
        why = outcome.policies[0].unreadable
        return why if outcome.cause == UNSYNCED else f"{policies} cannot be read: {why}"
    local = format_endpoint(conn.local, 0)
    return (
        f"whether {policies} selects {local} in {conn.direction} is not known: its labels are not"
    )


def short_reason(outcome: DirectionVerdict, direction: str) -> str:
    """What decided, without why: it costs nothing, whatever the policies are."""
    if outcome.rule is not None and outcome.policies:
        return format_rule(outcome.policies[0], outcome.rule, direction)
    if outcome.policies:
        words = {engine.ISOLATED: "isolated", engine.UNREADABLE: "unreadable"}
        return f"{words.get(outcome.cause, outcome.cause)} in {direction} by {_named(outcome)}"
    return outcome.cause


def _named(outcome: DirectionVerdict) -> str:
    told = [format_policy(policy) for policy in outcome.policies[:_MAX_POLICIES]]
    return join_words([*told, *[""] * (len(outcome.policies) - len(told))], "and")


def deciding_policies(outcome: DirectionVerdict) -> str:
    """The policies that decided, in few words, for a label; "" where none did.

    Who isolates may be many: all of them would make a label of any length.
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
        return f"nothing is allowed in {conn.direction}"
    rule = format_rule(found.policy, found.rule, conn.direction)
    return f"nearest {rule}: {describe_miss(found, conn)}"


def _of_all(policies: tuple[Policy, ...], conn: RuleInput) -> NearMiss | None:
    """The nearest of all rules, one after the other."""
    return nearest_miss(
        ((policy, rule) for policy in policies for rule in rules_of(policy, conn.direction) or ()),
        conn,
    )


def _by_cause(outcome: DirectionVerdict, conn: RuleInput) -> str | None:
    if outcome.rule is not None and outcome.cause == engine.RULE:
        return format_rule(outcome.policies[0], outcome.rule, conn.direction)
    if outcome.rule is not None and outcome.cause == engine.DOUBT:
        policy = outcome.policies[0]
        doubt = describe_doubt(outcome.rule, policy, conn)
        return f"{format_rule(policy, outcome.rule, conn.direction)}: {doubt}"
    local = format_endpoint(conn.local, conn.local_ip)
    peer = format_endpoint(conn.peer, conn.peer_ip)
    nobody = local if conn.local.kind == UNIDENTIFIED else peer
    return {
        engine.OPEN: f"no policy isolates {local} in {conn.direction}",
        engine.LOOPBACK: f"{local} always reaches itself{_BY_SERVICE if conn.by_service else ''}",
        engine.OWN_NODE: f"{peer} is the own node of {local}, which is always allowed",
        engine.HOST_NETWORK: f"{local} uses its node's network, so no policy selects it",
        engine.OUTSIDE: f"{local} is no pod, so no policy selects it",
        engine.UNKNOWN_END: f"who {nobody} is, is not known",
    }.get(outcome.cause)
