# SPDX-License-Identifier: Apache-2.0
"""Judges flows, and everything that could be connected, by sets of policies."""

import math
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.dns.candidates import NO_NAME_COLUMN, NameCandidates, NameColumn, from_lists
from podtally.dns.known_names import Answered, KnownNames
from podtally.policy.load.conversion import PROTOCOLS
from podtally.policy.model import (
    DENIED,
    TCP,
    UNDECLARED,
    UNKNOWN,
    VERDICTS,
    Policy,
    PolicyEndpoint,
)
from podtally.policy.vector.evaluator import ADDRESS_INDEX, Evaluator, PackedConnections, combine
from podtally.suggest.conversation import NODE_PEER, POD_PEER
from podtally.suggest.flows import Flow, Party
from podtally.suggest.workloads import WorkloadName, Workloads

_WORD = (1 << 64) - 1
_UNDECLARED = np.uint8(VERDICTS.index(UNDECLARED))
_NO_ADDRESS = 0xFFFF << 32 | 240 << 24 | 1  # 240.0.0.1, which no network has
INTERNET = 0xFFFF << 32 | 198 << 24 | 51 << 16 | 100 << 8 | 254  # any address outside
OTHER_PORT = 9  # discard: stands for every port that was never seen
MAX_COMBINATIONS = 100_000  # to judge; of more, every n-th is
_BATCH = 1 << 14  # connections, which bounds memory


class End(NamedTuple):
    """One end of a connection to judge: an endpoint's number and the address."""

    number: int
    address: int


class Connection(NamedTuple):
    source: End
    destination: End
    protocol: int
    port: int
    domain: str = ""  # by which the source found the destination


class Possible(NamedTuple):
    """How many of (workload, workload, port) can be connected."""

    before: int
    after: int
    seen: int
    judged: int
    every: int  # each n-th combination was judged


