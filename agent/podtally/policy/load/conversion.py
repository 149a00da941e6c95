# SPDX-License-Identifier: Apache-2.0
"""Conversion of valid NetworkPolicies, HostPolicies and Ingresses to the model.

Defaults are those of k8s.io/kubernetes ``pkg/apis/networking/v1/defaults.go``.
"""

from podtally.policy.cidr import parse_sloppy
from podtally.policy.domain_patterns import normalise
from podtally.policy.ingress import (
    CLASS_ANNOTATION,
    DeclaredIngress,
    IngressRoute,
    IngressServicePort,
    addresses_of,
)
from podtally.policy.model import (
    ALLOW,
    EVERYTHING,
    LAST_PORT,
    SCTP,
    TCP,
    UDP,
    Block,
    DomainPeer,
    HostSubject,
    Network,
    Peer,
    PodPeer,
    PodSubject,
    Policy,
    PolicyPort,
    Requirement,
    Rule,
    Selector,
)
from podtally.policy.schema import network

PROTOCOLS = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP}
DEFAULT_NAMESPACE = "default"  # where none is given


def network_policy(policy: network.NetworkPolicy, candidate: bool) -> Policy:
    spec = policy.spec
    ingress = tuple(
        Rule(index, ALLOW, _network_peers(rule.from_), _ports(rule.ports))
        for index, rule in enumerate(spec.ingress)
    )
    egress = tuple(
        Rule(index, ALLOW, _network_peers(rule.to), _ports(rule.ports))
        for index, rule in enumerate(spec.egress)
    )
    types = _policy_types(spec)
    return Policy(
        policy.kind,
        policy.metadata.namespace or DEFAULT_NAMESPACE,
        name_of(policy.metadata),
        PodSubject(None, selector(spec.pod_selector)),
        ingress if "Ingress" in types else None,
        egress if "Egress" in types else None,
        candidate=candidate,
    )


def host_policy(policy: network.HostPolicy, candidate: bool) -> Policy:
    spec = policy.spec
    ingress = tuple(
        Rule(index, ALLOW, _host_peers(rule.from_), _ports(rule.ports))
        for index, rule in enumerate(spec.ingress)
    )
    egress = tuple(
        Rule(index, ALLOW, _host_destinations(rule.to), _ports(rule.ports))
        for index, rule in enumerate(spec.egress)
    )
    types = _policy_types(spec)
    return Policy(
        policy.kind,
        "",
        name_of(policy.metadata),
        endpoints(spec),
        ingress if "Ingress" in types else None,
        egress if "Egress" in types else None,
        candidate=candidate,
    )


def ingress(given: network.Ingress) -> DeclaredIngress:
    spec, meta = given.spec, given.metadata
    routes = [
        IngressRoute(rule.host, path.path, path.path_type or "", _backend(path.backend))
        for rule in spec.rules
        for path in (rule.http.paths if rule.http else ())
    ]
    if spec.default_backend is not None:
        routes.append(IngressRoute("", "", "", _backend(spec.default_backend)))
    return DeclaredIngress(
        meta.namespace or DEFAULT_NAMESPACE,
        name_of(meta),
        spec.ingress_class_name or meta.annotations.get(CLASS_ANNOTATION, ""),
        tuple(routes),
        addresses_of(given.status),
    )


def name_of(meta: network.PolicyObjectMetadata) -> str:
    """Return the name, or the ``generateName`` from which the server would make one."""
    return meta.name or meta.generate_name


def selector(given: network.LabelSelector) -> Selector:
    labels = [
        Requirement(key, "In", frozenset((value,)))
        for key, value in sorted(given.match_labels.items())
    ]
    expressions = [
        Requirement(expression.key or "", expression.operator or "", frozenset(expression.values))
        for expression in given.match_expressions
    ]
    return Selector((*labels, *expressions)) if labels or expressions else EVERYTHING


def _policy_types(spec: network.NetworkSpec | network.HostSpec) -> tuple[str, ...]:
    """Return them; the default adds Egress if it has rules (``SetDefaults_NetworkPolicy``)."""
    if spec.policy_types:
        return spec.policy_types
    return ("Ingress", "Egress") if spec.egress else ("Ingress",)


def _network_peers(given: tuple[network.NetworkPeer, ...]) -> tuple[Peer, ...] | None:
    """None: "If this field is empty or missing, this rule matches all sources"."""
    return tuple(_network_peer(peer) for peer in given) or None


def _network_peer(peer: network.NetworkPeer) -> Peer:
    if peer.ip_block is not None:
        return _block(peer.ip_block)
    pods = EVERYTHING if peer.pod_selector is None else selector(peer.pod_selector)
    if peer.namespace_selector is None:
        return PodPeer(None, pods)
    return PodPeer(selector(peer.namespace_selector), pods)


def _host_peers(given: tuple[network.HostPeer, ...]) -> tuple[Peer, ...] | None:
    return (
        tuple(_block(p.ip_block) if p.ip_block is not None else endpoints(p) for p in given) or None
    )


def _host_destinations(given: tuple[network.HostDestination, ...]) -> tuple[Peer, ...] | None:
    return tuple(map(_host_destination, given)) or None


def _host_destination(given: network.HostDestination) -> Peer:
    if given.ip_block is not None:
        return _block(given.ip_block)
    if given.domain_names:
        return DomainPeer(tuple(dict.fromkeys(map(normalise, given.domain_names))))
    return endpoints(given)


def endpoints(
    given: network.HostSpec | network.HostPeer | network.HostDestination,
) -> HostSubject:
    labelled = given.endpoint_selector
    return HostSubject(
        None if labelled is None else selector(labelled), given.units, given.containers, given.host
    )


def _block(given: network.IPBlock) -> Block:
    return Block(_network(given.cidr), tuple(_network(text) for text in given.except_))


def _network(text: str) -> Network:
    cidr = parse_sloppy(text)
    if cidr is None:
        raise ValueError(f"invalid CIDR {text!r} passed validation")
    return cidr.network()


def _ports(given: tuple[network.NetworkPort, ...]) -> tuple[PolicyPort, ...] | None:
    """None: "If this field is empty or missing, this rule matches all ports"."""
    return tuple(_port(port) for port in given) or None


def _port(given: network.NetworkPort) -> PolicyPort:
    protocol = PROTOCOLS[given.protocol or "TCP"]  # "If not specified, this field defaults to TCP"
    if (
        given.port is None
    ):  # "If this field is not provided, this matches all port names and numbers"
        return PolicyPort(protocol, 0, LAST_PORT)
    if isinstance(given.port, str):
        return PolicyPort(protocol, name=given.port)
    return PolicyPort(protocol, given.port, given.end_port or given.port)


def _backend(given: network.IngressBackend) -> IngressServicePort | None:
    service = given.service
    if service is None:
        return None
    return IngressServicePort(service.name, service.port.number, service.port.name)
