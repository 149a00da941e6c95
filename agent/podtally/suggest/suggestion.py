# SPDX-License-Identifier: Apache-2.0
"""Writes the rules for the flows of each workload and direction."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from podtally.policy.load.conversion import PROTOCOLS
from podtally.policy.model import (
    ADMIN_TIER,
    ALLOW,
    DENY,
    EGRESS,
    INGRESS,
    NAMESPACE_NAME_LABEL,
    Block,
    DomainPeer,
    HostSubject,
    Network,
    Peer,
    PodPeer,
    PodSubject,
    Policy,
    PolicyEndpoint,
    PolicyPort,
    Requirement,
    Rule,
    Selector,
)
from podtally.policy.validate.domain_checks import domain_names
from podtally.suggest.conversation import NODE_PEER, POD_PEER
from podtally.suggest.external import NetworkChooser
from podtally.suggest.flows import Flow, Party
from podtally.suggest.rule_shapes import Pairs, PeerGroup, shapes
from podtally.suggest.selectors import SelectorFinder
from podtally.suggest.workloads import WorkloadName, Workloads

NETWORK_POLICY, CLUSTER_NETWORK_POLICY = "NetworkPolicy", "ClusterNetworkPolicy"
HOST_POLICY = "HostPolicy"
_PRIORITY = 500  # in the middle: room before and after
_WHOLE = (Block(Network(0xFFFF << 32, 96)), Block(Network(0, 0)))  # 0.0.0.0/0, ::/0
_NAME_CHARACTERS = 253
_INVALID = re.compile(r"[^a-z0-9.-]")


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
        groups = {self._group(name) for name in wanted if self._is_subject(name)}
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

    def _is_subject(self, name: WorkloadName) -> bool:
        return self._workloads.is_host(name) == (self._kind == HOST_POLICY)

    def _group(self, name: WorkloadName) -> tuple[WorkloadName, ...]:
        """Return the workloads that have one policy, since selectors do not separate them."""
        return (
            (name,) if self._workloads.is_host(name) else self.selectors.of_subject(name).workloads
        )

    def _policy(
        self, group: tuple[WorkloadName, ...], direction: str, flows: list[Flow]
    ) -> SuggestedPolicy:
        allowed = [flow for flow in flows if not flow.excluded]
        rules = self._rules(group, direction, allowed)
        space, name = group[0].namespace, f"{group[0].name}-{direction}"
        if self._kind == CLUSTER_NETWORK_POLICY:
            rules = _ordered(rules, direction)
            name = f"{space}-{name}"
        elif self._kind == HOST_POLICY:
            name = f"{space}-{name}"
        written = tuple(each.rule for each in rules)
        policy = Policy(
            kind=self._kind,
            namespace=space if self._kind == NETWORK_POLICY else "",
            name=object_name(name),
            subject=self._subject(group[0]),
            ingress=written if direction == INGRESS else None,
            egress=written if direction == EGRESS else None,
        )
        if self._kind == CLUSTER_NETWORK_POLICY:
            policy = policy._replace(tier=ADMIN_TIER, priority=_PRIORITY)
        return SuggestedPolicy(
            group, direction, policy, rules, tuple(flow for flow in flows if flow.excluded)
        )

    def _subject(self, name: WorkloadName) -> PodSubject | HostSubject:
        if self._kind == HOST_POLICY:
            return host_subject(self._workloads.pods[name][0])
        namespaces = in_namespace(name.namespace) if self._kind != NETWORK_POLICY else None
        return PodSubject(namespaces, self.selectors.of_subject(name).selector)

    def _rules(
        self, group: tuple[WorkloadName, ...], direction: str, flows: list[Flow]
    ) -> tuple[RuleEvidence, ...]:
        notes: dict[PeerGroup, list[str]] = {}
        pairs: Pairs = {}
        for peers, several, note in self._peers(group, direction, flows):
            notes.setdefault(peers, []).append(note)
            for flow in several:
                port = self._port(flow, peers if direction == EGRESS else None, group)
                pairs.setdefault((peers, port), []).append(flow)
        found = []
        for index, (groups, ports) in enumerate(shapes(pairs)):
            written = tuple(dict.fromkeys(peer for each in groups for peer in each.peers))
            its = [flow for each in groups for port in ports for flow in pairs[each, port]]
            texts = dict.fromkeys(note for each in groups for note in notes[each] if note)
            rule = Rule(index, ALLOW, written, tuple(ports))
            found.append(RuleEvidence(rule, tuple(its), tuple(texts)))
        return tuple(found)

    def _peers(
        self, group: tuple[WorkloadName, ...], direction: str, flows: list[Flow]
    ) -> Iterator[tuple[PeerGroup, list[Flow], str]]:
        """Yield peers, the flows with them, and a note."""
        pods: dict[tuple[WorkloadName, ...], list[Flow]] = {}
        nodes: dict[Party, list[Flow]] = {}
        outside: dict[tuple[str, int, int], list[Flow]] = {}
        for flow in flows:
            peer = flow.key.destination if direction == EGRESS else flow.key.source
            if peer.kind == POD_PEER:
                pods.setdefault(self._group(peer.workload), []).append(flow)
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
            yield PeerGroup(blocks), several, f"{node}, or pods in its network"
        if self._kind != NETWORK_POLICY and direction == EGRESS:
            for domain, several in _take_named(outside).items():
                yield PeerGroup((DomainPeer((domain,)),)), several, ""
        for several in outside.values():
            chosen = self._networks.choose(_addresses(several))
            domains = {end.domain for flow in several for end in flow.key[:2]}
            names = sorted(filter(None, domains))
            yield (
                PeerGroup(chosen.blocks),
                several,
                f"{', '.join(names) or 'no name'}: {chosen.note}",
            )

    def _pod_group(self, workloads: tuple[WorkloadName, ...], own: str) -> PeerGroup:
        if self._workloads.is_host(workloads[0]):
            return PeerGroup((host_subject(self._workloads.pods[workloads[0]][0]),), workloads)
        selector = self.selectors.of(workloads[0]).selector
        space = workloads[0].namespace
        is_own = space == own and self._kind == NETWORK_POLICY
        namespaces = None if is_own else in_namespace(space)
        return PeerGroup((PodPeer(namespaces, selector),), workloads)

    def _port(
        self, flow: Flow, peers: PeerGroup | None, group: tuple[WorkloadName, ...]
    ) -> PolicyPort:
        """Return the port, by name if all pods that have it agree on the name."""
        protocol = PROTOCOLS[flow.key.protocol]
        number, last = flow.key.port, flow.key.last_port
        if self._kind != NETWORK_POLICY:  # rules by address and domain take no named ports
            return PolicyPort(protocol, number, last)
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


def host_subject(endpoint: PolicyEndpoint) -> HostSubject:
    """Return what selects one endpoint of a host: its unit, its container, or the host."""
    if endpoint.unit:
        return HostSubject(units=(_plain(endpoint.unit),))
    if endpoint.container:
        return HostSubject(containers=(_plain(endpoint.container),))
    if endpoint.host_network:
        return HostSubject(host=True)
    labels = (Requirement(key, "In", frozenset((value,))) for key, value in endpoint.labels or ())
    return HostSubject(endpoints=Selector(tuple(labels)))


def _plain(name: str) -> str:
    """Return a glob that matches the name alone."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def object_name(text: str) -> str:
    """Return a valid name of an object: it is also a file's name, and rows may say anything."""
    parts = _INVALID.sub("-", text.lower())[-_NAME_CHARACTERS:].split(".")
    return ".".join(filter(None, (part.strip("-") for part in parts)))


