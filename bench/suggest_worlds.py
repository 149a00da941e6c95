# SPDX-License-Identifier: Apache-2.0
"""Random clusters with hidden policies, and the traffic that these allow, for ``suggest``."""

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from podtally.policy.cidr import parse_cel
from podtally.policy.cluster.model import ClusterModel, ClusterPod, NamespaceModel
from podtally.policy.model import (
    ALLOW,
    EGRESS,
    INGRESS,
    NAMESPACE_NAME_LABEL,
    NODE,
    POD,
    TCP,
    UDP,
    Block,
    NamedPort,
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
from podtally.suggest.conversation import ObservedConversation

UNTIL = 1_800_000_000.0
WINDOW = (UNTIL - 7 * 86400.0, UNTIL)
_MAPPED = 0xFFFF << 32
_V4, _V6 = _MAPPED | 10 << 24 | 244 << 16, 0x20010DB8 << 96  # 10.244.0.0, 2001:db8::
_EVERYWHERE = "0.0.0.0/0"
_PROTOCOLS = {TCP: "TCP", UDP: "UDP"}
_PORTS = (80, 443, 3000, 5432, 6379, 8080, 9090, 9092)
_OUTSIDE = ("api.example.com", "cdn.example.net", "203.0.113.7", "2a00:1450::7")


class Work(NamedTuple):
    """A workload: the labels that identify it, and those of its pods."""

    namespace: str
    name: str
    unique: tuple[tuple[str, str], ...]
    labels: tuple[tuple[str, str], ...]
    ports: tuple[tuple[int, int], ...]  # protocol, number
    is_job: bool


class Edge(NamedTuple):
    """What the hidden policies allow: from a workload to a port of a workload, or outside."""

    source: int
    destination: int | str
    protocol: int
    port: int


class HiddenWorld(NamedTuple):
    works: list[Work]
    cluster: ClusterModel
    edges: list[Edge]
    policies: list[Policy]  # the hidden ones
    conversations: list[ObservedConversation]


class WorldMaker:
    """Makes one world; the same for the same seed. ``size`` workloads, ``rows`` conversations."""

    def __init__(self, seed: int, size: int = 0, rows: int = 0) -> None:
        self._chance = random.Random(seed)
        self._size = size or self._chance.randrange(5, 15)
        self._rows = rows

    def world(self) -> HiddenWorld:
        works = [self._work(number) for number in range(self._size)]
        dns = Work(
            "kube-system", "coredns", (("k8s-app", "kube-dns"),), (("k8s-app", "kube-dns"),),
            ((UDP, 53),), False,
        )  # fmt: skip
        works.append(dns)
        pods, addresses = [], 0
        for work in works:
            for _ in range(0 if work.is_job else self._chance.randrange(1, 4)):
                pods.append(self._pod(work, addresses))
                addresses += 1
        edges = self._edges(works)
        spaces = sorted({work.namespace for work in works})
        nodes = [
            PolicyEndpoint(
                NODE,
                name=f"node-{n}",
                ips=(_MAPPED | 10 << 24 | n,),
                node=f"node-{n}",
                node_labels=(),
            )
            for n in range(1, 4)
        ]
        cluster = ClusterModel(pods, nodes, [NamespaceModel(name, ()) for name in spaces])
        rows = [*self._traffic(works, edges), *self._noise(works, edges)]
        return HiddenWorld(works, cluster, edges, policies_of(works, edges), rows)

    def _work(self, number: int) -> Work:
        chance = self._chance
        name = f"w{number}"
        unique: tuple[tuple[str, str], ...] = (("app", name),)
        if chance.random() < 0.2:  # identified by two labels
            unique = (("part", f"p{number % 2}"), ("product", f"x{number // 2}"))
        more = [("team", chance.choice("abc")), ("tier", chance.choice("xy"))]
        labels = tuple(sorted({*unique, *more[: chance.randrange(3)]}))
        ports = tuple(sorted({(TCP, chance.choice(_PORTS)) for _ in range(chance.randrange(1, 3))}))
        spaces = max(2, self._size // 25)
        return Work(f"ns{number % spaces}", name, unique, labels, ports, chance.random() < 0.1)

    def _pod(self, work: Work, number: int) -> ClusterPod:
        chance = self._chance
        labels = (*work.labels, ("pod-template-hash", f"{chance.randrange(1 << 20):x}"))
        named = tuple(
            NamedPort(f"p{port}", protocol, port)
            for protocol, port in work.ports
            if hash_of(work.name) % 3 == 0
        )
        pod = PolicyEndpoint(
            POD,
            work.namespace,
            f"{work.name}-{number}",
            tuple(sorted(labels)),
            ips=(_V4 + number, _V6 + number),
            ports=named,
            node=f"node-{1 + number % 3}",
        )
        return ClusterPod(pod, work.name)

    def _edges(self, works: list[Work]) -> list[Edge]:
        chance, found = self._chance, set()
        last = len(works) - 1
        for number in range(last):
            for _ in range(chance.randrange(1, 5)):
                other = chance.randrange(last)
                if not works[other].is_job:
                    protocol, port = chance.choice(works[other].ports)
                    found.add(Edge(number, other, protocol, port))
            if chance.random() < 0.8:
                found.add(Edge(number, last, UDP, 53))
            if chance.random() < 0.3:
                found.add(Edge(number, chance.choice(_OUTSIDE), TCP, chance.choice((443, 5432))))
        return sorted(found, key=str)

    def _traffic(self, works: list[Work], edges: list[Edge]) -> Iterator[ObservedConversation]:
        """Yield rows of every edge, from both ends, in parts of the window."""
        each = max(1, self._rows // max(1, 2 * len(edges)))
        for edge in edges:
            for _ in range(each):
                yield from self._reports(works, edge)

    def _reports(self, works: list[Work], edge: Edge) -> Iterator[ObservedConversation]:
        chance, source = self._chance, works[edge.source]
        first = WINDOW[0] + chance.random() * 3600
        times = {"first": first, "last": WINDOW[1] - chance.random() * 3600}
        row: dict[str, Any] = {
            **times,
            "protocol": _PROTOCOLS[edge.protocol],
            "port": edge.port,
            "connections": chance.randrange(2, 1000),
            "bytes": chance.randrange(10_000, 10_000_000),
            "outcome": "closed" if edge.protocol == TCP else "answered",
        }
        if isinstance(edge.destination, str):
            yield from self._outside(source, edge.destination, row)
            return
        destination = works[edge.destination]
        for one, other, direction in (
            (source, destination, EGRESS),
            (destination, source, INGRESS),
        ):
            yield ObservedConversation(
                namespace=one.namespace,
                workload=one.name,
                direction=direction,
                peer_kind="pod",
                peer_namespace=other.namespace,
                peer_workload=other.name,
                labels=dict(one.labels) if one.is_job else {},
                peer_labels=dict(other.labels) if other.is_job else {},
                **row,
            )

    def _outside(
        self, source: Work, name: str, row: dict[str, Any]
    ) -> Iterator[ObservedConversation]:
        """Yield one row for a stable address, and many for a name that rotates."""
        chance = self._chance
        is_name = name.endswith((".com", ".net"))
        for number in range(chance.randrange(5, 30) if is_name else 1):
            address = f"151.101.{number}.{chance.randrange(1, 250)}" if is_name else name
            start = WINDOW[0] + number * 7200
            rotated = {"first": start, "last": start + 3600} if is_name else {}
            yield ObservedConversation(
                namespace=source.namespace,
                workload=source.name,
                direction=EGRESS,
                peer_address=address,
                domain=name if is_name else "",
                labels=dict(source.labels) if source.is_job else {},
                **{**row, **rotated},
            )

    def _noise(self, works: list[Work], edges: list[Edge]) -> Iterator[ObservedConversation]:
        """Yield what no policy allows: scans, single connections, denials, probes of nodes."""
        chance = self._chance
        known = set(edges)
        for number in range(len(works) - 1):
            work = works[number]
            if work.is_job:
                continue
            base: dict[str, Any] = {"first": WINDOW[0] + 60, "connections": 1, "bytes": 60}
            yield ObservedConversation(
                namespace=work.namespace, workload=work.name, direction=INGRESS,
                peer_kind="node", peer_workload="node-1", peer_address="10.0.0.1", node="node-1",
                port=8080, connections=9999, first=WINDOW[0], last=WINDOW[1],
            )  # fmt: skip
            other = works[chance.randrange(len(works) - 1)]
            if other.is_job or chance.random() < 0.5:
                continue
            for port in chance.sample(range(1, 1024), chance.randrange(1, 20)):
                if Edge(number, works.index(other), TCP, port) in known:
                    continue
                outcome, verdict = chance.choice(
                    [("refused", "undeclared"), ("unanswered", "denied"), ("closed", "undeclared")]
                )
                yield ObservedConversation(
                    namespace=work.namespace, workload=work.name, direction=EGRESS,
                    peer_kind="pod", peer_namespace=other.namespace, peer_workload=other.name,
                    port=port, outcome=outcome, verdict=verdict, last=WINDOW[0] + 61, **base,
                )  # fmt: skip


def policies_of(works: list[Work], edges: list[Edge]) -> list[Policy]:
    """Return the policies that a careful author would write: a rule for each peer."""
    found = []
    for number, work in enumerate(works):
        for direction in (EGRESS, INGRESS):
            ports: dict[int | str, set[PolicyPort]] = {}
            for edge in edges:
                local, peer = (
                    (edge.source, edge.destination)
                    if direction == EGRESS
                    else (edge.destination, edge.source)
                )
                if local == number:
                    port = PolicyPort(edge.protocol, edge.port, edge.port)
                    ports.setdefault(peer, set()).add(port)
            by_ports: dict[frozenset[PolicyPort], list[Peer]] = {}
            for peer, its in ports.items():
                by_ports.setdefault(frozenset(its), []).extend(_peers(works, peer))
            rules = tuple(
                Rule(index, ALLOW, tuple(peers), tuple(sorted(its)))
                for index, (its, peers) in enumerate(by_ports.items())
            )
            found.append(
                Policy(
                    "NetworkPolicy",
                    work.namespace,
                    f"true-{work.name}-{direction}",
                    PodSubject(None, _selector(work.unique)),
                    ingress=rules if direction == INGRESS else None,
                    egress=rules if direction == EGRESS else None,
                )
            )
    return found


def _peers(works: list[Work], peer: int | str) -> list[Peer]:
    if isinstance(peer, int):
        spaces = _selector(((NAMESPACE_NAME_LABEL, works[peer].namespace),))
        return [PodPeer(spaces, _selector(works[peer].unique))]
    if peer.endswith((".com", ".net")):
        texts = [_EVERYWHERE]
    else:
        texts = [f"{peer}/{128 if ':' in peer else 32}"]
    found = []
    for text in texts:
        cidr = parse_cel(text)
        assert cidr is not None
        excepted = [parse_cel("10.0.0.0/8")] if text == _EVERYWHERE else []
        found.append(Block(cidr.network(), tuple(e.network() for e in excepted if e)))
    return list(found)


def _node(number: int) -> PolicyEndpoint:
    name, address = f"node-{number}", _MAPPED | 10 << 24 | number  # 10.0.0.1, ...
    return PolicyEndpoint(NODE, name=name, ips=(address,), node=name, node_labels=())


def _selector(labels: tuple[tuple[str, str], ...]) -> Selector:
    return Selector(tuple(Requirement(key, "In", frozenset((value,))) for key, value in labels))


def hash_of(name: str) -> int:
    """Return a number of the name, the same in every process."""
    return sum(name.encode())
