# SPDX-License-Identifier: Apache-2.0
"""Near misses: why a rule does not match, or only may, and which rule came nearest.

Used only for what is shown, so it may examine everything again.
"""

from collections.abc import Iterable
from typing import NamedTuple

from podtally.policy.explain.domains import domain_doubt, domain_mismatch
from podtally.policy.explain.formatting import (
    format_address,
    format_endpoint,
    format_network,
    format_port,
    format_protocol,
    format_requirement,
    join_words,
)
from podtally.policy.model import (
    ANY_PROTOCOL,
    HOST,
    NAMESPACE_NAME_LABEL,
    NODE,
    POD,
    UNIDENTIFIED,
    Block,
    DomainPeer,
    NodePeer,
    Peer,
    PodPeer,
    Policy,
    PolicyEndpoint,
    PolicyPort,
    Rule,
    Selector,
)
from podtally.policy.reference.matching import (
    RuleInput,
    in_network,
    is_port_known,
    peer_matches,
    peers_match,
    port_matches,
    ports_match,
)
from podtally.policy.reference.selectors import selects, selects_namespace
from podtally.runtimes.model import Labels

_BOTH_FAIL = 10  # further than any rule of which peers or ports match
_NEAREST = 1  # the least distance of failing peers or ports
MIN_BOTH_FAIL = _BOTH_FAIL + 2 * _NEAREST
_MAX_PORTS = 4  # of a rule's ports, in a message


class NearMiss(NamedTuple):
    """What of a rule certainly does not match."""

    distance: int  # 0: it matches, or may
    policy: Policy
    rule: Rule
    at_peer: bool  # the peers do not match
    peer: Peer | None  # the nearest peer; None: there are none
    at_port: bool  # the ports do not match


def near_miss(rule: Rule, policy: Policy, conn: RuleInput) -> NearMiss:
    """Return how near the rule came to matching."""
    at_port = ports_match(rule, conn) is False
    at_peer = peers_match(rule, policy, conn) is False
    port = _port_distance(rule.ports or (), conn) if at_port else 0
    distance, peer = _nearest_peer(rule.peers or (), policy, conn) if at_peer else (0, None)
    further = _BOTH_FAIL if at_port and at_peer else 0
    return NearMiss(distance + port + further, policy, rule, at_peer, peer, at_port)


def nearest_miss(
    rules: Iterable[tuple[Policy, Rule]], conn: RuleInput, least: int | None = None
) -> NearMiss | None:
    """Return the nearest rule, the first of equals; ``least`` is a lower bound of all distances."""
    found: NearMiss | None = None
    enough = _NEAREST if least is None else least
    for policy, rule in rules:
        other = near_miss(rule, policy, conn)
        if found is None or other.distance < found.distance:
            found = other
            if found.distance <= enough:
                break
    return found


def describe_miss(found: NearMiss, conn: RuleInput) -> str:
    """Say what does not match."""
    peer = port = ""
    if found.at_peer:
        peer = _peer_words(found.peer, found.policy, conn) if found.peer else "it has no peers"
    if found.at_port:
        port = _ports(found.rule.ports or (), conn)
    return " and ".join(filter(None, (peer, port)))


def describe_mismatch(rule: Rule, policy: Policy, conn: RuleInput) -> str:
    """Say what of the rule does not match, for the nearest peer."""
    return describe_miss(near_miss(rule, policy, conn), conn)


def describe_doubt(rule: Rule, policy: Policy, conn: RuleInput) -> str:
    """Say what is unknown that decides whether the rule matches."""
    if ports_match(rule, conn) is None:
        if not is_port_known(conn):
            return "the port is unknown"
        named = next(p for p in rule.ports or () if port_matches(p, conn) is None)
        return f"the number of port {named.name} is unknown"
    peers = (p for p in rule.peers or () if peer_matches(p, policy, conn) is None)
    peer = next(peers, None)
    who = format_endpoint(conn.peer, conn.peer_ip)
    if isinstance(peer, DomainPeer):
        return domain_doubt(peer, conn)
    if isinstance(peer, Block):
        return "the address is unknown"
    if conn.peer.kind == UNIDENTIFIED:
        return f"no known owner of {who}"
    return f"the labels of {who} are unknown"


def _port_distance(ports: tuple[PolicyPort, ...], conn: RuleInput) -> int:
    if not ports:
        return 4
    return _NEAREST if any(p.protocol in (conn.protocol, ANY_PROTOCOL) for p in ports) else 2


