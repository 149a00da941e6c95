# SPDX-License-Identifier: Apache-2.0
"""Whether a subject means a party, and a rule a connection: True, False, or None: not known."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

from podtally.identity.networks import ADDRESS_BITS
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

EndpointSelector = (
    PodPeer | PodSubject | NodePeer | HostSubject
)  # by labels or names, not by address

_MAPPED, _MAPPED_BITS = 0xFFFF, 96  # ::ffff:0:0/96, RFC 4291 2.5.5.2


class RuleInput(NamedTuple):
    """A question as the policies of one end see it: ``local`` is whom they select."""

    direction: str
    local: PolicyEndpoint
    local_ip: int
    peer: PolicyEndpoint
    peer_ip: int
    destination: PolicyEndpoint
    protocol: int
    port: int  # 0: the protocol has none, or which one it is is not known
    by_service: bool = False  # see Question


def rules_of(policy: Policy, direction: str) -> tuple[Rule, ...] | None:
    return policy.ingress if direction == INGRESS else policy.egress


def applies_in(policy: Policy, direction: str) -> bool:
    """Whether the policy may say something of that direction."""
    if policy.unreadable:
        return policy.untouched != direction
    return rules_of(policy, direction) is not None


def selects_endpoint(policy: Policy, party: PolicyEndpoint) -> bool | None:
    """Whether the policy is for this party.

    Those of the host's network are nobody's subject: "host-networked pods are not included in
    subject selection" (ClusterNetworkPolicySubject); the Kubernetes page on network policies
    has them as the node, which no NetworkPolicy selects.
    """
    return selector_matches(policy.subject, policy.namespace, party)


def rule_matches(rule: Rule, policy: Policy, asked: RuleInput) -> bool | None:
    """Whether the rule is about this connection: it "must match both ports and from"."""
    at_port = ports_match(rule, asked)
    if at_port is False:
        return False
    return and3(at_port, peers_match(rule, policy, asked))


def peers_match(rule: Rule, policy: Policy, asked: RuleInput) -> bool | None:
    """Any of them; "if this field is empty or missing, this rule matches all sources"."""
    if rule.peers is None:
        return True
    return _any(peer_matches(peer, policy, asked) for peer in rule.peers)


def ports_match(rule: Rule, asked: RuleInput) -> bool | None:
    """Any of them; "if this field is empty or missing, this rule matches all ports"."""
    if rule.ports is None:
        return True
    return _any(port_matches(port, asked) for port in rule.ports)


def peer_matches(peer: Peer, policy: Policy, asked: RuleInput) -> bool | None:
    party = asked.peer
    if isinstance(peer, Block):
        return in_block(peer, asked.peer_ip) if asked.peer_ip else None
    if isinstance(peer, DomainPeer):
        # Names that resolve to pods and nodes may be meant as well (NPEP-133, expected
        # behaviour), so without the answers of DNS nobody is ruled out.
        return None
    return None if party.kind == UNIDENTIFIED else selector_matches(peer, policy.namespace, party)


def selector_matches(meant: EndpointSelector, namespace: str, party: PolicyEndpoint) -> bool | None:
    """Whether labels and names select the party; ``namespace`` is the policy's own."""
    if isinstance(meant, HostSubject):
        return _host_matches(meant, party)
    if isinstance(meant, NodePeer):
        # "It selects the nodeIPs", so that it means what uses the node's network.
        return uses_node(party) and selects(meant.nodes, party.node_labels)
    if party.kind != POD or party.host_network:
        return False
    if meant.namespaces is None:  # "... in the policy's own namespace"
        in_namespace: bool | None = party.namespace == namespace
    else:
        in_namespace = selects_namespace(meant.namespaces, party.namespace, party.namespace_labels)
    if in_namespace is False:
        return False
    return and3(in_namespace, selects(meant.pods, party.labels))


def uses_node(party: PolicyEndpoint) -> bool:
    """Whether its address is a node's."""
    return party.kind == NODE or (party.kind in (POD, HOST) and party.host_network)


def in_block(block: Block, ip: int) -> bool:
    """In the CIDR and in none of its exceptions; IPv4 is compared with IPv4 only (mapped)."""
    return in_network(block.network, ip) and not any(in_network(n, ip) for n in block.excepted)


def in_network(network: Network, ip: int) -> bool:
    first, bits = network
    if bits < _MAPPED_BITS and ip >> 32 == _MAPPED:
        return False  # ::/0 is all of IPv6, and IPv4 only looks like a part of it here
    return (ip ^ first) >> (ADDRESS_BITS - bits) == 0


def port_matches(port: PolicyPort, asked: RuleInput) -> bool | None:
    if port.protocol not in (asked.protocol, ANY_PROTOCOL):
        return False
    if port.name:
        return _named_port_matches(port.name, asked)
    if is_port_known(asked):
        return port.first <= asked.port <= port.last
    return True if is_every_port(port) else None


def is_port_known(asked: RuleInput) -> bool:
    """As 0 stands for a port that is not known: IANA keeps it back, nothing is served there."""
    return asked.port != 0 or asked.protocol not in HAVE_PORTS


def is_every_port(port: PolicyPort) -> bool:
    return not port.name and port.first <= 1 and port.last >= LAST_PORT


def _named_port_matches(name: str, asked: RuleInput) -> bool | None:
    """A named port is what the destination calls so; who is no pod has no names."""
    party = asked.destination
    if party.kind == UNIDENTIFIED:
        return None
    if party.kind != POD or party.host_network:
        return False
    if party.ports is None:
        return None
    if is_port_known(asked):
        return (name, asked.protocol, asked.port) in party.ports
    return None if any(port[:2] == (name, asked.protocol) for port in party.ports) else False


def _host_matches(meant: HostSubject, party: PolicyEndpoint) -> bool | None:
    if party.kind != HOST:
        return False
    return _any(
        (
            meant.host and party.host_network,
            bool(party.unit) and any(fnmatchcase(party.unit, glob) for glob in meant.units),
            bool(party.container)
            and any(fnmatchcase(party.container, glob) for glob in meant.containers),
            meant.endpoints is not None and selects(meant.endpoints, party.labels),
        )
    )


def _any(answers: Iterable[bool | None]) -> bool | None:
    """Or, of three values."""
    found: bool | None = False
    for answer in answers:
        if answer:
            return True
        if answer is None:
            found = None
    return found
