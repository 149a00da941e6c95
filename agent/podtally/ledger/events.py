# SPDX-License-Identifier: Apache-2.0
"""Denied and undeclared connections, summed by what an event tells of them.

How they are written down is the event log's (``export/events``).
"""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.label_sets import OTHER, ScanLabels
from podtally.ledger.saved import Saved
from podtally.ledger.scans import Scan, Scans
from podtally.ledger.series import SeriesTable
from podtally.ledger.shares import Shares, Taken, rank

NO_EVENT = -1
EGRESS_BYTES, INGRESS_BYTES, CONNECTIONS = 0, 1, 2
PEERS_AND_PORTS = 100  # an endpoint's events of one verdict and direction; the rest is a scan
PORTS = 20  # of them, of one peer
SCAN = "scan"  # the reason of what stands for many
_AGAIN = 10  # an event has grown once its bytes, or connections, are so many times those reported
_LONGEST_NS = 3_600_000_000_000  # between two reports of an event that goes on
_LARGE = 1 << 16  # bytes that are news, if the event has grown so much
_QUIET = 10  # intervals after which an event is over, and the rest of it is reported


class EventLabels(NamedTuple):
    """What makes an event: connections that differ in none of these are told of in one line."""

    verdict: str  # denied, undeclared; or another, of what is exposed and undeclared
    direction: str  # egress: the connection began here; ingress: it began there
    namespace: str
    pod: str
    workload: str
    workload_kind: str
    peer_kind: str
    peer_namespace: str
    peer_workload: str
    peer_name: str
    peer_address: str
    scope: str
    protocol: str
    port: str  # the server's own: of the backend behind a Service
    policy: str
    reason: str
    exposure: str  # "", "undeclared", or how it is declared


class Due(NamedTuple):
    """One event that is to be told now, with its sums so far."""

    labels: EventLabels
    connections: int
    new_connections: int  # since it was last told
    egress_bytes: int
    ingress_bytes: int
    first_ns: int  # CLOCK_MONOTONIC: the first connection's first packet
    last_ns: int  # the last epoch with bytes
    scan: Scan | None = None  # of an event that stands for many peers or ports


