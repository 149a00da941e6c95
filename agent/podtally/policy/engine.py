"""Judges one connection by the declared policies, in the words of the API's documentation.

Each end is judged by itself: the source by its egress, the destination by its ingress; "for a
connection to be allowed, both must allow it". Within a side the tiers have their say in
order: Admin, NetworkPolicy, Baseline. Where the documentation is silent:

- A pod reaches itself, and its own node reaches it and is reached by it, whatever any tier says:
  "traffic to and from the node where a Pod is running is always allowed" (the Kubernetes page on
  network policies). It is said of NetworkPolicy; a tier that cut off the kubelet's probes would
  be of no use to anybody.
- A pod of the host's network is its node: it is selected by nothing, and a peer only by address
  or as a node.
- Two policies of one tier and one priority that do not agree leave it open ("there is
  no way for the user to reliably determine which"): unknown.
- What isolation means for protocols other than TCP, UDP and SCTP is left to plugins: unknown,
  for pods that NetworkPolicy selects. Admin rules without ports match them.
- A rule that may match, but for something that is not known (an end, labels, a name of DNS),
  makes the verdict unknown where it could decide; an unreadable policy could always. A peer
  of whom nothing is known may be the own node or the pod itself, so nothing denies it for
  certain. A port that is not known (0) is all of them at once.
- HostPolicy is judged as NetworkPolicy is; nothing is exempt there but the party itself.
"""

from collections.abc import Iterable
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

from podtally.policy.model import (
    ADMIN_TIER,
    ALLOW,
    ALLOWED,
    BASELINE_TIER,
    DENIED,
    DENY,
    HOST,
    NETWORK_TIER,
    NOBODY_KNOWS,
    PASS,
    POD,
    UNDECLARED,
    UNKNOWN,
    Party,
    Policy,
    Question,
    Side,
    Verdict,
)
from podtally.policy.rules import (
    EGRESS,
    HAVE_PORTS,
    INGRESS,
    Asked,
    is_subject,
    meets,
    rules_of,
    uses_node,
)

# Causes of a side's verdict.
RULE = "rule"  # allowed or denied by a rule
ISOLATED = "isolated"  # denied: policies isolate, and no rule of theirs allows
OPEN = "open"  # undeclared: nothing isolates
LOOPBACK = "loopback"  # allowed: to itself
OWN_NODE = "own node"  # allowed: from or to the node that the pod runs on
HOST_NETWORK = "host network"  # undeclared: policies do not select such pods
OUTSIDE = "outside"  # undeclared: no pod, so no policy's subject
UNKNOWN_END = "unknown end"
UNREADABLE = "unreadable"  # a policy that might decide
DOUBT = "doubt"  # a rule might decide
SELECTION = "selection"  # whether the policy is for this end is not known
SAME_PRIORITY = "same priority"
PROTOCOL = "protocol"

_PARTIES_KEPT = 1 << 16
_VERDICT_OF = {ALLOW: ALLOWED, DENY: DENIED, PASS: PASS}

Chosen = tuple[Policy, bool]  # and whether it is certain that the policy is for the party


class Selecting(NamedTuple):
    """The policies for a party; the admin tiers' in groups of one priority, in order."""

    admin: tuple[tuple[Chosen, ...], ...]
    network: tuple[Chosen, ...]
    baseline: tuple[tuple[Chosen, ...], ...]


class Engine:
    """Judges by a set of policies, which does not change. Order of policies does not matter."""

    def __init__(self, policies: Iterable[Policy]) -> None:
        ordered = sorted(policies, key=order)
        self._cluster = [p for p in ordered if p.tier != NETWORK_TIER]
        self._network: dict[str, list[Policy]] = {}
        for policy in ordered:
            if policy.tier == NETWORK_TIER:
                self._network.setdefault(policy.namespace, []).append(policy)
        self.selecting = lru_cache(_PARTIES_KEPT)(self._selecting)

    def judge(self, question: Question) -> Verdict:
        egress = self.side(asked(question, EGRESS))
        ingress = self.side(asked(question, INGRESS))
        return Verdict(whole(ingress.verdict, egress.verdict), ingress, egress)

    def side(self, ask: Asked) -> Side:
        """What the policies of one end say."""
        exempt = _exempt(ask)
        if exempt is not None:
            return exempt
        selecting = self.selecting(ask.local)
        # "If Admin tier has made a final decision (Accept or Deny) on a connection, then no
        # further evaluation is done."
        decided = _in_order(selecting.admin, ask)
        if decided is None and selecting.network:
            # "v1.NetworkPolicy always makes a final decision for selected pods."
            decided = _united(selecting.network, ask)
        if decided is None:
            # "Further evaluation only happens for Pods not selected by a v1.NetworkPolicy."
            decided = _in_order(selecting.baseline, ask)
        # "If a given connection wasn't allowed or denied by any of the tiers, the default
        # kubernetes policy is applied, which says that all pods can communicate."
        return decided or Side(UNDECLARED, OPEN)

    def _selecting(self, party: Party) -> Selecting:
        own = self._network.get(party.namespace if party.kind == POD else "", ())
        cluster = _chosen(self._cluster, party)
        return Selecting(
            _grouped(chosen for chosen in cluster if chosen[0].tier == ADMIN_TIER),
            tuple(_chosen(own, party)),
            _grouped(chosen for chosen in cluster if chosen[0].tier == BASELINE_TIER),
        )


def order(policy: Policy) -> tuple[int, int, str, str, str]:
    """By tier, then by priority; among equals by name, so that the same is told each time."""
    return (policy.tier, policy.priority, policy.kind, policy.namespace, policy.name)


