# SPDX-License-Identifier: Apache-2.0
"""Validation of the admin tiers' kinds: the CRDs' OpenAPI and CEL rules.

An object is valid if any released CRD of network-policy-api accepts it (v0.1.7 and later,
standard or experimental channel); a warning says that another one rejects it. CRDs do not check
label selectors and protocols, so the server accepts what nothing can act on: such a policy is
loaded as unreadable.
"""

from typing import NamedTuple

from podtally.policy.cidr import parse_cel
from podtally.policy.problems import ERROR, WARNING, Fault, Path, warning
from podtally.policy.schema.admin import (
    AdminNetworkPolicy,
    AdminPort,
    AdminSpec,
    BaselineAdminNetworkPolicy,
    BaselinePeer,
    BaselineSpec,
    ClusterNetworkPolicy,
    EgressPeer,
    IngressPeer,
    NamespacedPods,
    Protocol,
)
from podtally.policy.schema.network import LabelSelector, PolicyObjectMetadata
from podtally.policy.validate import network_checks
from podtally.policy.validate.domain_checks import domain_names
from podtally.policy.validate.network_checks import Faults, not_one_of
from podtally.policy.validate.port_checks import (
    admin_port,
    cluster_protocol,
    exactly_one,
    length,
    required,
)
from podtally.yamltree.scalars import brief

_LAST_PRIORITY = 1000
_MAX_RULE_NAME_CHARACTERS = 100
_MAX_NETWORKS = 25
_MAX_NETWORK_CHARACTERS = 43
Peer = IngressPeer | BaselinePeer | EgressPeer


class _Grammar(NamedTuple):
    """What differs between the kinds."""

    actions: tuple[str, ...]
    max_items: int  # rules, peers and ports in a list
    needs_namespaces: bool  # pods must have a namespaceSelector


_ADMIN = _Grammar(("Allow", "Deny", "Pass"), 100, True)
_BASELINE = _Grammar(("Allow", "Deny"), 100, True)
_CLUSTER = _Grammar(("Accept", "Deny", "Pass"), 25, False)


class _RuleParts(NamedTuple):
    """A rule of any of the kinds."""

    name: str
    action: str | None
    peers_field: str
    peers: tuple[Peer, ...] | None
    ports: tuple[AdminPort, ...] | None = None
    protocols: tuple[Protocol, ...] | None = None


def admin_network_policy(policy: AdminNetworkPolicy) -> Faults:
    yield from network_checks.metadata(policy.metadata, namespaced=False)
    if policy.spec is None:
        yield required(("spec",))
        return
    spec = policy.spec
    yield from _priority(spec.priority)
    yield from _subject(spec.subject, _ADMIN)
    yield from _directions(spec, _ADMIN)


def baseline_admin_network_policy(policy: BaselineAdminNetworkPolicy) -> Faults:
    yield from network_checks.metadata(policy.metadata, namespaced=False)
    yield from _singleton(policy.metadata)
    if policy.spec is None:
        yield required(("spec",))
        return
    spec = policy.spec
    yield from _subject(spec.subject, _BASELINE)
    yield from _directions(spec, _BASELINE)


def _directions(spec: AdminSpec | BaselineSpec, grammar: _Grammar) -> Faults:
    ingress = [_RuleParts(r.name, r.action, "from", r.from_, r.ports) for r in spec.ingress]
    egress = [_RuleParts(r.name, r.action, "to", r.to, r.ports) for r in spec.egress]
    yield from _rules(ingress, "ingress", grammar)
    yield from _rules(egress, "egress", grammar)


def cluster_network_policy(policy: ClusterNetworkPolicy) -> Faults:
    yield from network_checks.metadata(policy.metadata, namespaced=False)
    if policy.spec is None:
        yield required(("spec",))
        return
    spec = policy.spec
    if spec.tier is None:
        yield required(("spec", "tier"))
    elif spec.tier not in ("Admin", "Baseline"):
        yield not_one_of(("spec", "tier"), spec.tier, ("Admin", "Baseline"))
    yield from _priority(spec.priority)
    yield from _subject(spec.subject, _CLUSTER)
    ingress = [
        _RuleParts(r.name, r.action, "from", r.from_, protocols=r.protocols) for r in spec.ingress
    ]
    egress = [_RuleParts(r.name, r.action, "to", r.to, protocols=r.protocols) for r in spec.egress]
    yield from _rules(ingress, "ingress", _CLUSTER)
    yield from _rules(egress, "egress", _CLUSTER)


def _priority(given: int | None) -> Faults:
    path = ("spec", "priority")
    if given is None:
        yield required(path)
    elif not 0 <= given <= _LAST_PRIORITY:
        yield Fault(path, f"must be between 0 and {_LAST_PRIORITY}")


def _singleton(meta: PolicyObjectMetadata) -> Faults:
    if meta.name != "default":
        yield Fault(("metadata", "name"), 'must be "default": the only name this kind allows')


def _subject(given: IngressPeer | None, grammar: _Grammar) -> Faults:
    path = ("spec", "subject")
    if given is None:
        yield required(path)
    else:
        yield from _peer(given, path, grammar)


def _rules(rules: list[_RuleParts], direction: str, grammar: _Grammar) -> Faults:
    path = ("spec", direction)
    if len(rules) > grammar.max_items:
        yield Fault(path, f"must have at most {grammar.max_items} rules")
    for index, rule in enumerate(rules):
        yield from _rule(rule, (*path, index), grammar)


