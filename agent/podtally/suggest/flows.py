# SPDX-License-Identifier: Apache-2.0
"""Sums conversations to flows between workloads, and sets aside what no rule should allow.

A conversation between two pods is reported at both ends; both reports become one flow.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from podtally.policy.cidr import parse_address
from podtally.policy.load.conversion import PROTOCOLS
from podtally.policy.model import DENIED, EGRESS, UNKNOWN
from podtally.suggest.conversation import (
    EXTERNAL,
    FAILED_OUTCOMES,
    HOST_PEER,
    NODE_PEER,
    POD_PEER,
    ObservedConversation,
)
from podtally.suggest.workloads import WorkloadName, Workloads

DENIED_BEFORE, FAILED, ONCE, UNKNOWN_VERDICT = "denied", "failed", "once", "unknown"
INCLUDABLE = (DENIED_BEFORE, FAILED, ONCE, UNKNOWN_VERDICT)
NOT_EXPRESSIBLE = "not expressible"
OWN_NODE = "own node"

_DNS = 53
_SHORT_SECONDS, _SMALL_BYTES = 60.0, 1 << 16
_DATA_BYTES = 1024  # a connection; a scan's probes have less
_RANGE_PORTS, _FIRST_DYNAMIC = 8, 1024


class Party(NamedTuple):
    """One end of a flow: a workload, a node, or something outside the cluster."""

    kind: str
    namespace: str = ""
    name: str = ""  # of a workload or node; of an external one without a domain, its address
    domain: str = ""

    @property
    def workload(self) -> WorkloadName:
        return WorkloadName(self.namespace, self.name)

    def __str__(self) -> str:
        if self.kind == POD_PEER:
            return f"{self.namespace}/{self.name}"
        return self.domain or (f"node {self.name}" if self.kind == NODE_PEER else self.name)


class FlowKey(NamedTuple):
    source: Party
    destination: Party
    protocol: str
    port: int
    last_port: int  # of a range; otherwise ``port``


@dataclass
class Flow:
    """What was seen of a flow; ``addresses``: when each external address was seen."""

    key: FlowKey
    first: float
    last: float
    connections: int = 0
    bytes: int = 0
    has_data: bool = False
    ports: int = 1  # distinct ones
    addresses: dict[int, tuple[float, float]] = field(default_factory=dict)
    excluded: str = ""  # why no rule allows it

    def __str__(self) -> str:
        key = self.key
        ports = str(key.port) if key.port == key.last_port else f"{key.port}-{key.last_port}"
        return f"{key.source} to {key.destination}, {key.protocol} {ports}"

    @property
    def is_once(self) -> bool:
        """A single short connection, DNS excepted: what needs the names would fail without it."""
        return (
            self.connections <= 1
            and self.last - self.first < _SHORT_SECONDS
            and self.bytes < _SMALL_BYTES
            and self.key.port != _DNS
        )


class FlowSums:
    """The flows, and of each excluded conversation the reason."""

    def __init__(self, workloads: Workloads, include: Collection[str] = ()) -> None:
        self._workloads = workloads
        self._include = include
        self._nodes = _node_names(workloads)
        # By reporting direction: of two reports of one flow the larger sums count.
        self._sums: dict[tuple[FlowKey, str, str], Flow] = {}

    def add(self, conversations: Iterable[ObservedConversation]) -> None:
        for each in conversations:
            ends = self._ends(each)
            reason = NOT_EXPRESSIBLE if ends is None else self._reason(each)
            source, destination = ends or self._as_reported(each)
            key = FlowKey(source, destination, each.protocol, each.port, each.port)
            if not reason and self._is_own_node(each, key):
                reason = OWN_NODE
            self._sum(key, each, reason)

    def flows(self) -> list[Flow]:
        """Return the flows in order, with those on many ports of a pair as one range each."""
        merged: dict[tuple[FlowKey, str], Flow] = {}
        for (key, reason, _), flow in sorted(self._sums.items()):
            known = merged.get((key, reason))
            merged[key, reason] = flow if known is None else _larger(known, flow)
        return _ranges(list(merged.values()), ONCE if ONCE not in self._include else "")

    def _reason(self, each: ObservedConversation) -> str:
        is_denied = each.verdict == DENIED
        reasons = (
            (DENIED_BEFORE, is_denied),
            (FAILED, each.outcome in FAILED_OUTCOMES),
            (UNKNOWN_VERDICT, each.verdict == UNKNOWN),
        )
        return next((why for why, holds in reasons if holds and why not in self._include), "")

    def _ends(self, each: ObservedConversation) -> tuple[Party, Party] | None:
        """Return source and destination; None if no rule can be written for them."""
        local, peer = Party(POD_PEER, each.namespace, each.workload), self._peer(each)
        if (
            peer is None
            or each.direction == UNKNOWN
            or not each.port
            or each.protocol not in PROTOCOLS
            or local.workload not in self._workloads.pods
            or self._workloads.is_host_network(local.workload)
        ):
            return None
        return (local, peer) if each.direction == EGRESS else (peer, local)

    def _peer(self, each: ObservedConversation) -> Party | None:
        if each.peer_kind == POD_PEER:
            name = WorkloadName(each.peer_namespace, each.peer_workload)
            if self._workloads.is_host_network(name):
                return self._node(each)
            known = name in self._workloads.pods
            return Party(POD_PEER, name.namespace, name.name) if known else None
        host = WorkloadName(each.peer_namespace, each.peer_workload)
        if each.peer_kind == HOST_PEER and self._workloads.is_host(host):
            return Party(POD_PEER, *host)
        if each.peer_kind in (NODE_PEER, HOST_PEER):
            return self._node(each)
        address = parse_address(each.peer_address)
        if each.peer_kind != EXTERNAL or address is None:
            return None
        return Party(EXTERNAL, "", "" if each.domain else each.peer_address, each.domain)

    def _node(self, each: ObservedConversation) -> Party | None:
        address = parse_address(each.peer_address)
        name = self._nodes.get(address or 0) or each.peer_workload
        return Party(NODE_PEER, "", name) if name and address else None

    @staticmethod
    def _as_reported(each: ObservedConversation) -> tuple[Party, Party]:
        local = Party(POD_PEER, each.namespace, each.workload)
        name = each.peer_workload or each.peer_address or each.peer_kind
        peer = Party(each.peer_kind, each.peer_namespace, name, each.domain)
        return (peer, local) if each.direction != EGRESS else (local, peer)

    def _is_own_node(self, each: ObservedConversation, key: FlowKey) -> bool:
        """Return whether it is to or from the node that the pod runs on, which needs no rule."""
        node = next((end.name for end in key[:2] if end.kind == NODE_PEER), "")
        if not node:
            return False
        if each.node:
            return node == each.node
        pods = self._workloads.pods[WorkloadName(each.namespace, each.workload)]
        return key.source.kind == NODE_PEER and any(pod.node == node for pod in pods)

    def _sum(self, key: FlowKey, each: ObservedConversation, reason: str) -> None:
        place = (key, reason, each.direction)
        flow = self._sums.get(place)
        if flow is None:
            flow = self._sums[place] = Flow(key, each.first, each.last, excluded=reason)
        flow.first, flow.last = min(flow.first, each.first), max(flow.last, each.last)
        flow.connections += each.connections
        flow.bytes += each.bytes
        flow.has_data |= each.bytes >= _DATA_BYTES * max(each.connections, 1)
        address = parse_address(each.peer_address) if each.peer_kind != POD_PEER else None
        if any(end.kind == NODE_PEER for end in key[:2]):
            address = parse_address(each.peer_address)
        if address:
            since, until = flow.addresses.get(address, (each.first, each.last))
            flow.addresses[address] = (min(since, each.first), max(until, each.last))


def _node_names(workloads: Workloads) -> dict[int, str]:
    return {address: node.name for node in workloads.cluster.nodes for address in node.ips}


def _larger(one: Flow, other: Flow) -> Flow:
    """Join the reports of both ends."""
    one.first, one.last = min(one.first, other.first), max(one.last, other.last)
    one.connections = max(one.connections, other.connections)
    one.bytes = max(one.bytes, other.bytes)
    one.has_data |= other.has_data
    one.addresses |= other.addresses
    return one


def _ranges(flows: list[Flow], once: str) -> list[Flow]:
    """Join many dynamic ports of one pair to a range, then set aside flows seen once."""
    by_pair: dict[tuple[Party, Party, str], list[Flow]] = {}
    for flow in flows:
        if not flow.excluded and flow.key.port >= _FIRST_DYNAMIC:
            by_pair.setdefault(flow.key[:3], []).append(flow)
    joined: dict[int, Flow] = {}
    for pair, several in by_pair.items():
        ports = [flow.key.port for flow in several if flow.has_data]
        if len(ports) >= _RANGE_PORTS:
            within = [flow for flow in several if min(ports) <= flow.key.port <= max(ports)]
            made = _range(pair, within)
            joined.update((id(each), made) for each in within)
    kept = list({id(each): each for each in (joined.get(id(f), f) for f in flows)}.values())
    for flow in kept:
        if once and not flow.excluded and flow.is_once:
            flow.excluded = once
    return sorted(kept, key=lambda flow: (flow.key, flow.excluded))


def _range(pair: tuple[Party, Party, str], flows: list[Flow]) -> Flow:
    ports = [flow.key.port for flow in flows]
    made = Flow(
        FlowKey(*pair, min(ports), max(ports)),
        min(flow.first for flow in flows),
        max(flow.last for flow in flows),
        sum(flow.connections for flow in flows),
        sum(flow.bytes for flow in flows),
        has_data=True,
        ports=len(set(ports)),
    )
    for flow in flows:
        made.addresses |= flow.addresses
    return made