def _ports(ports: tuple[PolicyPort, ...], conn: RuleInput) -> str:
    if not ports:
        return "it has no ports"
    same = [p for p in ports if p.protocol in (conn.protocol, ANY_PROTOCOL)]
    if not same:
        others = sorted({format_protocol(p.protocol) for p in ports})
        return f"{format_protocol(conn.protocol)} is not {join_words(others, 'or')}"
    asked = f"port {conn.port}" if is_port_known(conn) else "the port"
    words = [_port(port, conn) for port in same[:_MAX_PORTS]]
    more = [""] * (len(same) - len(words))  # only counted
    return f"{asked} is not {join_words([*words, *more], 'or', _MAX_PORTS)}"


def _port(port: PolicyPort, conn: RuleInput) -> str:
    if not port.name:
        return format_port(port)
    protocols = (conn.protocol,) if port.protocol == ANY_PROTOCOL else (port.protocol,)
    numbers = [
        str(number)
        for name, protocol, number in conn.destination.ports or ()
        if name == port.name and protocol in protocols
    ]
    who = format_endpoint(conn.destination, conn.peer_ip)
    return f"{port.name} ({join_words(numbers, 'or') if numbers else f'{who} has none'})"


def _nearest_peer(
    peers: tuple[Peer, ...], policy: Policy, conn: RuleInput
) -> tuple[int, Peer | None]:
    if not peers:
        return 4, None
    least, found = 0, None
    for peer in peers:
        distance = _distance(peer, policy, conn)
        if found is None or distance < least:
            least, found = distance, peer
            if least <= _NEAREST:
                break
    return least, found


def _distance(peer: Peer, policy: Policy, conn: RuleInput) -> int:
    endpoint = conn.peer
    if isinstance(peer, Block):
        return 1 if any(in_network(n, conn.peer_ip) for n in peer.excepted) else 3
    if isinstance(peer, NodePeer):
        return 1 if endpoint.kind == NODE or endpoint.host_network else 4
    if isinstance(peer, DomainPeer):
        return 1 if conn.names.answers else 3
    if not isinstance(peer, PodPeer):
        return 2
    if endpoint.kind != POD or endpoint.host_network:
        return 4
    return 1 if _in_namespace(peer, policy, endpoint) else 2


def _in_namespace(peer: PodPeer, policy: Policy, endpoint: PolicyEndpoint) -> bool:
    if peer.namespaces is None:
        return endpoint.namespace == policy.namespace
    known = selects_namespace(peer.namespaces, endpoint.namespace, endpoint.namespace_labels)
    return known is not False


def _peer_words(peer: Peer, policy: Policy, conn: RuleInput) -> str:
    endpoint, who = conn.peer, format_endpoint(conn.peer, conn.peer_ip)
    if isinstance(peer, Block):
        return _block(peer, conn.peer_ip)
    if isinstance(peer, NodePeer):
        if endpoint.kind != NODE and not endpoint.host_network:
            return f"{who} is not a node"
        return f"node {endpoint.node} {_lacks(peer.nodes, endpoint.node_labels)}"
    if isinstance(peer, PodPeer):
        return _pod(peer, policy, endpoint, who)
    if isinstance(peer, DomainPeer):
        return domain_mismatch(peer, conn)
    return f"{who} is not selected" if endpoint.kind == HOST else f"{who} is not a host endpoint"


def _block(block: Block, ip: int) -> str:
    for excepted in block.excepted:
        if in_network(excepted, ip):
            inside = f"{format_network(excepted)}, excepted from {format_network(block.network)}"
            return f"{format_address(ip)} is in {inside}"
    return f"{format_address(ip)} is not in {format_network(block.network)}"


def _pod(peer: PodPeer, policy: Policy, endpoint: PolicyEndpoint, who: str) -> str:
    if endpoint.kind != POD:
        return f"{who} is not a pod"
    if endpoint.host_network:
        return f"{who} uses its node's network, so no pod selector matches it"
    if _in_namespace(peer, policy, endpoint):
        return f"{who} {_lacks(peer.pods, endpoint.labels)}"
    if peer.namespaces is None:
        return f"{who} is not in namespace {policy.namespace}"
    labels = (*(endpoint.namespace_labels or ()), (NAMESPACE_NAME_LABEL, endpoint.namespace))
    return f"namespace {endpoint.namespace} {_lacks(peer.namespaces, labels)}"


def _lacks(selector: Selector, labels: Labels | None) -> str:
    """Say which requirement fails first, and the label's actual value."""
    known = dict(labels or ())
    for requirement in selector.requirements:
        if selects(Selector((requirement,)), labels) is False:
            key, wanted = requirement.key, format_requirement(requirement)
            return f"has {key}={known[key]}, not {wanted}" if key in known else f"lacks {wanted}"
    return "is not selected"
