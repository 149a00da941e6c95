# SPDX-License-Identifier: Apache-2.0
"""Sums of events: denied, undeclared and other connections, by what the event log shows.

``export.event_log`` writes them.
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.checkpoint.saved import Saved
from podtally.ledger.events.event_outcomes import EventOutcomes
from podtally.ledger.events.scans import Scan, Scans
from podtally.ledger.series.label_sets import OTHER, ScanLabels
from podtally.ledger.series.series import SeriesTable
from podtally.ledger.series.shares import Shares, Taken, rank
from podtally.policy.model import DENIED

NO_EVENT = -1
EGRESS_BYTES, INGRESS_BYTES, CONNECTIONS = 0, 1, 2
MAX_PEERS_AND_PORTS = 100  # of an endpoint, verdict and direction; the rest is a scan
MAX_PORTS = 20  # of one peer
SCAN = "scan"  # the reason of an event that stands for many
_GROWTH = 10  # an event is reported again at this multiple of its bytes or connections
_MAX_INTERVAL_NS = 3_600_000_000_000  # between two reports of an event that continues
_LARGE = 1 << 16  # bytes that are reported, if the event has grown by ``_GROWTH``
_QUIET = 10  # intervals without traffic after which an event is over


class EventLabels(NamedTuple):
    """The identity of an event: connections with the same labels are in the same event."""

    verdict: str  # denied or undeclared; any other if the exposure is undeclared
    direction: str  # egress: the endpoint opened the connections
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
    port: str  # the server's; behind a Service the backend's
    policy: str
    reason: str
    exposure: str  # "", "undeclared", or how it is declared
    peer_domain: str = ""  # in full
    domain_source: str = ""
    domain_chain: str = ""  # of aliases


class Due(NamedTuple):
    """One event to report now, with its sums so far."""

    labels: EventLabels
    connections: int
    new_connections: int  # since it was last reported
    egress_bytes: int
    ingress_bytes: int
    first_ns: int  # CLOCK_MONOTONIC: the first connection's first packet
    last_ns: int  # the last epoch with bytes
    scan: Scan | None = None  # only of an event that stands for many peers or ports
    outcomes: Mapping[str, int] = MappingProxyType({})  # of connections that are decided


class Events:
    """Events by index, with sums that only grow, and the sums that were reported last.

    Beyond its share of ``limit``, an endpoint has one event for the ports of a peer, then one
    for all peers: a scan.
    """

    def __init__(self, limit: int, scanning: SeriesTable[ScanLabels]) -> None:
        """``scanning`` counts the connections of scans."""
        self.shares = Shares(limit, MAX_PEERS_AND_PORTS, MAX_PORTS)
        self.scans = Scans()
        self.outcomes = EventOutcomes()
        self.scanning = scanning
        self._scanning = np.full(16, NO_EVENT, np.int64)  # by index of the event
        self._endpoint = np.zeros(16, np.int64)  # a hash, by index of the event
        self._denied = np.zeros(16, np.bool_)
        self.table: SeriesTable[EventLabels] = SeriesTable(3, EventLabels)
        self.first_ns = np.zeros(16, np.int64)
        self.reported = np.zeros((16, 3), np.int64)
        self.reported_ns = np.zeros(16, np.int64)
        self.pending = 0  # events that were due at the last call of ``due`` and not returned

    def __len__(self) -> int:
        return len(self.table)

    def index_of(self, labels: EventLabels, first_ns: int, now_ns: int) -> int:
        """Return the index of an event, or of the one that stands for it beyond the share."""
        index = self.table.find(labels)
        if index is not None:
            return index
        fitting = self._fitting(labels)
        if fitting != labels:
            return self.index_of(fitting, first_ns, now_ns)
        index = self.table.index_of(labels, now_ns)
        self._enter(index, labels, now_ns)
        self.outcomes.clear(index)
        self.first_ns[index], self.reported[index], self.reported_ns[index] = first_ns, 0, 0
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
        self._scanning[index], self._denied[index] = NO_EVENT, labels.verdict == DENIED
        if labels.reason == SCAN:
            scan = ScanLabels(labels.namespace, labels.workload, labels.direction, labels.verdict)
            self._scanning[index] = self.scanning.index_of(scan, now_ns)

    def observe(
        self, event: NDArray[np.int32], port: NDArray[np.int64], address: NDArray[np.uint64]
    ) -> None:
        """Count different ports (n,) and addresses (n, 2) of the events (n,) that are scans."""
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
        """Count connections in events (n,); NO_EVENT is allowed."""
        some = event[event != NO_EVENT]
        if len(some):
            amounts = np.zeros((len(some), 3), np.int64)
            amounts[:, CONNECTIONS] = 1
            self.table.add(some.astype(np.int64), amounts, now_ns)
            scans = self._scanning[some]
            scans = scans[scans != NO_EVENT]
            self.scanning.add(scans, np.ones((len(scans), 1), np.int64), now_ns)

    def add_bytes(self, event: NDArray[np.int32], bytes_: NDArray[np.int64], now_ns: int) -> None:
        """Add bytes (n, 2), egress and ingress, to events (n,); NO_EVENT is allowed."""
        rows = np.flatnonzero(event != NO_EVENT)
        if len(rows):
            amounts = np.zeros((len(rows), 3), np.int64)
            amounts[:, :CONNECTIONS] = bytes_[rows]
            self.table.add(event[rows].astype(np.int64), amounts, now_ns)

    def policies_differ(
        self, before: NDArray[np.int32], after: NDArray[np.int32]
    ) -> NDArray[np.bool_]:
        """Return whether the denying policies of two events differ. (n,)"""
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
        """Return up to ``most`` events to report now, and their indexes.

        Events that were never reported come first, each endpoint's first before any endpoint's
        second; then those with the oldest last report.
        """
        sums, moved_ns = self.table.sums()
        reported, reported_ns = self.reported[: len(sums)], self.reported_ns[: len(sums)]
        intervals = self._intervals(sums, moved_ns, interval_ns, now_ns)
        # Of what policy denies it is news whether it got through.
        news = self._denied[: len(sums)] & self.outcomes.have_news(len(sums))
        index = np.flatnonzero((self._grown(sums) | news) & (now_ns - reported_ns >= intervals))
        self.pending = max(0, len(index) - most)
        index = index[np.argsort(reported_ns[index], kind="stable")]
        again = reported_ns[index] > 0
        turn = np.where(again, 0, rank(self._endpoint[index]))
        index = index[np.lexsort((reported_ns[index], turn, again))][:most]
        labels = dict(self.table.pairs()) if len(index) else {}
        return index.tolist(), [
            Due(
                labels[i],
                int(sums[i, CONNECTIONS]),
                int(sums[i, CONNECTIONS] - reported[i, CONNECTIONS]),
                int(sums[i, EGRESS_BYTES]),
                int(sums[i, INGRESS_BYTES]),
                int(self.first_ns[i]),
                int(moved_ns[i]),
                self.scans.of(i),
                self.outcomes.of(i),
            )
            for i in index.tolist()
        ]

    def _intervals(
        self,
        sums: NDArray[np.int64],
        moved_ns: NDArray[np.int64],
        interval_ns: int,
        now_ns: int,
    ) -> NDArray[np.int64]:
        """Return how long after its last report an event is reported again. (n,)

        The interval doubles while the event continues. One that has grown much, or is over, is
        reported after ``interval_ns``.
        """
        reported, reported_ns = self.reported[: len(sums)], self.reported_ns[: len(sums)]
        age = reported_ns - self.first_ns[: len(sums)]
        intervals = np.clip(age, interval_ns, max(interval_ns, _MAX_INTERVAL_NS))
        bytes_ = sums[:, :CONNECTIONS].sum(axis=1)
        before = reported[:, :CONNECTIONS].sum(axis=1)
        grown = sums[:, CONNECTIONS] >= _GROWTH * reported[:, CONNECTIONS]
        grown |= (bytes_ >= _GROWTH * before) & (bytes_ - before >= _LARGE)
        over = now_ns - moved_ns >= _QUIET * interval_ns
        return np.where(reported_ns == 0, 0, np.where(grown | over, interval_ns, intervals))

    def mark_reported(self, index: Collection[int], now_ns: int) -> None:
        """Note that events were reported with their present sums."""
        self.outcomes.mark_reported(index)
        at = np.array(list(index), np.int64)
        self.reported[at] = self.table.sums()[0][at]
        self.reported_ns[at] = now_ns

    def expire(self, before_ns: int, in_use: NDArray[np.int64]) -> None:
        """Remove events that have not grown since ``before_ns`` and are reported completely."""
        unreported = np.flatnonzero(self._grown(self.table.sums()[0]))
        if self.table.expire(before_ns, np.union1d(in_use, unreported)):
            self._restore_shares()
        self.scanning.expire(before_ns, self._scanning[self._scanning != NO_EVENT])

    def _restore_shares(self) -> None:
        """Set the shares and scans from the table."""
        self.shares.clear()
        self._scanning[:] = NO_EVENT
        pairs = self.table.pairs()
        for index, labels in pairs:
            self._enter(index, labels, 0)
        self.scans.keep([index for index, labels in pairs if labels.reason == SCAN])

    def save(self) -> Saved:
        table = self.table.save()
        reported = {
            "first_ns": self.first_ns,
            "reported": self.reported,
            "reported_ns": self.reported_ns,
        }
        outcomes = self.outcomes.save(len(table.arrays["sums"]))
        return table._replace(arrays={**table.arrays, **reported, **outcomes})

    def load(self, saved: Saved, now_ns: int) -> None:
        """Call after the series of scans are loaded."""
        self.table.load(saved, now_ns)
        self.outcomes.load(saved)
        self.restore(*(saved.array(name) for name in ("first_ns", "reported", "reported_ns")))

    def restore(
        self,
        first_ns: NDArray[np.int64],
        reported: NDArray[np.int64],
        reported_ns: NDArray[np.int64],
    ) -> None:
        """Restore what was reported, after the tables."""
        self.first_ns, self.reported, self.reported_ns = first_ns, reported, reported_ns
        self._make_room(16)
        self._restore_shares()

    def _grown(self, sums: NDArray[np.int64]) -> NDArray[np.bool_]:
        reported = self.reported[: len(sums)]
        more = sums[:, CONNECTIONS] > reported[:, CONNECTIONS]
        bytes_, before = sums[:, :CONNECTIONS].sum(axis=1), reported[:, :CONNECTIONS].sum(axis=1)
        grown: NDArray[np.bool_] = more | (bytes_ > _GROWTH * before)
        return grown

    def _make_room(self, size: int) -> None:
        more = max(size, len(self.reported_ns)) - len(self._scanning)
        if more > 0:
            more = max(more, len(self._scanning))
            self._scanning = np.pad(self._scanning, (0, more), constant_values=NO_EVENT)
            self._endpoint = np.pad(self._endpoint, (0, more))
            self._denied = np.pad(self._denied, (0, more))
        more = size - len(self.reported_ns)
        if more > 0:
            more = max(more, len(self.reported_ns))
            self.first_ns = np.pad(self.first_ns, (0, more))
            self.reported_ns = np.pad(self.reported_ns, (0, more))
            self.reported = np.pad(self.reported, ((0, more), (0, 0)))


def with_any_port(labels: EventLabels) -> EventLabels:
    """Return the event of a peer's ports beyond those reported one by one."""
    return labels._replace(protocol=OTHER, port=OTHER, reason=SCAN)


def with_any_peer(labels: EventLabels) -> EventLabels:
    """Return the event of peers beyond those reported one by one."""
    return with_any_port(labels)._replace(
        peer_kind=OTHER,
        peer_namespace=OTHER,
        peer_workload=OTHER,
        peer_name=OTHER,
        peer_address="",
        scope=OTHER,
        peer_domain="",
        domain_source="",
        domain_chain="",
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
    rest = (OTHER,) * (EventLabels._fields.index("exposure") - 1)
    return EventLabels(labels.verdict, labels.direction, *rest)
