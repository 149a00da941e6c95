# SPDX-License-Identifier: Apache-2.0
"""The reference engine: judges one connection, quoting the API's documentation.

Each endpoint is judged separately: the source by its egress, the destination by its ingress; "for
a connection to be allowed, both must allow it". In each direction the tiers decide in order:
Admin, NetworkPolicy, Baseline. Where the documentation is silent:

- "Traffic to and from the node where a Pod is running is always allowed" (the Kubernetes page on
  network policies) applies to NetworkPolicy: that tier cannot deny it, the admin tiers and the
  baseline judge it like any other traffic.
- A pod always reaches itself by its own address: that traffic never leaves the pod. Through a
  Service it does: the tiers of ClusterNetworkPolicy see it ("is subject to
  ClusterNetworkPolicy", network-policy-api on hairpin traffic), NetworkPolicy cannot deny it.
- A host-network pod is its node: nothing selects it, and as a peer it matches only by address or
  as a node.
- Two policies of the same tier and priority that disagree: unknown ("there is no way for the
  user to reliably determine which").
- For protocols other than TCP, UDP and SCTP, isolation is up to the plugin: unknown, for pods
  that NetworkPolicy selects. Admin rules without ports match them.
- Missing knowledge (an endpoint, labels, a DNS name, an unreadable policy) makes the verdict
  unknown only if it matters: if the verdict is the same whether or not the rule or policy in
  doubt applies, it stands (``doubt``). An unidentified peer may be the own node or the pod
  itself, so NetworkPolicy never denies it for certain. An unknown port (0) is any port.
- A name in a rule that denies or passes, or of the baseline: "only ALLOW type rules are proposed"
  (NPEP-133). Such a rule may match where the name does, and is a doubt.
- HostPolicy is judged as NetworkPolicy is; only traffic to itself is exempt there.
"""

from collections.abc import Iterable
from functools import lru_cache, partial
from itertools import groupby
from typing import NamedTuple

from podtally.dns.known_names import NO_NAMES
from podtally.policy.model import (
    ADMIN_TIER,
    ALLOW,
    ALLOWED,
    BASELINE_TIER,
    DENIED,
    DENY,
    EGRESS,
    HOST,
    INGRESS,
    NETWORK_TIER,
    PASS,
    POD,
    UNDECLARED,
    UNIDENTIFIED,
    UNKNOWN,
    UNSYNCED,
    DirectionVerdict,
    Policy,
    PolicyEndpoint,
    Question,
    Verdict,
)
from podtally.policy.reference.doubt import Doubt, TierResult, resolve
from podtally.policy.reference.matching import (
    HAVE_PORTS,
    RuleInput,
    applies_in,
    rule_matches,
    rules_of,
    selects_endpoint,
    uses_node,
)

# Causes of a direction's verdict.
RULE = "rule"  # allowed or denied by a rule
ISOLATED = "isolated"  # denied: policies isolate, and none of their rules allows
OPEN = "open"  # undeclared: nothing isolates
LOOPBACK = "loopback"  # allowed: to itself, and no tier that sees it denies it
OWN_NODE = "own node"  # allowed: from or to the node the pod runs on, and no tier denies it
HOST_NETWORK = "host network"  # undeclared: policies do not select such pods
OUTSIDE = "outside"  # undeclared: not a pod, so no policy selects it
UNKNOWN_END = "unknown end"
UNREADABLE = "unreadable"  # a policy that might decide
DOUBT = "doubt"  # a rule might decide
SELECTION = "selection"  # it is unknown whether the policy selects the endpoint
SAME_PRIORITY = "same priority"
PROTOCOL = "protocol"

_MAX_CACHED = 1 << 16
_VERDICT_OF = {ALLOW: ALLOWED, DENY: DENIED, PASS: PASS}
_ALLOWED, _DENIED = frozenset((ALLOWED,)), frozenset((DENIED,))
_EITHER = _ALLOWED | _DENIED
_ANYTHING = _EITHER | {PASS}