def asked(question: Question, direction: str) -> Asked:
    source, destination, protocol, port, source_ip, destination_ip = question
    if direction == INGRESS:
        ends = (destination, destination_ip, source, source_ip)
    else:
        ends = (source, source_ip, destination, destination_ip)
    return Asked(direction, *ends, destination, protocol, port)


def whole(ingress: str, egress: str) -> str:
    """Both ends have to let it pass; declared is what at least one end declares."""
    verdicts = (ingress, egress)
    for verdict in (DENIED, UNKNOWN, ALLOWED):
        if verdict in verdicts:
            return verdict
    return UNDECLARED


def is_itself(local: Party, peer: Party) -> bool:
    """Whether both are one pod, or one endpoint of a host, whichever addresses they use."""
    if local.kind != peer.kind or (local.kind == POD and not local.name):
        return local is peer
    return (local.namespace, local.name, local.unit, local.container) == (
        peer.namespace,
        peer.name,
        peer.unit,
        peer.container,
    )


def is_own_node(ask: Asked) -> bool:
    """Whether it is "traffic to and from the node where a Pod is running"."""
    local, peer = ask.local, ask.peer
    if local.kind != POD or not local.node or local.node != peer.node:
        return False
    return uses_node(peer)


def _exempt(ask: Asked) -> Side | None:
    """What no policy is asked about."""
    local = ask.local
    if local.kind == NOBODY_KNOWS:
        return Side(UNKNOWN, UNKNOWN_END)
    if local.kind not in (POD, HOST):
        return Side(UNDECLARED, OUTSIDE)
    if local.kind == POD and local.host_network:
        return Side(UNDECLARED, HOST_NETWORK)
    # "A Pod cannot block access to itself."
    if is_itself(local, ask.peer):
        return Side(ALLOWED, LOOPBACK)
    return Side(ALLOWED, OWN_NODE) if is_own_node(ask) else None


def _chosen(policies: Iterable[Policy], party: Party) -> list[Chosen]:
    answers = ((policy, is_subject(policy, party)) for policy in policies)
    return [(policy, bool(answer)) for policy, answer in answers if answer is not False]


def _grouped(chosen: Iterable[Chosen]) -> tuple[tuple[Chosen, ...], ...]:
    return tuple(tuple(group) for _, group in groupby(chosen, key=lambda c: c[0].priority))


def _in_order(groups: tuple[tuple[Chosen, ...], ...], ask: Asked) -> Side | None:
    """An admin tier: "policies with lower priority values ... are checked before"."""
    for group in groups:
        decided = _of_one_priority(group, ask)
        if decided is not None:
            # Pass "skips all further ClusterNetworkPolicy rules in the current tier".
            return None if decided.verdict == PASS else decided
    return None


def _of_one_priority(group: tuple[Chosen, ...], ask: Asked) -> Side | None:
    sides = [side for chosen in group if (side := _first_match(*chosen, ask))]
    if not sides:
        return None
    agreed = all(side.verdict == sides[0].verdict for side in sides)
    if agreed:
        return sides[0]
    for side in sides:
        if side.verdict == UNKNOWN:
            return side
    return Side(UNKNOWN, SAME_PRIORITY, tuple(side.policies[0] for side in sides), sides[0].rule)


def _first_match(policy: Policy, certain: bool, ask: Asked) -> Side | None:
    """The first in order: rules "at the top ... would take the highest precedence"."""
    if policy.unreadable:
        return Side(UNKNOWN, UNREADABLE, (policy,))
    for rule in rules_of(policy, ask.direction) or ():
        met = meets(rule, policy, ask)
        if met and certain and rule.action == DENY and ask.peer.kind == NOBODY_KNOWS:
            return Side(UNKNOWN, UNKNOWN_END, (policy,), rule)  # see _isolated
        if met and certain:
            return Side(_VERDICT_OF[rule.action], RULE, (policy,), rule)
        if met is not False:
            return Side(UNKNOWN, SELECTION if met else DOUBT, (policy,), rule)
    return None


def _united(network: tuple[Chosen, ...], ask: Asked) -> Side | None:
    """NetworkPolicies are united: "the order of evaluation does not affect the policy result"."""
    told = [c for c in network if c[0].unreadable or rules_of(c[0], ask.direction) is not None]
    if not told:
        return None
    isolating = tuple(p for p, certain in told if certain and not p.unreadable)
    if ask.local.kind == POD and ask.protocol not in HAVE_PORTS:
        # "For other protocols, such as ARP or ICMP, the behaviour is undefined."
        return Side(UNKNOWN, PROTOCOL, isolating)
    return _any_rule(told, ask) or _isolated(told[0][0], isolating, ask)


def _isolated(first: Policy, isolating: tuple[Policy, ...], ask: Asked) -> Side:
    """No rule has matched: "any connections not explicitly allowed are rejected"."""
    if not isolating:
        return Side(UNKNOWN, SELECTION, (first,))
    if ask.peer.kind == NOBODY_KNOWS:
        return Side(UNKNOWN, UNKNOWN_END, isolating)  # it may be the pod's own node, or itself
    return Side(DENIED, ISOLATED, isolating)


def _any_rule(told: list[Chosen], ask: Asked) -> Side | None:
    """What "matches at least one rule across all of the NetworkPolicy objects"."""
    doubt: Side | None = None  # the first
    for policy, certain in told:
        if policy.unreadable:
            doubt = doubt or Side(UNKNOWN, UNREADABLE, (policy,))
            continue
        for rule in rules_of(policy, ask.direction) or ():
            met = meets(rule, policy, ask)
            if met and certain:
                return Side(ALLOWED, RULE, (policy,), rule)
            if met is not False:
                doubt = doubt or Side(UNKNOWN, SELECTION if met else DOUBT, (policy,), rule)
    return doubt