class Events:
    """Events by number, with sums that only grow, and how much of them was told.

    An endpoint that has more than its share of ``limit`` has one event for the ports of a
    peer beyond it, and one for the peers: a scan.
    """

    def __init__(self, limit: int, scanning: SeriesTable[ScanLabels]) -> None:
        """``scanning`` counts the connections of scans."""
        self.shares = Shares(limit, PEERS_AND_PORTS, PORTS)
        self.scans = Scans()
        self.scanning = scanning
        self._scanning = np.full(16, NO_EVENT, np.int64)  # by number of the event
        self._endpoint = np.zeros(16, np.int64)  # by number of the event
        self.table: SeriesTable[EventLabels] = SeriesTable(3, EventLabels)
        self.first_ns = np.zeros(16, np.int64)
        self.told = np.zeros((16, 3), np.int64)
        self.told_ns = np.zeros(16, np.int64)
        self.untold = 0  # that were due when events were last asked for, and had to wait

    def __len__(self) -> int:
        return len(self.table)

    def index_of(self, labels: EventLabels, first_ns: int, now_ns: int) -> int:
        """The number of an event, which is made if it is new and there is room."""
        index = self.table.find(labels)
        if index is not None:
            return index
        fitting = self._fitting(labels)
        if fitting != labels:
            return self.index_of(fitting, first_ns, now_ns)
        index = self.table.index_of(labels, now_ns)
        self._enter(index, labels, now_ns)
        self.first_ns[index], self.told[index], self.told_ns[index] = first_ns, 0, 0
        return index

    def _fitting(self, labels: EventLabels) -> EventLabels:
        taken = _taken(labels)
        if self.shares.exhausted(len(self.table)):
            return _others(labels)
        if labels.reason != SCAN and not self.shares.peer_has_room(taken):
            return with_any_port(labels)
        if labels.peer_kind != OTHER and not self.shares.has_room(taken, len(self.table)):
            return with_any_peer(labels)
        return labels

    def _enter(self, index: int, labels: EventLabels, now_ns: int) -> None:
        self._make_room(index + 1)
        if labels.peer_kind != OTHER:
            self.shares.take(_taken(labels), labels.reason == SCAN)
        self._endpoint[index] = hash((labels.namespace, labels.pod, labels.workload))
        self._scanning[index] = NO_EVENT
        if labels.reason == SCAN:
            scan = ScanLabels(labels.namespace, labels.workload, labels.direction, labels.verdict)
            self._scanning[index] = self.scanning.index_of(scan, now_ns)

    def observe(
        self, event: NDArray[np.int32], port: NDArray[np.int64], address: NDArray[np.uint64]
    ) -> None:
        """Count the different ports (n,) and addresses (n, 2) of those that are scans."""
        rows = np.flatnonzero(self._scanning[event] != NO_EVENT)
        if len(rows):
            self.scans.observe(event[rows], port[rows], address[rows])

    def scans_among(self, event: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return the places of scans among events (n,), which may be NO_EVENT."""
        if not len(self.scans):
            return np.zeros(0, np.int64)
        scanning = (event != NO_EVENT) & (self._scanning[np.maximum(event, 0)] != NO_EVENT)
        return np.flatnonzero(scanning)

    def count(self, event: NDArray[np.int32], now_ns: int) -> None:
        """Connections (n,), some of which may be of NO_EVENT, are of these from now on."""
        some = event[event != NO_EVENT]
        if len(some):
            amounts = np.zeros((len(some), 3), np.int64)
            amounts[:, CONNECTIONS] = 1
            self.table.add(some.astype(np.int64), amounts, now_ns)
            scans = self._scanning[some]
            scans = scans[scans != NO_EVENT]
            self.scanning.add(scans, np.ones((len(scans), 1), np.int64), now_ns)

    def add_bytes(self, event: NDArray[np.int32], bytes_: NDArray[np.int64], now_ns: int) -> None:
        """Add bytes (n, 2), from and to the endpoint, to events (n,), or NO_EVENT."""
        rows = np.flatnonzero(event != NO_EVENT)
        if len(rows):
            amounts = np.zeros((len(rows), 3), np.int64)
            amounts[:, :CONNECTIONS] = bytes_[rows]
            self.table.add(event[rows].astype(np.int64), amounts, now_ns)

    def policies_differ(
        self, before: NDArray[np.int32], after: NDArray[np.int32]
    ) -> NDArray[np.bool_]:
        """Whether other policies deny in one event than in the other, or do in one only. (n,)"""
        every, place = np.unique(np.concatenate([before, after]), return_inverse=True)
        known: dict[str, int] = {}
        numbers = [known.setdefault(self._policy(each), len(known)) for each in every.tolist()]
        of = np.array(numbers, np.int64)[place.ravel()]
        differ: NDArray[np.bool_] = of[: len(before)] != of[len(before) :]
        return differ

    def _policy(self, event: int) -> str:
        labels = None if event == NO_EVENT else self.table.labels_at(event)
        return "" if labels is None else labels.policy

    def due(self, most: int, interval_ns: int, now_ns: int) -> tuple[list[int], list[Due]]:
        """At most so many events that are to be told now, with their numbers.

        Those that were never told come before the others, and among them each endpoint's
        first before any endpoint's second; then those told longest ago.
        """
        sums, moved_ns = self.table.sums()
        told, told_ns = self.told[: len(sums)], self.told_ns[: len(sums)]
        patience = self._patience(sums, moved_ns, interval_ns, now_ns)
        index = np.flatnonzero(self._grown(sums) & (now_ns - told_ns >= patience))
        self.untold = max(0, len(index) - most)
        index = index[np.argsort(told_ns[index], kind="stable")]
        again = told_ns[index] > 0
        turn = np.where(again, 0, rank(self._endpoint[index]))
        index = index[np.lexsort((told_ns[index], turn, again))][:most]
        labels = dict(self.table.pairs()) if len(index) else {}
        return index.tolist(), [
            Due(
                labels[i],
                int(sums[i, CONNECTIONS]),
                int(sums[i, CONNECTIONS] - told[i, CONNECTIONS]),
                int(sums[i, EGRESS_BYTES]),
                int(sums[i, INGRESS_BYTES]),
                int(self.first_ns[i]),
                int(moved_ns[i]),
                self.scans.of(i),
            )
            for i in index.tolist()
        ]

    def _patience(
        self,
        sums: NDArray[np.int64],
        moved_ns: NDArray[np.int64],
        interval_ns: int,
        now_ns: int,
    ) -> NDArray[np.int64]:
        """How long after it was last told an event is told again. (n,)

        The longer it goes on, the longer: each report comes when the event is twice as old.
        One that has grown much, or is over, is not put off.
        """
        told, told_ns = self.told[: len(sums)], self.told_ns[: len(sums)]
        age = told_ns - self.first_ns[: len(sums)]
        patience = np.clip(age, interval_ns, max(interval_ns, _LONGEST_NS))
        bytes_, before = sums[:, :CONNECTIONS].sum(axis=1), told[:, :CONNECTIONS].sum(axis=1)
        much = sums[:, CONNECTIONS] >= _AGAIN * told[:, CONNECTIONS]
        much |= (bytes_ >= _AGAIN * before) & (bytes_ - before >= _LARGE)
        over = now_ns - moved_ns >= _QUIET * interval_ns
        return np.where(told_ns == 0, 0, np.where(much | over, interval_ns, patience))

    def tell(self, index: Collection[int], now_ns: int) -> None:
        """Take note that these have been told of, with their sums as they are."""
        at = np.array(list(index), np.int64)
        self.told[at] = self.table.sums()[0][at]
        self.told_ns[at] = now_ns

    def expire(self, before_ns: int, in_use: NDArray[np.int64]) -> None:
        """Forget what has not grown since, and of which all was told."""
        untold = np.flatnonzero(self._grown(self.table.sums()[0]))
        if self.table.expire(before_ns, np.union1d(in_use, untold)):
            self._learn()
        self.scanning.expire(before_ns, self._scanning[self._scanning != NO_EVENT])

    def _learn(self) -> None:
        """Take the shares, and what scans are, from the table."""
        self.shares.clear()
        self._scanning[:] = NO_EVENT
        pairs = self.table.pairs()
        for index, labels in pairs:
            self._enter(index, labels, 0)
        self.scans.keep([index for index, labels in pairs if labels.reason == SCAN])

    def save(self) -> Saved:
        table = self.table.save()
        told = {"first_ns": self.first_ns, "told": self.told, "told_ns": self.told_ns}
        return table._replace(arrays={**table.arrays, **told})

    def load(self, saved: Saved, now_ns: int) -> None:
        """Call after the series of scans are loaded."""
        self.table.load(saved, now_ns)
        self.restore(*(saved.array(name) for name in ("first_ns", "told", "told_ns")))

    def restore(
        self, first_ns: NDArray[np.int64], told: NDArray[np.int64], told_ns: NDArray[np.int64]
    ) -> None:
        """Take back what was told, after the tables."""
        self.first_ns, self.told, self.told_ns = first_ns, told, told_ns
        self._make_room(16)
        self._learn()

    def _grown(self, sums: NDArray[np.int64]) -> NDArray[np.bool_]:
        told = self.told[: len(sums)]
        more = sums[:, CONNECTIONS] > told[:, CONNECTIONS]
        bytes_, before = sums[:, :CONNECTIONS].sum(axis=1), told[:, :CONNECTIONS].sum(axis=1)
        grown: NDArray[np.bool_] = more | (bytes_ > _AGAIN * before)
        return grown

    def _make_room(self, size: int) -> None:
        more = max(size, len(self.told_ns)) - len(self._scanning)
        if more > 0:
            more = max(more, len(self._scanning))
            self._scanning = np.pad(self._scanning, (0, more), constant_values=NO_EVENT)
            self._endpoint = np.pad(self._endpoint, (0, more))
        more = size - len(self.told_ns)
        if more > 0:
            more = max(more, len(self.told_ns))
            self.first_ns = np.pad(self.first_ns, (0, more))
            self.told_ns = np.pad(self.told_ns, (0, more))
            self.told = np.pad(self.told, ((0, more), (0, 0)))


def with_any_port(labels: EventLabels) -> EventLabels:
    """The event of connections to more ports of a peer than are reported one by one."""
    return labels._replace(protocol=OTHER, port=OTHER, reason=SCAN)


def with_any_peer(labels: EventLabels) -> EventLabels:
    """The event of connections to more peers than are reported one by one."""
    return with_any_port(labels)._replace(
        peer_kind=OTHER,
        peer_namespace=OTHER,
        peer_workload=OTHER,
        peer_name=OTHER,
        peer_address="",
        scope=OTHER,
    )


def _taken(labels: EventLabels) -> Taken:
    endpoint = (
        labels.namespace,
        labels.pod,
        labels.workload,
        labels.verdict,
        labels.direction,
    )
    return Taken(endpoint, labels[6:11])  # the peer


def _others(labels: EventLabels) -> EventLabels:
    rest = (OTHER,) * (len(EventLabels._fields) - 2)
    return EventLabels(labels.verdict, labels.direction, *rest)