def in_namespace(name: str) -> Selector:
    return Selector((Requirement(NAMESPACE_NAME_LABEL, "In", frozenset((name,))),))


def _take_named(outside: dict[tuple[str, int, int], list[Flow]]) -> dict[str, list[Flow]]:
    """Remove and return the flows with a domain that a rule can name, by domain."""
    found: dict[str, list[Flow]] = {}
    for port, flows in list(outside.items()):
        rest = []
        for flow in flows:
            domain = flow.key.destination.domain
            if domain and not list(domain_names((domain,), ())):
                found.setdefault(domain, []).append(flow)
            else:
                rest.append(flow)
        if rest:
            outside[port] = rest
        else:
            del outside[port]
    return found


def _ordered(rules: Sequence[RuleEvidence], direction: str) -> tuple[RuleEvidence, ...]:
    """Return the rules of an admin tier, where the first match decides, and a last one that denies.

    Its networks have no exceptions: what a block excepts is denied before.
    """
    narrow: list[RuleEvidence] = []
    wide: list[RuleEvidence] = []
    excepted: dict[Network, None] = {}
    for each in rules:
        peers = each.rule.peers or ()
        large = [peer for peer in peers if isinstance(peer, Block) and peer.excepted]
        small = tuple(peer for peer in peers if peer not in large)
        if small:
            narrow.append(each._replace(rule=each.rule._replace(peers=small)))
        if large:
            excepted.update(dict.fromkeys(n for block in large for n in block.excepted))
            blocks = tuple(Block(block.network) for block in large)
            wide.append(each._replace(rule=each.rule._replace(peers=blocks)))
    if excepted:
        narrow.append(_denial(tuple(map(Block, sorted(excepted))), "not outside the cluster"))
    everything = _WHOLE if direction == EGRESS else (PodPeer(Selector()),)
    last = _denial(everything, "everything else")
    return tuple(
        each._replace(rule=each.rule._replace(index=index))
        for index, each in enumerate([*narrow, *wide, last])
    )


def _denial(peers: tuple[Peer, ...], note: str) -> RuleEvidence:
    return RuleEvidence(Rule(0, DENY, peers, None), (), (note,))


def _addresses(flows: Iterable[Flow]) -> dict[int, tuple[float, float]]:
    """Return when each address was seen."""
    found: dict[int, tuple[float, float]] = {}
    for flow in flows:
        for ip, (first, last) in flow.addresses.items():
            since, until = found.get(ip, (first, last))
            found[ip] = (min(since, first), max(until, last))
    return found
