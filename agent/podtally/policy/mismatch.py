"""Why a rule does not match, or may, in words; and how near it came, to find the nearest.

Only asked for what is shown, so that it may look at everything again.
"""

from typing import NamedTuple

from podtally.identity.model import Labels
from podtally.policy.model import (
    ANY_PROTOCOL,
    HOST,
    NAMESPACE_NAME_LABEL,
    NOBODY_KNOWS,
    NODE,
    POD,
    Block,
    DomainPeer,
    NodePeer,
    Party,
    Peer,
    PodPeer,
    Policy,
    Port,
    Rule,
    Selector,
)
from podtally.policy.rules import (
    Asked,
    in_network,
    is_peer,
    is_port,
    is_port_known,
    meets_peers,
    meets_ports,
)
from podtally.policy.selectors import selects, selects_namespace
from podtally.policy.words import (
    address_words,
    listed,
    network_words,
    party_words,
    port_words,
    protocol_words,
    requirement_words,
)

_BOTH_FAIL = 10  # further away than any rule of which one half matches


class Mismatch(NamedTuple):
    distance: int  # 0: none
    words: str


def mismatch(rule: Rule, policy: Policy, ask: Asked) -> Mismatch:
    """What of the rule does not match, for certain; the nearest where there are several."""
    at_port = meets_ports(rule, ask) is False
    at_peer = meets_peers(rule, policy, ask) is False
    port = _ports(rule.ports or (), ask) if at_port else Mismatch(0, "")
    peer = _peers(rule.peers or (), policy, ask) if at_peer else Mismatch(0, "")
    further = _BOTH_FAIL if at_port and at_peer else 0
    words = " and ".join(filter(None, (peer.words, port.words)))
    return Mismatch(peer.distance + port.distance + further, words)


def doubt(rule: Rule, policy: Policy, ask: Asked) -> str:
    """What would have to be known to say whether the rule matches."""
    if meets_ports(rule, ask) is None:
        if not is_port_known(ask):
            return "which port it is, is not known"
        named = next(p for p in rule.ports or () if is_port(p, ask) is None)
        return f"which port {named.name} is, is not known"
    peers = (p for p in rule.peers or () if is_peer(p, policy, ask) is None)
    peer = next(peers, None)
    who = party_words(ask.peer, ask.peer_ip)
    if isinstance(peer, DomainPeer):
        return f"whether {listed(list(peer.names), 'or')} is {who} is not known without DNS"
    if isinstance(peer, Block):
        return "the address is not known"
    if ask.peer.kind == NOBODY_KNOWS:
        return f"who {who} is, is not known"
    return f"the labels of {who} are not known"


def _ports(ports: tuple[Port, ...], ask: Asked) -> Mismatch:
    if not ports:
        return Mismatch(4, "it has no ports")
    same = [p for p in ports if p.protocol in (ask.protocol, ANY_PROTOCOL)]
    if not same:
        others = sorted({protocol_words(p.protocol) for p in ports})
        return Mismatch(2, f"{protocol_words(ask.protocol)} is not {listed(others, 'or')}")
    asked = f"port {ask.port}" if is_port_known(ask) else "the port"
    return Mismatch(1, f"{asked} is not {listed([_port(p, ask) for p in same], 'or')}")


def _port(port: Port, ask: Asked) -> str:
    if not port.name:
        return port_words(port)
    protocols = (ask.protocol,) if port.protocol == ANY_PROTOCOL else (port.protocol,)
    numbers = [
        str(number)
        for name, protocol, number in ask.destination.ports or ()
        if name == port.name and protocol in protocols
    ]
    who = party_words(ask.destination, ask.peer_ip)
    return f"{port.name} ({listed(numbers, 'or') if numbers else f'{who} has none'})"


def _peers(peers: tuple[Peer, ...], policy: Policy, ask: Asked) -> Mismatch:
    if not peers:
        return Mismatch(4, "it names nobody")
    # min() keeps the first of equals.
    return min((_peer(peer, policy, ask) for peer in peers), key=lambda m: m.distance)


def _peer(peer: Peer, policy: Policy, ask: Asked) -> Mismatch:
    party, who = ask.peer, party_words(ask.peer, ask.peer_ip)
    if isinstance(peer, Block):
        return _block(peer, ask.peer_ip)
    if isinstance(peer, NodePeer):
        if party.kind != NODE and not party.host_network:
            return Mismatch(4, f"{who} is no node")
        return Mismatch(1, f"node {party.node} {_lacks(peer.nodes, party.node_labels)}")
    if isinstance(peer, PodPeer):
        return _pod(peer, policy, party, who)
    words = f"{who} is not selected" if party.kind == HOST else f"{who} is no endpoint of a host"
    return Mismatch(2, words)


def _block(block: Block, ip: int) -> Mismatch:
    for excepted in block.excepted:
        if in_network(excepted, ip):
            inside = f"{network_words(excepted)}, excepted from {network_words(block.network)}"
            return Mismatch(1, f"{address_words(ip)} is in {inside}")
    return Mismatch(3, f"{address_words(ip)} is not in {network_words(block.network)}")


def _pod(peer: PodPeer, policy: Policy, party: Party, who: str) -> Mismatch:
    if party.kind != POD:
        return Mismatch(4, f"{who} is no pod")
    if party.host_network:
        return Mismatch(4, f"{who} uses its node's network, so no pod selector means it")
    if peer.namespaces is None and party.namespace != policy.namespace:
        return Mismatch(2, f"{who} is not in namespace {policy.namespace}")
    if (
        peer.namespaces is not None
        and selects_namespace(peer.namespaces, party.namespace, party.namespace_labels) is False
    ):
        labels = (*(party.namespace_labels or ()), (NAMESPACE_NAME_LABEL, party.namespace))
        return Mismatch(2, f"namespace {party.namespace} {_lacks(peer.namespaces, labels)}")
    return Mismatch(1, f"{who} {_lacks(peer.pods, party.labels)}")


def _lacks(selector: Selector, labels: Labels | None) -> str:
    """The first requirement that does not hold, and what is there instead."""
    known = dict(labels or ())
    for requirement in selector.requirements:
        if selects(Selector((requirement,)), labels) is False:
            key, wanted = requirement.key, requirement_words(requirement)
            return f"has {key}={known[key]}, not {wanted}" if key in known else f"lacks {wanted}"
    return "is not selected"
