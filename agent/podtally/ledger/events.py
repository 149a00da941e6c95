"""Denied and undeclared connections, summed by what an event tells of them.

How they are written down is the event log's (``export/events``).
"""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.labels import OTHER
from podtally.ledger.series import SeriesTable

NO_EVENT = -1
EGRESS_BYTES, INGRESS_BYTES, CONNECTIONS = 0, 1, 2
_TOLD_AGAIN = 10  # an event is told of again once its bytes are so many times those last told


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


class Events:
    """Events by number, with sums that only grow, and how much of them was told.

    Beyond ``limit`` of them, those of one verdict are one event.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.table: SeriesTable[EventLabels] = SeriesTable(3)
        self.first_ns = np.zeros(16, np.int64)
        self.told = np.zeros((16, 3), np.int64)
        self.told_ns = np.zeros(16, np.int64)
        self.untold = 0  # that were due when events were last asked for, and had to wait

    def __len__(self) -> int:
        return len(self.table)

    @property
    def full(self) -> bool:
        return len(self.table) >= self._limit

    def index_of(self, labels: EventLabels, first_ns: int, now_ns: int) -> int:
        """The number of an event, which is made if it is new and there is room."""
        index = self.table.find(labels)
        if index is not None:
            return index
        if self.full and labels.namespace != OTHER:
            return self.index_of(_others(labels), first_ns, now_ns)
        index = self.table.index_of(labels, now_ns)
        self._make_room(index + 1)
        self.first_ns[index], self.told[index], self.told_ns[index] = first_ns, 0, 0
        return index

    def count(self, event: NDArray[np.int32], now_ns: int) -> None:
        """Connections (n,), some of which may be of NO_EVENT, are of these from now on."""
        some = event[event != NO_EVENT]
        if len(some):
            amounts = np.zeros((len(some), 3), np.int64)
            amounts[:, CONNECTIONS] = 1
            self.table.add(some.astype(np.int64), amounts, now_ns)

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
        """At most so many events that are to be told now, with their numbers; those that were
        never told before the others.
        """
        sums, moved_ns = self.table.sums()
        told, told_ns = self.told[: len(sums)], self.told_ns[: len(sums)]
        patience = np.where(told_ns > 0, interval_ns, 0)
        index = np.flatnonzero(self._grown(sums) & (now_ns - told_ns >= patience))
        self.untold = max(0, len(index) - most)
        index = index[np.argsort(told_ns[index], kind="stable")][:most]
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
            )
            for i in index.tolist()
        ]

    def tell(self, index: Collection[int], now_ns: int) -> None:
        """Take note that these have been told of, with their sums as they are."""
        at = np.array(list(index), np.int64)
        self.told[at] = self.table.sums()[0][at]
        self.told_ns[at] = now_ns

    def expire(self, before_ns: int, in_use: NDArray[np.int64]) -> None:
        """Forget what has not grown since, and of which all was told."""
        untold = np.flatnonzero(self._grown(self.table.sums()[0]))
        self.table.expire(before_ns, np.union1d(in_use, untold))

    def restore(
        self, first_ns: NDArray[np.int64], told: NDArray[np.int64], told_ns: NDArray[np.int64]
    ) -> None:
        """Take back what was told, after the table."""
        self.first_ns, self.told, self.told_ns = first_ns, told, told_ns
        self._make_room(16)

    def _grown(self, sums: NDArray[np.int64]) -> NDArray[np.bool_]:
        told = self.told[: len(sums)]
        more = sums[:, CONNECTIONS] > told[:, CONNECTIONS]
        bytes_, before = sums[:, :CONNECTIONS].sum(axis=1), told[:, :CONNECTIONS].sum(axis=1)
        grown: NDArray[np.bool_] = more | (bytes_ > _TOLD_AGAIN * before)
        return grown

    def _make_room(self, size: int) -> None:
        more = size - len(self.told_ns)
        if more > 0:
            more = max(more, len(self.told_ns))
            self.first_ns = np.pad(self.first_ns, (0, more))
            self.told_ns = np.pad(self.told_ns, (0, more))
            self.told = np.pad(self.told, ((0, more), (0, 0)))


def _others(labels: EventLabels) -> EventLabels:
    rest = (OTHER,) * (len(EventLabels._fields) - 2)
    return EventLabels(labels.verdict, labels.direction, *rest)