MaybeSelecting = tuple[Policy, bool]  # and whether it certainly selects the endpoint


class SelectingPolicies(NamedTuple):
    """The policies that select an endpoint; the admin tiers' by priority, in order."""

    admin: tuple[tuple[MaybeSelecting, ...], ...]
    network: tuple[MaybeSelecting, ...]
    baseline: tuple[tuple[MaybeSelecting, ...], ...]


class Engine:
    """Judges by a fixed set of policies, given in any order."""

    def __init__(self, policies: Iterable[Policy]) -> None:
        ordered = sorted(policies, key=evaluation_order)
        self._cluster = [p for p in ordered if p.tier != NETWORK_TIER]
        self._network: dict[str, list[Policy]] = {}
        for policy in ordered:
            if policy.tier == NETWORK_TIER:
                self._network.setdefault(policy.namespace, []).append(policy)
        self.selecting = lru_cache(_MAX_CACHED)(self._selecting)

    def judge(self, question: Question) -> Verdict:
        egress = self.direction_verdict(rule_input(question, EGRESS))
        ingress = self.direction_verdict(rule_input(question, INGRESS))
        return Verdict(combine(ingress.verdict, egress.verdict), ingress, egress)

    def strict_verdict(self, question: Question, verdict: Verdict) -> str:
        """Return the verdict of an implementation that enforces the TTLs of DNS answers."""
        valid = question.names.valid()
        if valid == question.names:
            return verdict.verdict
        return self.judge(question._replace(names=valid)).verdict

    def direction_verdict(self, conn: RuleInput) -> DirectionVerdict:
        """Return the verdict of one endpoint's policies."""
        exempt = _exempt(conn)
        if exempt is not None:
            return exempt
        selecting, undeniable = self.selecting(conn.local), _undeniable(conn)
        # "If Admin tier has made a final decision (Accept or Deny) on a connection, then no
        # further evaluation is done." "v1.NetworkPolicy always makes a final decision for
        # selected pods. Further evaluation only happens for Pods not selected by a
        # v1.NetworkPolicy."
        stages = (
            partial(_admin_tier, selecting.admin, conn),
            partial(_network_tier, selecting.network, conn, undeniable),
            partial(_admin_tier, selecting.baseline, conn),
        )
        # "If a given connection wasn't allowed or denied by any of the tiers, the default
        # kubernetes policy is applied, which says that all pods can communicate."
        return resolve(stages, undeniable or DirectionVerdict(UNDECLARED, OPEN)).outcome

    def _selecting(self, endpoint: PolicyEndpoint) -> SelectingPolicies:
        own = self._network.get(endpoint.namespace if endpoint.kind == POD else "", ())
        cluster = _selecting_policies(self._cluster, endpoint)
        return SelectingPolicies(
            _grouped(chosen for chosen in cluster if chosen[0].tier == ADMIN_TIER),
            tuple(_selecting_policies(own, endpoint)),
            _grouped(chosen for chosen in cluster if chosen[0].tier == BASELINE_TIER),
        )


def evaluation_order(policy: Policy) -> tuple[int, int, str, str, str]:
    """Sort key: tier, then priority; among equals the name, for a stable explanation."""
    return (policy.tier, policy.priority, policy.kind, policy.namespace, policy.name)


def rule_input(question: Question, direction: str) -> RuleInput:
    source, destination, protocol, port, source_ip, destination_ip, by_service, names = question
    if direction == INGRESS:
        ends = (destination, destination_ip, source, source_ip)
    else:
        ends = (source, source_ip, destination, destination_ip)
    known = names if direction == EGRESS else NO_NAMES
    return RuleInput(direction, *ends, destination, protocol, port, by_service, known)


def combine(ingress: str, egress: str) -> str:
    """Combine both directions: both must allow it; it is declared if one of them declares it."""
    verdicts = (ingress, egress)
    for verdict in (DENIED, UNKNOWN, ALLOWED):
        if verdict in verdicts:
            return verdict
    return UNDECLARED