class Replay:
    """The workloads as endpoints; each twice, so that replicas are not the same pod."""

    def __init__(self, workloads: Workloads) -> None:
        self._workloads = workloads
        self._endpoints: list[PolicyEndpoint] = []
        self._sources: dict[WorkloadName, list[End]] = {}
        self._destinations: dict[WorkloadName, list[End]] = {}
        for name in workloads.names:
            for pod in workloads.representatives(name):
                # Without its node: what every pod of the workload may do, wherever it runs.
                each = pod._replace(node="", node_labels=())
                address = pod.ips[0] if pod.ips else _NO_ADDRESS
                self._sources.setdefault(name, []).append(self._end(each, address))
                twin = each._replace(name=f"{each.name} (peer)")
                self._destinations.setdefault(name, []).append(self._end(twin, address))
        self._nodes = {
            node.name: self._end(node, node.ips[0] if node.ips else _NO_ADDRESS)
            for node in workloads.cluster.nodes
        }

    def _end(self, endpoint: PolicyEndpoint, address: int) -> End:
        self._endpoints.append(endpoint)
        return End(len(self._endpoints) - 1, address)

    def judge(
        self, policies: Iterable[Policy], connections: Sequence[Connection]
    ) -> NDArray[np.uint8]:
        """Return the verdicts, as positions in VERDICTS. (n,)"""
        if not connections:
            return np.zeros(0, np.uint8)
        evaluator = Evaluator(policies, self._endpoints)
        parts = [
            _verdicts(evaluator, connections[start : start + _BATCH])
            for start in range(0, len(connections), _BATCH)
        ]
        return np.concatenate(parts)

    def newly_denied(
        self, flows: Sequence[Flow], before: Sequence[Policy], after: Sequence[Policy]
    ) -> list[Flow]:
        """Return the flows that ``after`` denies, or may deny, and ``before`` does not."""
        connections, owner = [], []
        for index, flow in enumerate(flows):
            for each in self._of_flow(flow):
                connections.append(each)
                owner.append(index)
        bad = np.isin(self.judge(after, connections), _codes(DENIED, UNKNOWN))
        rows = np.flatnonzero(bad)
        if len(rows) and before:
            some = [connections[row] for row in rows.tolist()]
            known = np.isin(self.judge(before, some), _codes(DENIED, UNKNOWN))
            rows = rows[~known]
        return [flows[index] for index in sorted({owner[row] for row in rows.tolist()})]

    def possible(
        self,
        subjects: Iterable[WorkloadName],
        flows: Sequence[Flow],
        before: Sequence[Policy],
        after: Sequence[Policy],
    ) -> Possible:
        """Count what the subjects could connect to, or be reached by; and what was seen."""
        wanted = set(subjects)
        ports = self._ports(flows)
        total = self._count(wanted, ports)
        every = -(-total // MAX_COMBINATIONS) or 1
        connections = list(islice(self._all(wanted, ports), 0, None, every))
        denied = _codes(DENIED)
        counts = []
        for policies in (before, after):
            if policies:
                verdicts = self.judge(policies, connections)
                counts.append(int(np.count_nonzero(~np.isin(verdicts, denied))) * every)
            else:
                counts.append(total)
        seen = {
            (*flow.key[:3], port)
            for flow in flows
            if not flow.excluded
            for port in {flow.key.port, flow.key.last_port}
            if {_workload(flow.key.source), _workload(flow.key.destination)} & wanted
        }
        return Possible(counts[0], counts[1], len(seen), len(connections), every)

    def _ports(self, flows: Sequence[Flow]) -> dict[WorkloadName | None, list[tuple[int, int]]]:
        """Return what may be listened on, by destination; None: outside the cluster."""
        found: dict[WorkloadName | None, set[tuple[int, int]]] = {
            name: {
                (port.protocol, port.number)
                for pod in self._workloads.representatives(name)
                for port in pod.ports or ()
            }
            | {(TCP, OTHER_PORT)}
            for name in self._workloads.names
        }
        found[None] = {(TCP, 443), (TCP, OTHER_PORT)}
        for flow in flows:
            name = _workload(flow.key.destination)
            if name is not None or flow.key.destination.kind != NODE_PEER:
                found[name].add((PROTOCOLS[flow.key.protocol], flow.key.port))
        return {name: sorted(ports) for name, ports in found.items()}

    @staticmethod
    def _count(
        wanted: set[WorkloadName], ports: dict[WorkloadName | None, list[tuple[int, int]]]
    ) -> int:
        every = sum(map(len, ports.values()))
        own = sum(len(ports[name]) for name in wanted)
        others = len(ports) - len(wanted)  # sources: the other workloads, and outside
        return len(wanted) * every + others * own

    def _all(
        self,
        wanted: set[WorkloadName],
        ports: dict[WorkloadName | None, list[tuple[int, int]]],
    ) -> Iterable[Connection]:
        outside = End(ADDRESS_INDEX, INTERNET)
        for source in ports:
            start = outside if source is None else self._sources[source][0]
            for destination, its in ports.items():
                if source not in wanted and destination not in wanted:
                    continue
                end = outside if destination is None else self._destinations[destination][0]
                for protocol, port in its:
                    yield Connection(start, end, protocol, port)

    def _of_flow(self, flow: Flow) -> Iterable[Connection]:
        """Yield a connection of each kind of pod of the flow's ends, and of each address."""
        sources = self._ends(flow, flow.key.source, self._sources)
        destinations = self._ends(flow, flow.key.destination, self._destinations)
        protocol, domain = PROTOCOLS[flow.key.protocol], flow.key.destination.domain
        for port in dict.fromkeys((flow.key.port, flow.key.last_port)):
            for source in sources:
                yield Connection(source, destinations[0], protocol, port, domain)
            for destination in destinations[1:]:
                yield Connection(sources[0], destination, protocol, port, domain)

    def _ends(self, flow: Flow, party: Party, pods: dict[WorkloadName, list[End]]) -> list[End]:
        if party.kind == POD_PEER:
            return pods[party.workload]
        if party.kind == NODE_PEER and party.name in self._nodes:
            number = self._nodes[party.name].number
        else:
            number = ADDRESS_INDEX
        return [End(number, address) for address in sorted(flow.addresses)]


def _verdicts(evaluator: Evaluator, connections: Sequence[Connection]) -> NDArray[np.uint8]:
    """Return both ends' verdicts combined; nothing outside has policies. (n,)"""
    verdicts = []
    for is_egress in (False, True):
        found = evaluator.judge(_packed(connections, is_egress=is_egress)).verdict
        ends = (each.source if is_egress else each.destination for each in connections)
        outside = np.fromiter((end.number == ADDRESS_INDEX for end in ends), np.bool_)
        verdicts.append(np.where(outside, _UNDECLARED, found).astype(np.uint8))
    return combine(*verdicts)


def _packed(connections: Sequence[Connection], *, is_egress: bool) -> PackedConnections:
    local, peer = ("source", "destination") if is_egress else ("destination", "source")
    ends = [(getattr(each, local), getattr(each, peer)) for each in connections]
    # Whoever is outside has no policies; row 0 stands in, and the verdict is not used.
    numbers = np.array([max(one.number, 0) for one, _ in ends], np.int32)
    return PackedConnections(
        numbers,
        np.array([other.number for _, other in ends], np.int32),
        np.array([other.address >> 64 for _, other in ends], np.uint64),
        np.array([other.address & _WORD for _, other in ends], np.uint64),
        np.array([each.protocol for each in connections], np.int32),
        np.array([each.port for each in connections], np.int32),
        np.full(len(connections), is_egress),
        _name_column(connections) if is_egress else NO_NAME_COLUMN,
    )


def _name_column(connections: Sequence[Connection]) -> NameColumn:
    return NameColumn(partial(_names, connections), np.arange(len(connections)))


def _names(connections: Sequence[Connection]) -> NameCandidates:
    """Return the names by which the sources found their peers: all are known."""
    answers = [known_names(each.domain).answers for each in connections]
    return from_lists(answers, [0.0] * len(answers), [0] * len(answers))


def known_names(domain: str) -> KnownNames:
    """Return what an endpoint knows that found its peer by a domain; "": by its address."""
    answers = (Answered(domain, 0.0, math.inf),) if domain else ()
    return KnownNames(answers, 0.0, 0)


def _workload(party: Party) -> WorkloadName | None:
    return party.workload if party.kind == POD_PEER else None


def _codes(*verdicts: str) -> list[int]:
    return [VERDICTS.index(verdict) for verdict in verdicts]