def _rule(rule: _RuleParts, path: Path, grammar: _Grammar) -> Faults:
    if len(rule.name) > _MAX_RULE_NAME_CHARACTERS:
        yield Fault((*path, "name"), f"must be at most {_MAX_RULE_NAME_CHARACTERS} characters long")
    if rule.action is None:
        yield required((*path, "action"))
    elif rule.action not in grammar.actions:
        yield not_one_of((*path, "action"), rule.action, grammar.actions)
    at = (*path, rule.peers_field)
    if rule.peers is None:
        yield required(at)
    else:
        yield from length(len(rule.peers), at, grammar.max_items)
        for index, peer in enumerate(rule.peers):
            yield from _peer(peer, (*at, index), grammar)
    yield from _ports(rule, path, grammar)
    if _names_a_port(rule):
        yield from _without_port_names(rule, path, grammar)


def _without_port_names(rule: _RuleParts, path: Path, grammar: _Grammar) -> Faults:
    """Check that "networks/nodes/domainNames peer cannot be set with namedPorts".

    The experimental CRDs say so. The standard ones have networks only, and allow it.
    """
    peers = [peer for peer in rule.peers or () if not isinstance(peer, IngressPeer)]
    domains = any(isinstance(p, EgressPeer) and p.domain_names is not None for p in peers)
    if domains or any(peer.nodes is not None for peer in peers):
        yield Fault(path, "nodes and domainNames have no named ports; use port numbers")
    elif any(peer.networks is not None for peer in peers):
        message = "named ports match pods, never networks; the experimental CRDs reject this"
        fault = warning(path, f"{message}: use a port number")
        # Clusters mostly have the older kinds in the experimental channel: an error, but judged.
        yield fault if grammar is _CLUSTER else fault._replace(severity=ERROR)


def _ports(rule: _RuleParts, path: Path, grammar: _Grammar) -> Faults:
    if rule.ports is not None:
        yield from length(len(rule.ports), (*path, "ports"), grammar.max_items)
        for index, port in enumerate(rule.ports):
            yield from admin_port(port, (*path, "ports", index))
    if rule.protocols is not None:
        yield from length(len(rule.protocols), (*path, "protocols"), grammar.max_items)
        for index, protocol in enumerate(rule.protocols):
            yield from cluster_protocol(protocol, (*path, "protocols", index))


def _peer(peer: Peer, path: Path, grammar: _Grammar) -> Faults:
    names = {"namespaces": "namespaces", "pods": "pods", "nodes": "nodes"}
    names |= {"networks": "networks", "domainNames": "domain_names"}
    known = {name: field for name, field in names.items() if field in peer.__struct_fields__}
    yield from exactly_one({name: getattr(peer, field) for name, field in known.items()}, path)
    yield from _selector(peer.namespaces, (*path, "namespaces"))
    if peer.pods is not None:
        yield from _pods(peer.pods, (*path, "pods"), grammar)
    if isinstance(peer, IngressPeer):
        return
    yield from _selector(peer.nodes, (*path, "nodes"))
    if peer.networks is not None:
        yield from _set(peer.networks, (*path, "networks"))
        for index, text in enumerate(peer.networks):
            yield from _network(text, (*path, "networks", index))
    if isinstance(peer, EgressPeer) and peer.domain_names is not None:
        yield from domain_names(peer.domain_names, (*path, "domainNames"))


def _network(text: str, path: Path) -> Faults:
    cidr = parse_cel(text)
    if len(text) > _MAX_NETWORK_CHARACTERS or cidr is None:
        yield Fault(path, f"invalid CIDR {brief(text)}: use the form 203.0.113.0/24")
    elif cidr.network().first != cidr.address:
        yield warning(path, f"{brief(text)} has host bits, which v1beta1 rejects")


def _set(given: tuple[str, ...], path: Path) -> Faults:
    yield from length(len(given), path, _MAX_NETWORKS)
    if len(set(given)) < len(given):
        yield Fault(path, "must not contain duplicates")


def _pods(pods: NamespacedPods, path: Path, grammar: _Grammar) -> Faults:
    """Check the selectors. Decoded into Go types, a missing one selects everything."""
    if pods.pod_selector is None:
        yield required((*path, "podSelector"))._replace(lost=False)
    if pods.namespace_selector is None and grammar.needs_namespaces:
        yield required((*path, "namespaceSelector"))._replace(lost=False)
    yield from _selector(pods.pod_selector, (*path, "podSelector"))
    yield from _selector(pods.namespace_selector, (*path, "namespaceSelector"))


def _selector(given: LabelSelector | None, path: Path) -> Faults:
    """Check a selector. The schema requires keys and operators only, so the rest are warnings."""
    for index, expression in enumerate(given.match_expressions if given else ()):
        for name, value in (("key", expression.key), ("operator", expression.operator)):
            if value is None:
                yield required((*path, "matchExpressions", index, name))
    for fault in network_checks.selector(given, path):
        meaningless = fault.path[-1] in ("operator", "values") and isinstance(fault.path[-2], int)
        yield fault._replace(severity=WARNING, lost=meaningless)


def _names_a_port(rule: _RuleParts) -> bool:
    return any(port.named_port is not None for port in rule.ports or ()) or any(
        protocol.destination_named_port is not None for protocol in rule.protocols or ()
    )