def is_itself(local: PolicyEndpoint, peer: PolicyEndpoint) -> bool:
    """Return whether both are the same pod or host endpoint, by any of its addresses."""
    if local.kind != peer.kind or (local.kind == POD and not local.name):
        return local is peer
    return (local.namespace, local.name, local.unit, local.container) == (
        peer.namespace,
        peer.name,
        peer.unit,
        peer.container,
    )


def is_own_node(conn: RuleInput) -> bool:
    """Return whether it is "traffic to and from the node where a Pod is running"."""
    local, peer = conn.local, conn.peer
    if local.kind != POD or not local.node or local.node != peer.node:
        return False
    return uses_node(peer)


def _exempt(conn: RuleInput) -> DirectionVerdict | None:
    """Return the verdict if no policy applies to the endpoint or connection at all."""
    local = conn.local
    if local.kind == UNIDENTIFIED:
        return DirectionVerdict(UNKNOWN, UNKNOWN_END)
    if local.kind not in (POD, HOST):
        return DirectionVerdict(UNDECLARED, OUTSIDE)
    if local.kind == POD and local.host_network:
        return DirectionVerdict(UNDECLARED, HOST_NETWORK)
    # "A Pod cannot block access to itself."
    is_seen = conn.by_service and local.kind == POD
    return (
        DirectionVerdict(ALLOWED, LOOPBACK) if is_itself(local, conn.peer) and not is_seen else None
    )


def _undeniable(conn: RuleInput) -> DirectionVerdict | None:
    """Return the verdict if NetworkPolicy cannot deny the connection, though other tiers can."""
    if is_itself(conn.local, conn.peer):
        return DirectionVerdict(ALLOWED, LOOPBACK)
    return DirectionVerdict(ALLOWED, OWN_NODE) if is_own_node(conn) else None


def _selecting_policies(
    policies: Iterable[Policy], endpoint: PolicyEndpoint
) -> list[MaybeSelecting]:
    answers = ((policy, selects_endpoint(policy, endpoint)) for policy in policies)
    return [(policy, bool(answer)) for policy, answer in answers if answer is not False]


def _grouped(chosen: Iterable[MaybeSelecting]) -> tuple[tuple[MaybeSelecting, ...], ...]:
    return tuple(tuple(group) for _, group in groupby(chosen, key=lambda c: c[0].priority))


def _admin_tier(groups: tuple[tuple[MaybeSelecting, ...], ...], conn: RuleInput) -> TierResult:
    """Judge by an admin tier: "policies with lower priority values ... are checked before"."""
    doubts: list[Doubt] = []
    for group in groups:
        decided = _by_priority(group, conn, doubts)
        if decided is not None:
            # Pass "skips all further ClusterNetworkPolicy rules in the current tier".
            return TierResult(None if decided.verdict == PASS else decided, doubts)
    return TierResult(None, doubts)


def cause_of(policy: Policy) -> str:
    """Return the cause of the doubt about a stand-in."""
    return UNSYNCED if policy.kind == UNSYNCED else UNREADABLE


def _by_priority(
    group: tuple[MaybeSelecting, ...], conn: RuleInput, doubts: list[Doubt]
) -> DirectionVerdict | None:
    """Return the certain decision of one priority, if any; append the rest to ``doubts``."""
    outcomes = [outcome for chosen in group if (outcome := _first_match(*chosen, conn, doubts))]
    if not outcomes:
        return None
    verdicts = frozenset(outcome.verdict for outcome in outcomes)
    if len(verdicts) > 1:
        named = tuple(outcome.policies[0] for outcome in outcomes)
        doubts.append(
            Doubt(verdicts, DirectionVerdict(UNKNOWN, SAME_PRIORITY, named, outcomes[0].rule))
        )
    return outcomes[0]


