# SPDX-License-Identifier: Apache-2.0
"""Arranges pairs of peers and ports into the fewest rules, in an order that does not vary."""

from typing import NamedTuple

from podtally.policy.model import (
    Block,
    DomainPeer,
    HostSubject,
    Peer,
    PodPeer,
    PolicyPort,
    Requirement,
    Selector,
)
from podtally.suggest.flows import Flow
from podtally.suggest.workloads import WorkloadName


class PeerGroup(NamedTuple):
    """Peers that are written as one."""

    peers: tuple[Peer, ...]
    destinations: tuple[WorkloadName, ...] = ()  # the owners of the ports; empty: no pods'


Pairs = dict[tuple[PeerGroup, PolicyPort], list[Flow]]


def shapes(pairs: Pairs) -> list[tuple[list[PeerGroup], list[PolicyPort]]]:
    """Return the fewest rules: one for each set of ports, or one for each set of peers."""
    ports_of: dict[PeerGroup, set[PolicyPort]] = {}
    peers_of: dict[PolicyPort, set[PeerGroup]] = {}
    for peers, port in pairs:
        ports_of.setdefault(peers, set()).add(port)
        peers_of.setdefault(port, set()).add(peers)
    by_ports: dict[frozenset[PolicyPort], set[PeerGroup]] = {}
    for peers, ports in ports_of.items():
        by_ports.setdefault(frozenset(ports), set()).add(peers)
    by_peers: dict[frozenset[PeerGroup], set[PolicyPort]] = {}
    for port, its in peers_of.items():
        by_peers.setdefault(frozenset(its), set()).add(port)
    shapes = [(sorted(its, key=_group_key), sorted(ports)) for ports, its in by_ports.items()]
    if len(by_peers) < len(by_ports):
        shapes = [(sorted(its, key=_group_key), sorted(ports)) for its, ports in by_peers.items()]
    return sorted(shapes, key=lambda shape: (list(map(_group_key, shape[0])), shape[1]))


def _group_key(group: PeerGroup) -> tuple[str, ...]:
    """Return a sort key; sets have no order of their own."""
    return tuple(map(_peer_key, group.peers))


def _peer_key(peer: Peer) -> str:
    if isinstance(peer, Block):
        return f"1 {peer.network.first:032x} {peer.network.bits}"
    if isinstance(peer, DomainPeer):
        return f"2 {' '.join(peer.names)}"
    if isinstance(peer, PodPeer):
        parts = [
            *(peer.namespaces or Selector()).requirements,
            Requirement("", ""),
            *peer.pods.requirements,
        ]
        return "0 " + " ".join(f"{key} {how} {sorted(values)}" for key, how, values in parts)
    return f"3 {peer}" if isinstance(peer, HostSubject) else f"4 {peer}"
