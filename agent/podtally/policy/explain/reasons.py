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
    sides = ((EGRESS, verdict.egress), (INGRESS, verdict.ingress))
    sentences = (
        direction_reason(side, engine.rule_input(question, direction))
        for direction, side in sides
        if side.verdict == verdict.verdict
    )
    return "; ".join(dict.fromkeys(sentences))


def direction_reason(
    side: DirectionVerdict, ask: RuleInput, search: NearestSearch | None = None
) -> str:
    """``search`` finds the rule that came nearest, of policies that isolate."""
    words = _by_cause(side, ask)
    if words is not None:
        return words
    policies = _named(side)
    if side.cause == engine.ISOLATED:
        nearest_ = _nearest_words(side.policies, ask, search or _of_all)
        return f"isolated in {ask.direction} by {policies}; {nearest_}"
    if side.cause == engine.SAME_PRIORITY:
        return f"{policies} have the same priority and do not agree"
    if side.cause == engine.PROTOCOL:
        protocol = format_protocol(ask.protocol)
        return f"what isolation by {policies} means for {protocol} is not defined"
    if side.cause in (engine.UNREADABLE, UNSYNCED):
        why = side.policies[0].unreadable
        return why if side.cause == UNSYNCED else f"{policies} cannot be read: {why}"
    local = format_endpoint(ask.local, 0)
    return f"whether {policies} selects {local} in {ask.direction} is not known: its labels are not"


def short_reason(side: DirectionVerdict, direction: str) -> str:
    """What decided, without why: it costs nothing, whatever the policies are."""
    if side.rule is not None and side.policies:
        return format_rule(side.policies[0], side.rule, direction)
    if side.policies:
        words = {engine.ISOLATED: "isolated", engine.UNREADABLE: "unreadable"}
        return f"{words.get(side.cause, side.cause)} in {direction} by {_named(side)}"
    return side.cause


def _named(side: DirectionVerdict) -> str:
    told = [format_policy(policy) for policy in side.policies[:_MAX_POLICIES]]
    return join_words([*told, *[""] * (len(side.policies) - len(told))], "and")


def deciding_policies(side: DirectionVerdict) -> str:
    """The policies that decided, in few words, for a label; "" where none did.

    Who isolates may be many: all of them would make a label of any length.
    """
    if side.cause == engine.RULE:
        return format_policy(side.policies[0])
    if side.cause != engine.ISOLATED:
        return ""
    words = [format_policy(policy) for policy in side.policies[:_MAX_POLICIES]]
    if len(side.policies) > _MAX_POLICIES:
        words.append(f"+{len(side.policies) - _MAX_POLICIES}")
    return ",".join(words)


def _nearest_words(policies: tuple[Policy, ...], ask: RuleInput, search: NearestSearch) -> str:
    found = search(policies, ask)
    if found is None:
        return f"nothing is allowed in {ask.direction}"
    rule = format_rule(found.policy, found.rule, ask.direction)
    return f"nearest {rule}: {describe_miss(found, ask)}"


def _of_all(policies: tuple[Policy, ...], ask: RuleInput) -> NearMiss | None:
    """The nearest of all rules, one after the other."""
    return nearest_miss(
        ((policy, rule) for policy in policies for rule in rules_of(policy, ask.direction) or ()),
        ask,
    )


def _by_cause(side: DirectionVerdict, ask: RuleInput) -> str | None:
    if side.rule is not None and side.cause == engine.RULE:
        return format_rule(side.policies[0], side.rule, ask.direction)
    if side.rule is not None and side.cause == engine.DOUBT:
        policy = side.policies[0]
        doubt = describe_doubt(side.rule, policy, ask)
        return f"{format_rule(policy, side.rule, ask.direction)}: {doubt}"
    local = format_endpoint(ask.local, ask.local_ip)
    peer = format_endpoint(ask.peer, ask.peer_ip)
    nobody = local if ask.local.kind == UNIDENTIFIED else peer
    return {
        engine.OPEN: f"no policy isolates {local} in {ask.direction}",
        engine.LOOPBACK: f"{local} always reaches itself{_BY_SERVICE if ask.by_service else ''}",
        engine.OWN_NODE: f"{peer} is the own node of {local}, which is always allowed",
        engine.HOST_NETWORK: f"{local} uses its node's network, so no policy selects it",
        engine.OUTSIDE: f"{local} is no pod, so no policy selects it",
        engine.UNKNOWN_END: f"who {nobody} is, is not known",
    }.get(side.cause)