def _first_match(
    policy: Policy, certain: bool, conn: RuleInput, doubts: list[Doubt]
) -> DirectionVerdict | None:
    """Return the first match: rules "at the top ... would take the highest precedence"."""
    if policy.unreadable:
        if applies_in(policy, conn.direction):
            doubts.append(Doubt(_ANYTHING, DirectionVerdict(UNKNOWN, cause_of(policy), (policy,))))
        return None
    for rule in rules_of(policy, conn.direction) or ():
        met = rule_matches(rule, policy, conn)
        if met is False:
            continue
        verdict = _VERDICT_OF[rule.action]
        if not (met and certain):
            outcome = DirectionVerdict(UNKNOWN, SELECTION if met else DOUBT, (policy,), rule)
            doubts.append(Doubt(frozenset((verdict,)), outcome))
        elif verdict == DENIED and conn.peer.kind == UNIDENTIFIED and not conn.by_service:
            outcome = DirectionVerdict(
                UNKNOWN, UNKNOWN_END, (policy,), rule
            )  # it may be the pod itself
            doubts.append(Doubt(_ALLOWED, outcome))
        if met:
            return DirectionVerdict(verdict, RULE, (policy,), rule) if certain else None
    return None


def _network_tier(
    network: tuple[MaybeSelecting, ...], conn: RuleInput, undeniable: DirectionVerdict | None
) -> TierResult:
    """Judge by NetworkPolicies: "the order of evaluation does not affect the policy result"."""
    applicable = [chosen for chosen in network if applies_in(chosen[0], conn.direction)]
    if not applicable:
        return TierResult(None)
    first = applicable[0][0]
    isolating = tuple(p for p, certain in applicable if certain and not p.unreadable)
    if undeniable is not None:
        if isolating:
            return TierResult(undeniable)
        cause = cause_of(first) if first.unreadable else SELECTION
        return TierResult(None, [Doubt(_ALLOWED, DirectionVerdict(UNKNOWN, cause, (first,)))])
    if conn.local.kind == POD and conn.protocol not in HAVE_PORTS:
        # "For other protocols, such as ARP or ICMP, the behaviour is undefined."
        named = isolating or (first,)
        return TierResult(None, [Doubt(_EITHER, DirectionVerdict(UNKNOWN, PROTOCOL, named))])
    return _any_rule(applicable, isolating, conn)


def _any_rule(
    applicable: list[MaybeSelecting], isolating: tuple[Policy, ...], conn: RuleInput
) -> TierResult:
    """Allow what "matches at least one rule across all of the NetworkPolicy objects".

    "Any connections not explicitly allowed are rejected", if some policy certainly isolates.
    """
    doubts: list[Doubt] = []
    may_deny = False  # by a policy that may select the endpoint
    for policy, certain in applicable:
        if policy.unreadable:
            doubts.append(Doubt(_EITHER, DirectionVerdict(UNKNOWN, cause_of(policy), (policy,))))
            continue
        matches = False
        for rule in rules_of(policy, conn.direction) or ():
            met = rule_matches(rule, policy, conn)
            if met and certain:
                return TierResult(DirectionVerdict(ALLOWED, RULE, (policy,), rule))
            if met is not False:
                matches = matches or bool(met)
                outcome = DirectionVerdict(UNKNOWN, SELECTION if met else DOUBT, (policy,), rule)
                doubts.append(Doubt(_ALLOWED, outcome))
        may_deny = may_deny or not matches
    peer_unidentified = (
        conn.peer.kind == UNIDENTIFIED
    )  # it may be the pod's own node, or the pod itself
    if not isolating:
        if may_deny:
            verdicts = _EITHER if peer_unidentified else _DENIED
            doubts.append(
                Doubt(verdicts, DirectionVerdict(UNKNOWN, SELECTION, (applicable[0][0],)))
            )
        return TierResult(None, doubts)
    if peer_unidentified:
        doubts.append(Doubt(_ALLOWED, DirectionVerdict(UNKNOWN, UNKNOWN_END, isolating)))
    return TierResult(DirectionVerdict(DENIED, ISOLATED, isolating), doubts)
