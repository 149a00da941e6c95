# SPDX-License-Identifier: Apache-2.0
"""Cost per flow of attribution, and of updating the table of names.

A big cluster: pods with an IPv4 and an IPv6 address, Services, declared networks; every
twentieth pod has its addresses from others, who had them within the last minute. Flows
to all of them, in random order and at random times of that minute, are named in batches
as the agent does it. Every name is checked. Times are CPU time of this process.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.report import Report, progress, show
from podtally.errors import PodtallyError
from podtally.identity.addresses import ClaimBook
from podtally.identity.model import FOREVER, Claim, Endpoint, Owner
from podtally.identity.name_table import Names, Networks, build_names, build_networks
from podtally.kernel.table import BATCH
from podtally.ledger.connections.connections import INITIATOR_ENDPOINT, KEY, Flags
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.connections.new_connections import NewConnections as NewFlows
from podtally.ledger.ledger import Ledger, Limits

EXAMPLE = "scripts/bench name --rounds 9"
COLUMNS = ("figure", "value", "target", "ok")
PODS, SERVICES, NETWORKS, FLOWS = 10_000, 1_000, 5_000, 1_000_000
EVERY = 20  # one pod in this many has addresses that were others' before
EARLIER_OWNERS = 4
INTERFACES, PAIRS = 100, 5_000  # pods of this node, and which peers they speak to in all
CHANGES = 20  # pods that come or go between two tables
NS_A_FLOW_TARGET = 200.0
REFRESH_MS_TARGET = 5.0

SEEN = Flags(shift=16, syn_only=256, syn_ack=512)
_SECOND = 1_000_000_000
_NOW_NS = 100_000 * _SECOND
_MINUTE = 60 * _SECOND
_MAPPED = 0xFFFF << 32
_V4_PODS = _MAPPED | 10 << 24  # 10.0.0.0
_V6_PODS = 0xFD00_0000_0000_0001 << 64
_V4_SERVICES = _MAPPED | 10 << 24 | 200 << 16  # 10.200.0.0
_V6_NETWORKS_EVERY = 10


class Cluster(NamedTuple):
    networks: Networks
    book: ClaimBook
    seconds: float  # of CPU, that the networks and the first table took


class Flows(NamedTuple):
    """Flows to be named; index i of every array is the same one."""

    kind: NDArray[np.int64]  # the place in _KINDS
    address: NDArray[np.uint64]  # (n, 2) words in network order
    at_ns: NDArray[np.int64]
    name: NDArray[np.int64]  # the hash of the expected name

    def take(self, index: NDArray[np.bool_] | NDArray[np.int64]) -> "Flows":
        return Flows._make(column[index] for column in self)


class Flow(NamedTuple):
    address: int
    at_ns: int
    name: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=7, help="default: %(default)s")


def main(arguments: argparse.Namespace) -> int:
    report = Report(COLUMNS, [])
    before = _anonymous_bytes()
    progress(f"{PODS:,} pods, {SERVICES:,} services, {NETWORKS:,} networks")
    cluster = _cluster()
    gc.collect()
    memory = (_anonymous_bytes() - before) / (1 << 20)
    names = build_names({}, {}, cluster.book.table(), cluster.networks)
    progress(f"{FLOWS:,} flows")
    flows = _flows()
    _check(names, flows)
    for kind, (name, _, _) in enumerate(_KINDS):
        seconds = _seconds(names, flows.take(flows.kind == kind), arguments.rounds)
        count = int(np.count_nonzero(flows.kind == kind))
        report.rows.append((f"{name}, {count} flows, ns per flow", seconds / count * 1e9, "", True))
    nanoseconds = _seconds(names, flows, arguments.rounds) / FLOWS * 1e9
    met = nanoseconds <= NS_A_FLOW_TARGET
    report.rows.append(("all, in random order, ns per flow", nanoseconds, NS_A_FLOW_TARGET, met))
    nanoseconds = _to_accounts(names, flows, arguments.rounds) / FLOWS * 1e9
    met = nanoseconds <= NS_A_FLOW_TARGET
    what = f"endpoint, peer and port, to {PAIRS:,} accounts, ns per flow"
    report.rows.append((what, nanoseconds, NS_A_FLOW_TARGET, met))
    report.rows.append(("table of names from scratch, ms", cluster.seconds * 1e3, "", True))
    refresh = 1e3 * statistics.median(_refresh(cluster, i) for i in range(arguments.rounds))
    met = refresh <= REFRESH_MS_TARGET
    report.rows.append((f"after {CHANGES} changes, ms", refresh, REFRESH_MS_TARGET, met))
    report.rows.append(("memory of claims, book and table, MiB", memory, "", True))
    show(report, arguments.output)
    return 0 if report.met else 1


def _cluster() -> Cluster:
    declared = {_network_name(i): (_network(i),) for i in range(NETWORKS)}
    start = time.process_time()
    networks = build_networks(declared)
    book = ClaimBook(networks.owners)
    for i in range(PODS):
        book.put(("pod", i), _pod_claims(i))
    for i in range(SERVICES):
        owner = Owner("service", f"team-{i % 50}", f"service-{i}", f"service-{i}", "cluster")
        book.put(("service", i), [Claim(_V4_SERVICES + i, owner, 0, strength=10)])
    book.table()
    return Cluster(networks, book, time.process_time() - start)


def _pod_claims(pod: int) -> list[Claim]:
    """Return the claims of the successive owners of a pod's addresses."""
    claims = []
    since_ns = 0
    for life in range(_lives(pod)):
        owner = _pod(pod, life)
        until_ns = _NOW_NS - _MINUTE + (life + 1) * _MINUTE // (EARLIER_OWNERS + 1)
        end_ns = FOREVER if life + 1 == _lives(pod) else until_ns
        claims += [Claim(base + pod, owner, since_ns, end_ns, 10) for base in (_V4_PODS, _V6_PODS)]
        since_ns = until_ns
    return claims


