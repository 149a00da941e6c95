# SPDX-License-Identifier: Apache-2.0
"""Whether a subject selects an endpoint, and a rule matches a connection; None: unknown."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

from podtally.dns.known_names import NO_NAMES, Answered, KnownNames
from podtally.identity.networks import ADDRESS_BITS
from podtally.policy.domain_patterns import matches
from podtally.policy.model import (
    ANY_PROTOCOL,
    HOST,
    INGRESS,
    LAST_PORT,
    NODE,
    POD,
    SCTP,
    TCP,
    UDP,
    UNIDENTIFIED,
    Block,
    DomainPeer,
    HostSubject,
    Network,
    NodePeer,
    Peer,
    PodPeer,
    PodSubject,
    Policy,
    PolicyEndpoint,
    PolicyPort,
    Rule,
)
from podtally.policy.reference.selectors import and3, selects, selects_namespace

HAVE_PORTS = (TCP, UDP, SCTP)  # protocols for which the API defines what policies mean

EndpointSelector = PodPeer | PodSubject | NodePeer | HostSubject  # by label or name, not by address

_MAPPED, _MAPPED_BITS = 0xFFFF, 96  # ::ffff:0:0/96, RFC 4291 2.5.5.2


class RuleInput(NamedTuple):
    """A connection as one endpoint's policies see it; they select ``local``."""

    direction: str
    local: PolicyEndpoint
    local_ip: int
    peer: PolicyEndpoint
    peer_ip: int
    destination: PolicyEndpoint
    protocol: int
    port: int  # 0: the protocol has no ports, or the port is unknown
    by_service: bool = False  # see Question
    names: KnownNames = NO_NAMES  # of the peer; only of egress


def rules_of(policy: Policy, direction: str) -> tuple[Rule, ...] | None:
    return policy.ingress if direction == INGRESS else policy.egress


def applies_in(policy: Policy, direction: str) -> bool:
    """Return whether the policy applies, or may apply, in the direction."""
    if policy.unreadable:
        return policy.untouched != direction
    return rules_of(policy, direction) is not None


def selects_endpoint(policy: Policy, endpoint: PolicyEndpoint) -> bool | None:
    """Return whether the policy selects the endpoint.

    No policy selects host-network pods: "host-networked pods are not included in subject
    selection" (ClusterNetworkPolicySubject); the Kubernetes page on network policies treats them
    as the node, which no NetworkPolicy selects.
    """
    return selector_matches(policy.subject, policy.namespace, endpoint)


def rule_matches(rule: Rule, policy: Policy, conn: RuleInput) -> bool | None:
    """Return whether the rule matches the connection: it "must match both ports and from"."""
    at_port = ports_match(rule, conn)
    if at_port is False:
        return False
    return and3(at_port, peers_match(rule, policy, conn))


def peers_match(rule: Rule, policy: Policy, conn: RuleInput) -> bool | None:
    """Return whether any matches; "if this field is empty or missing, [it] matches all sources"."""
    if rule.peers is None:
        return True
    return any3(peer_matches(peer, policy, conn) for peer in rule.peers)


def ports_match(rule: Rule, conn: RuleInput) -> bool | None:
    """Return whether any matches; "if this field is empty or missing, [it] matches all ports"."""
    if rule.ports is None:
        return True
    return any3(port_matches(port, conn) for port in rule.ports)


def peer_matches(peer: Peer, policy: Policy, conn: RuleInput) -> bool | None:
    endpoint = conn.peer
    if isinstance(peer, Block):
        return in_block(peer, conn.peer_ip) if conn.peer_ip else None
    if isinstance(peer, DomainPeer):
        return domain_matches(peer, conn.names)
    return (
        None
        if endpoint.kind == UNIDENTIFIED
        else selector_matches(peer, policy.namespace, endpoint)
    )


def domain_matches(peer: DomainPeer, names: KnownNames) -> bool | None:
    """Return whether the endpoint found the peer by one of the names; from NPEP-133.

    "Pods are expected to make a DNS query for a domain before sending traffic to it." An answer
    that has expired still counts: applications keep addresses. Pods and nodes may have names
    too, so the owner of the address does not matter.
    """
    if matching_answer(peer, names) is not None:
        return True if peer.is_defined else None
    return None if names.missing else False


