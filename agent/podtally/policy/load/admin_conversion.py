# SPDX-License-Identifier: Apache-2.0
"""Conversion of valid objects of the admin tiers' kinds to the model."""

from collections.abc import Iterator, Sequence

from podtally.policy.cidr import parse_cel
from podtally.policy.domain_patterns import normalise
from podtally.policy.load.conversion import PROTOCOLS, name_of, selector
from podtally.policy.model import (
    ADMIN_TIER,
    ALLOW,
    ANY_PROTOCOL,
    BASELINE_TIER,
    DENY,
    EVERYTHING,
    LAST_PRIORITY,
    PASS,
    Block,
    DomainPeer,
    NodePeer,
    Peer,
    PodPeer,
    PodSubject,
    Policy,
    PolicyPort,
    Rule,
)
from podtally.policy.schema import admin as schema
from podtally.policy.schema.network import LabelSelector

_ACTIONS = {"Allow": ALLOW, "Accept": ALLOW, "Deny": DENY, "Pass": PASS}
_TIERS = {"Admin": ADMIN_TIER, "Baseline": BASELINE_TIER}

_PortRule = schema.AdminIngressRule | schema.AdminEgressRule | schema.BaselineEgressRule
_Object = (
    schema.AdminNetworkPolicy | schema.BaselineAdminNetworkPolicy | schema.ClusterNetworkPolicy
)
_Spec = schema.AdminSpec | schema.BaselineSpec | schema.ClusterSpec
_ProtocolRule = schema.ClusterIngressRule | schema.ClusterEgressRule
_Peers = (
    tuple[schema.IngressPeer, ...] | tuple[schema.EgressPeer, ...] | tuple[schema.BaselinePeer, ...]
)


def admin_network_policy(policy: schema.AdminNetworkPolicy, candidate: bool) -> Policy:
    spec = policy.spec or schema.AdminSpec()
    return _policy(policy, spec, ADMIN_TIER, spec.priority or 0, candidate)


def baseline_admin_network_policy(
    policy: schema.BaselineAdminNetworkPolicy, candidate: bool
) -> Policy:
    spec = policy.spec or schema.BaselineSpec()
    return _policy(policy, spec, BASELINE_TIER, LAST_PRIORITY, candidate)


def cluster_network_policy(policy: schema.ClusterNetworkPolicy, candidate: bool) -> Policy:
    spec = policy.spec or schema.ClusterSpec()
    return _policy(policy, spec, _TIERS[spec.tier or "Admin"], spec.priority or 0, candidate)


def _policy(policy: _Object, spec: _Spec, tier: int, priority: int, candidate: bool) -> Policy:
    return Policy(
        kind=policy.kind,
        namespace="",
        name=name_of(policy.metadata),
        subject=subject(spec.subject),
        ingress=_rules(spec.ingress, tier),
        egress=_rules(spec.egress, tier),
        tier=tier,
        priority=priority,
        candidate=candidate,
    )


def _rules(rules: Sequence[_PortRule | _ProtocolRule], tier: int) -> tuple[Rule, ...] | None:
    """Return the rules of one direction; None: there are none."""
    return tuple(_rule(index, rule, tier) for index, rule in enumerate(rules)) or None


def subject(given: schema.IngressPeer | None) -> PodSubject:
    if given is None or (given.namespaces is None and given.pods is None):
        return PodSubject(EVERYTHING, EVERYTHING)
    return PodSubject(*_pods(given.namespaces, given.pods))


def _rule(index: int, rule: _PortRule | _ProtocolRule, tier: int) -> Rule:
    action = _ACTIONS[rule.action or ""]
    ports = _protocols(rule.protocols) if isinstance(rule, _ProtocolRule) else _ports(rule.ports)
    peers: _Peers
    if isinstance(rule, schema.AdminIngressRule | schema.ClusterIngressRule):
        peers = rule.from_ or ()
    else:
        peers = rule.to or ()
    allows = action == ALLOW and tier == ADMIN_TIER
    return Rule(index, action, _peers(peers, allows), ports, rule.name)


def _domains(names: tuple[str, ...], allows: bool) -> DomainPeer:
    """Return a peer by name. "Currently only ALLOW type rules are proposed" (NPEP-133)."""
    return DomainPeer(tuple(dict.fromkeys(map(normalise, names))), allows)


def _pods(namespaces: LabelSelector | None, pods: schema.NamespacedPods | None) -> PodPeer:
    if pods is None:
        return PodPeer(selector(namespaces or LabelSelector()))
    return PodPeer(
        selector(pods.namespace_selector or LabelSelector()),
        selector(pods.pod_selector or LabelSelector()),
    )


def _peers(given: _Peers, allows: bool) -> tuple[Peer, ...]:
    """``allows``: the rule allows, in the Admin tier."""
    return tuple(peer for one in given for peer in _peer(one, allows))


def _peer(
    given: schema.IngressPeer | schema.EgressPeer | schema.BaselinePeer, allows: bool
) -> Iterator[Peer]:
    """Yield a peer for each network, otherwise a single one."""
    if given.namespaces is not None or given.pods is not None:
        yield _pods(given.namespaces, given.pods)
    if isinstance(given, schema.IngressPeer):
        return
    if given.nodes is not None:
        yield NodePeer(selector(given.nodes))
    for text in given.networks or ():
        cidr = parse_cel(text)
        if cidr is None:
            raise ValueError(f"invalid CIDR {text!r} passed validation")
        yield Block(cidr.network())
    if isinstance(given, schema.EgressPeer) and given.domain_names:
        yield _domains(given.domain_names, allows)


def _ports(given: tuple[schema.AdminPort, ...] | None) -> tuple[PolicyPort, ...] | None:
    """None: "If Ports is not set then the rule does not filter traffic via port"."""
    return None if given is None else tuple(_port(port) for port in given)


def _port(given: schema.AdminPort) -> PolicyPort:
    number, span = given.port_number, given.port_range
    if number is not None:
        return PolicyPort(PROTOCOLS[number.protocol], number.port or 0, number.port or 0)
    if span is not None:
        return PolicyPort(PROTOCOLS[span.protocol], span.start or 0, span.end or 0)
    return PolicyPort(ANY_PROTOCOL, name=given.named_port or "")


def _protocols(given: tuple[schema.Protocol, ...] | None) -> tuple[PolicyPort, ...] | None:
    """None: "If unspecified, protocol-specific attributes will not be used to match traffic"."""
    return None if given is None else tuple(_protocol(protocol) for protocol in given)


def _protocol(given: schema.Protocol) -> PolicyPort:
    for name, match in (("TCP", given.tcp), ("UDP", given.udp), ("SCTP", given.sctp)):
        port = match.destination_port if match else None
        if port is not None and port.range is not None:
            return PolicyPort(PROTOCOLS[name], port.range.start or 0, port.range.end or 0)
        if port is not None:
            return PolicyPort(PROTOCOLS[name], port.number or 0, port.number or 0)
    return PolicyPort(ANY_PROTOCOL, name=given.destination_named_port or "")