def _lives(pod: int) -> int:
    return 1 if pod % EVERY else EARLIER_OWNERS + 1


def _pod(pod: int, life: int) -> Owner:
    name, workload = f"web-{pod}-{life}", f"web-{pod // 10}"
    where = ("cluster", "Deployment", f"node-{pod % 100}")
    labels = (("app", workload), ("team", f"team-{pod % 50}"))
    return Owner("pod", f"team-{pod % 50}", name, workload, *where, f"uid-{name}", labels)


def _network_name(number: int) -> str:
    return f"network-{number}"


def _network(number: int) -> str:
    if number % _V6_NETWORKS_EVERY == 0:
        return f"2001:db8:{number:x}::/48"
    return f"198.{number >> 8}.{number & 0xFF}.0/24"


def _to_pod(pod: int, at_ns: int, base: int) -> Flow:
    since_ns = at_ns - (_NOW_NS - _MINUTE)
    life = min(_lives(pod) - 1, since_ns * (EARLIER_OWNERS + 1) // _MINUTE)
    return Flow(base + pod, at_ns, f"web-{pod}-{life}")


def _to_v4(chance: int, at_ns: int) -> Flow:
    pod = chance % PODS
    return _to_pod(pod + (pod % EVERY == 0), at_ns, _V4_PODS)


def _to_reused(chance: int, at_ns: int) -> Flow:
    return _to_pod(chance % PODS // EVERY * EVERY, at_ns, _V4_PODS)


def _to_v6(chance: int, at_ns: int) -> Flow:
    return _to_pod(chance % PODS, at_ns, _V6_PODS)


def _to_service(chance: int, at_ns: int) -> Flow:
    return Flow(_V4_SERVICES + chance % SERVICES, at_ns, f"service-{chance % SERVICES}")


def _to_network(chance: int, at_ns: int) -> Flow:
    number, host = chance % NETWORKS, chance // NETWORKS & 0xFF
    if number % _V6_NETWORKS_EVERY == 0:
        return Flow(0x20010DB8 << 96 | number << 80 | host, at_ns, _network_name(number))
    return Flow(_MAPPED | 198 << 24 | number << 8 | host, at_ns, _network_name(number))


def _to_internet(chance: int, at_ns: int) -> Flow:
    return Flow(_MAPPED | 20 << 24 | chance & 0x7FFFFFF, at_ns, "")  # 20.0.0.0 to 27.255.255.255


_KINDS: tuple[tuple[str, int, Callable[[int, int], Flow]], ...] = (
    ("IPv4 pods", 45, _to_v4),
    ("IPv4 pods with addresses of others", 5, _to_reused),
    ("IPv6 pods", 10, _to_v6),
    ("services", 10, _to_service),
    ("declared networks", 15, _to_network),
    ("internet", 15, _to_internet),
)


def _flows() -> Flows:
    random = np.random.default_rng(23)
    shares = np.array([share for _, share, _ in _KINDS]) / 100
    kind = random.choice(len(_KINDS), FLOWS, p=shares)
    chance = random.integers(0, 1 << 40, FLOWS).tolist()
    at_ns = random.integers(_NOW_NS - _MINUTE, _NOW_NS, FLOWS)
    words = np.empty((FLOWS, 2), np.uint64)
    name = np.empty(FLOWS, np.int64)
    for i, (k, number, at) in enumerate(zip(kind.tolist(), chance, at_ns.tolist(), strict=True)):
        flow = _KINDS[k][2](number, at)
        words[i] = flow.address >> 64, flow.address & (1 << 64) - 1
        name[i] = hash(flow.name)
    return Flows(kind.astype(np.int64), words.byteswap(), at_ns, name)


def _name(names: Names, address: NDArray[np.uint64], at_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    words = address.byteswap()
    return names.look_up(words[:, 0], words[:, 1], at_ns)


def _seconds(names: Names, flows: Flows, rounds: int) -> float:
    """CPU time for all flows, in batches; the median of some rounds."""
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        for first in range(0, len(flows.at_ns), BATCH):
            batch = slice(first, first + BATCH)
            _name(names, flows.address[batch], flows.at_ns[batch])
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def _to_accounts(names: Names, flows: Flows, rounds: int) -> float:
    """CPU time for new connections of some pods to some peers each, down to their accounts."""
    random = np.random.default_rng(29)
    chosen = flows.take(random.integers(0, FLOWS, PAIRS)[random.integers(0, PAIRS, FLOWS)])
    key = np.zeros(FLOWS, KEY)
    key["remote_address"], key["remote_port"], key["protocol"] = chosen.address, 443, 6
    key["ifindex"] = 1 + chosen.name % INTERFACES  # pairs stay the same
    key["local_port"] = random.integers(1 << 15, 1 << 16, FLOWS)
    endpoints = {
        i: Endpoint("shop", f"web-{i}", f"web-{i}", "Deployment", "bench")
        for i in range(1, INTERFACES + 1)
    }
    present = EpochContext(build_names(endpoints, {}, names.addresses, names.networks), _NOW_NS)
    limits = Limits(series=4 * PAIRS, connections=1, grace_ns=_SECOND)
    attribution = Ledger(SEEN, limits).attribution
    nothing = np.zeros(FLOWS, np.uint64)
    initiator = np.full(FLOWS, INITIATOR_ENDPOINT, np.uint8)
    everything = NewFlows(
        key,
        initiator,
        chosen.at_ns,
        nothing,
        nothing.astype(np.int64),
        nothing.astype(np.bool_),
        np.zeros(FLOWS, np.int32),
    )
    taken = []
    for _ in range(rounds + 1):
        start = time.process_time()
        for first in range(0, FLOWS, BATCH):
            attribution.attribute(everything.take(slice(first, first + BATCH)), present)
        taken.append(time.process_time() - start)
    return statistics.median(taken[1:])  # in the first the accounts are made


def _check(names: Names, flows: Flows) -> None:
    called = np.array([hash(owner.name) for owner in names.owners], np.int64)
    wrong = called[_name(names, flows.address, flows.at_ns)] != flows.name
    if wrong.any():
        raise PodtallyError(f"{np.count_nonzero(wrong)} of {FLOWS} flows are misnamed")


def _refresh(cluster: Cluster, number: int) -> float:
    """CPU time of a new table of names when some pods have been replaced by others."""
    for pod in range(number * CHANGES, (number + 1) * CHANGES):
        claims = [
            claim._replace(owner=claim.owner._replace(uid=f"another-{number}"))
            for claim in _pod_claims(pod)
        ]
        cluster.book.put(("pod", pod), claims)
    start = time.process_time()
    build_names({}, {}, cluster.book.table(), cluster.networks)
    return time.process_time() - start


def _anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) << 10
    raise PodtallyError("/proc/self/status has no RssAnon")
