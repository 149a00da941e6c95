# SPDX-License-Identifier: Apache-2.0
"""Writes the rules for the flows of each workload and direction."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from podtally.policy.load.conversion import PROTOCOLS
from podtally.policy.model import (
    ALLOW,
    EGRESS,
    INGRESS,
    NAMESPACE_NAME_LABEL,
    Block,
    DomainPeer,
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
from podtally.suggest.conversation import NODE_PEER, POD_PEER
from podtally.suggest.external import NetworkChooser
from podtally.suggest.flows import Flow, Party
from podtally.suggest.selectors import SelectorFinder
from podtally.suggest.workloads import WorkloadName, Workloads

NETWORK_POLICY = "NetworkPolicy"
_NAME_CHARACTERS = 253


class RuleEvidence(NamedTuple):
    """A rule, and the flows that it is for."""

    rule: Rule
    flows: tuple[Flow, ...]
    notes: tuple[str, ...]


class SuggestedPolicy(NamedTuple):
    workloads: tuple[WorkloadName, ...]  # that it selects
    direction: str
    policy: Policy
    rules: tuple[RuleEvidence, ...]
    excluded: tuple[Flow, ...]


class _PeerGroup(NamedTuple):
    """Peers that are written as one."""

    peers: tuple[Peer, ...]
    destinations: tuple[WorkloadName, ...] = ()  # whose ports they are; empty: no pods'


_Pairs = dict[tuple[_PeerGroup, PolicyPort], list[Flow]]


class SuggestionMaker:
    def __init__(
        self,
        workloads: Workloads,
        window: tuple[float, float],
        networks: Mapping[str, Sequence[Network]],
        directions: Sequence[str] = (EGRESS, INGRESS),
        kind: str = NETWORK_POLICY,
    ) -> None:
        self._directions = directions
        self.selectors = SelectorFinder(workloads)
        self._workloads = workloads
        self._kind = kind
        addresses = [ip for pods in workloads.pods.values() for pod in pods for ip in pod.ips]
        addresses += [ip for node in workloads.cluster.nodes for ip in node.ips]
        self._networks = NetworkChooser(window, networks, addresses)

    def suggest(
        self, flows: Iterable[Flow], wanted: Iterable[WorkloadName]
    ) -> list[SuggestedPolicy]:
        """Return a policy for each direction of the wanted workloads that have flows, in order.

        Workloads that no label tells apart have one policy. A direction without flows is
        isolated, without rules.
        """
        groups = {self.selectors.of(name).workloads for name in wanted}
        group_of = {name: group for group in groups for name in group}
        by_place: dict[tuple[tuple[WorkloadName, ...], str], list[Flow]] = {}
        seen: set[tuple[WorkloadName, ...]] = set()
        for flow in flows:
            for direction, local in ((EGRESS, flow.key.source), (INGRESS, flow.key.destination)):
                group = group_of.get(local.workload) if local.kind == POD_PEER else None
                if group is not None:
                    by_place.setdefault((group, direction), []).append(flow)
                    seen.add(group)
        places = [(group, direction) for group in sorted(seen) for direction in self._directions]
        return [self._policy(*place, by_place.get(place, [])) for place in places]

    def _policy(
        self, group: tuple[WorkloadName, ...], direction: str, flows: list[Flow]
    ) -> SuggestedPolicy:
        allowed = [flow for flow in flows if not flow.excluded]
        rules = self._rules(group, direction, allowed)
        subject = self.selectors.of(group[0]).selector
        name = f"{group[0].name}-{direction}"[-_NAME_CHARACTERS:]
        written = tuple(each.rule for each in rules)
        policy = Policy(
            kind=self._kind,
            namespace=group[0].namespace,
            name=name,
            subject=PodSubject(None, subject),
            ingress=written if direction == INGRESS else None,
            egress=written if direction == EGRESS else None,
        )
        return SuggestedPolicy(
            group, direction, policy, rules, tuple(flow for flow in flows if flow.excluded)
        )

    def _rules(
        self, group: tuple[WorkloadName, ...], direction: str, flows: list[Flow]
    ) -> tuple[RuleEvidence, ...]:
        notes: dict[_PeerGroup, list[str]] = {}
        pairs: _Pairs = {}
        for peers, several, note in self._peers(group, direction, flows):
            notes.setdefault(peers, []).append(note)
            for flow in several:
                port = self._port(flow, peers if direction == EGRESS else None, group)
                pairs.setdefault((peers, port), []).append(flow)
        found = []
        for index, (groups, ports) in enumerate(_shapes(pairs)):
            written = tuple(dict.fromkeys(peer for each in groups for peer in each.peers))
            its = [flow for each in groups for port in ports for flow in pairs[each, port]]
            said = dict.fromkeys(note for each in groups for note in notes[each] if note)
            rule = Rule(index, ALLOW, written, tuple(ports))
            found.append(RuleEvidence(rule, tuple(its), tuple(said)))
        return tuple(found)

    def _peers(
        self, group: tuple[WorkloadName, ...], direction: str, flows: list[Flow]
    ) -> Iterator[tuple[_PeerGroup, list[Flow], str]]:
        """Yield peers, the flows with them, and a note."""
        pods: dict[tuple[WorkloadName, ...], list[Flow]] = {}
        nodes: dict[Party, list[Flow]] = {}
        outside: dict[tuple[str, int, int], list[Flow]] = {}
        for flow in flows:
            peer = flow.key.destination if direction == EGRESS else flow.key.source
            if peer.kind == POD_PEER:
                pods.setdefault(self.selectors.of(peer.workload).workloads, []).append(flow)
            elif peer.kind == NODE_PEER:
                nodes.setdefault(peer, []).append(flow)
            else:
                outside.setdefault(flow.key[2:], []).append(flow)
        for workloads, several in pods.items():
            note = ""
            if len(workloads) > 1:
                note = f"no label tells these apart: {', '.join(map(str, workloads))}"
            yield self._pod_group(workloads, group[0].namespace), several, note
        for node, several in nodes.items():
            blocks = tuple(Block(Network(ip, 128)) for ip in sorted(_addresses(several)))
            yield _PeerGroup(blocks), several, f"{node}, or pods in its network"
        for several in outside.values():
            chosen = self._networks.choose(_addresses(several))
            domains = {end.domain for flow in several for end in flow.key[:2]}
            names = sorted(filter(None, domains))
            yield (
                _PeerGroup(chosen.blocks),
                several,
                f"{', '.join(names) or 'no name'}: {chosen.note}",
            )

    def _pod_group(self, workloads: tuple[WorkloadName, ...], own: str) -> _PeerGroup:
        selector = self.selectors.of(workloads[0]).selector
        space = workloads[0].namespace
        namespaces = (
            None
            if space == own
            else Selector((Requirement(NAMESPACE_NAME_LABEL, "In", frozenset((space,))),))
        )
        return _PeerGroup((PodPeer(namespaces, selector),), workloads)

    def _port(
        self, flow: Flow, peers: _PeerGroup | None, group: tuple[WorkloadName, ...]
    ) -> PolicyPort:
        """Return the port, by name if all pods that have it agree on the name."""
        protocol = PROTOCOLS[flow.key.protocol]
        number, last = flow.key.port, flow.key.last_port
        destinations = group if peers is None else peers.destinations
        name = self._port_name(destinations, protocol, number) if number == last else ""
        if name:
            return PolicyPort(protocol, name=name)
        return PolicyPort(protocol, number, last)

    def _port_name(self, workloads: tuple[WorkloadName, ...], protocol: int, number: int) -> str:
        pods = [pod for name in workloads for pod in self._workloads.representatives(name)]
        names: set[str] = set()
        for pod in pods:
            names |= {
                port.name
                for port in pod.ports or ()
                if (port.protocol, port.number) == (protocol, number)
            }
        for name in sorted(filter(None, names)):
            if all(
                [port.number for port in pod.ports or () if port[:2] == (name, protocol)]
                == [number]
                for pod in pods
            ):
                return name
        return ""


def _shapes(pairs: _Pairs) -> list[tuple[list[_PeerGroup], list[PolicyPort]]]:
    """Return the fewest rules: one for each set of ports, or one for each set of peers."""
    ports_of: dict[_PeerGroup, set[PolicyPort]] = {}
    peers_of: dict[PolicyPort, set[_PeerGroup]] = {}
    for peers, port in pairs:
        ports_of.setdefault(peers, set()).add(port)
        peers_of.setdefault(port, set()).add(peers)
    by_ports: dict[frozenset[PolicyPort], set[_PeerGroup]] = {}
    for peers, ports in ports_of.items():
        by_ports.setdefault(frozenset(ports), set()).add(peers)
    by_peers: dict[frozenset[_PeerGroup], set[PolicyPort]] = {}
    for port, its in peers_of.items():
        by_peers.setdefault(frozenset(its), set()).add(port)
    shapes = [(sorted(its, key=_group_key), sorted(ports)) for ports, its in by_ports.items()]
    if len(by_peers) < len(by_ports):
        shapes = [(sorted(its, key=_group_key), sorted(ports)) for its, ports in by_peers.items()]
    return sorted(shapes, key=lambda shape: (list(map(_group_key, shape[0])), shape[1]))


def _addresses(flows: Iterable[Flow]) -> dict[int, tuple[float, float]]:
    """Return when each address was seen."""
    found: dict[int, tuple[float, float]] = {}
    for flow in flows:
        for ip, (first, last) in flow.addresses.items():
            since, until = found.get(ip, (first, last))
            found[ip] = (min(since, first), max(until, last))
    return found


def _group_key(group: _PeerGroup) -> tuple[str, ...]:
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
    return f"3 {peer}"