def matching_answer(peer: DomainPeer, names: KnownNames) -> Answered | None:
    """Return the answer for one of the names that is valid for longest, from a trusted resolver.

    Only "A/AAAA record"s count (NPEP-133), not the address hints of service records.
    """
    found = [
        answer
        for answer in names.answers
        if answer.trusted
        and not answer.is_hint
        and any(matches(pattern, answer.name) for pattern in peer.names)
    ]
    return max(found, key=lambda answer: (answer.expires, answer.answered), default=None)


def selector_matches(
    selector: EndpointSelector, namespace: str, endpoint: PolicyEndpoint
) -> bool | None:
    """Return whether labels and names select the endpoint; ``namespace`` is the policy's own."""
    if isinstance(selector, HostSubject):
        return _host_matches(selector, endpoint)
    if isinstance(selector, NodePeer):
        # "It selects the nodeIPs", so it matches whatever uses the node's network.
        return uses_node(endpoint) and selects(selector.nodes, endpoint.node_labels)
    if endpoint.kind != POD or endpoint.host_network:
        return False
    if selector.namespaces is None:  # "... in the policy's own namespace"
        in_namespace: bool | None = endpoint.namespace == namespace
    else:
        in_namespace = selects_namespace(
            selector.namespaces, endpoint.namespace, endpoint.namespace_labels
        )
    if in_namespace is False:
        return False
    return and3(in_namespace, selects(selector.pods, endpoint.labels))


def uses_node(endpoint: PolicyEndpoint) -> bool:
    """Return whether its address is a node's."""
    return endpoint.kind == NODE or (endpoint.kind in (POD, HOST) and endpoint.host_network)


def in_block(block: Block, ip: int) -> bool:
    """Return whether it is in the CIDR and in no exception; IPv4 matches IPv4 only (mapped)."""
    return in_network(block.network, ip) and not any(in_network(n, ip) for n in block.excepted)


def in_network(network: Network, ip: int) -> bool:
    first, bits = network
    if bits < _MAPPED_BITS and ip >> 32 == _MAPPED:
        return False  # ::/0 is all of IPv6; mapped IPv4 only looks like a part of it
    return (ip ^ first) >> (ADDRESS_BITS - bits) == 0


def port_matches(port: PolicyPort, conn: RuleInput) -> bool | None:
    if port.protocol not in (conn.protocol, ANY_PROTOCOL):
        return False
    if port.name:
        return _named_port_matches(port.name, conn)
    if is_port_known(conn):
        return port.first <= conn.port <= port.last
    return True if is_every_port(port) else None


def is_port_known(conn: RuleInput) -> bool:
    """Return whether the port is known. Port 0 means unknown: IANA reserves it, nothing uses it."""
    return conn.port != 0 or conn.protocol not in HAVE_PORTS


def is_every_port(port: PolicyPort) -> bool:
    return not port.name and port.first <= 1 and port.last >= LAST_PORT


def _named_port_matches(name: str, conn: RuleInput) -> bool | None:
    """Return whether the destination has the port under that name; only pods name ports."""
    endpoint = conn.destination
    if endpoint.kind == UNIDENTIFIED:
        return None
    if endpoint.kind != POD or endpoint.host_network:
        return False
    if endpoint.ports is None:
        return None
    if is_port_known(conn):
        return (name, conn.protocol, conn.port) in endpoint.ports
    return None if any(port[:2] == (name, conn.protocol) for port in endpoint.ports) else False


def _host_matches(selector: HostSubject, endpoint: PolicyEndpoint) -> bool | None:
    if endpoint.kind != HOST:
        return False
    return any3(
        (
            selector.host and endpoint.host_network,
            bool(endpoint.unit)
            and any(fnmatchcase(endpoint.unit, glob) for glob in selector.units),
            bool(endpoint.container)
            and any(fnmatchcase(endpoint.container, glob) for glob in selector.containers),
            selector.endpoints is not None and selects(selector.endpoints, endpoint.labels),
        )
    )


def any3(answers: Iterable[bool | None]) -> bool | None:
    """Return the three-valued or."""
    found: bool | None = False
    for answer in answers:
        if answer:
            return True
        if answer is None:
            found = None
    return found
