# SPDX-License-Identifier: Apache-2.0
"""Books an epoch: rows and accounts in, sums under labels out; nothing is lost or counted twice.

Pure: the kernel's counts, names and the time are arguments. ``runtime.journal`` decides when
the kernel is read and when the result is written.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from podtally.dns.domain_labels import DomainLabels
from podtally.dns.tracker import Observed
from podtally.identity.name_table import Names
from podtally.kernel.account_map import AccountReading as KernelAccounts
from podtally.kernel.retransmit_map import RetransmitReading
from podtally.kernel.table import FlowRows
from podtally.ledger.accounts.accounts import AccountTable
from podtally.ledger.accounts.interface_totals import InterfaceTotals
from podtally.ledger.attribution.attribution import Attribution, AttributionSettings
from podtally.ledger.checkpoint.saved import Part, Saved, SavedError, encode
from podtally.ledger.closed import ClosedConnections, LedgerTables, describe, label_ended
from podtally.ledger.connections.connections import Connections, Flags
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.domains.dns_booking import DnsBooking
from podtally.ledger.events.events import NO_EVENT, Events
from podtally.ledger.interfaces.balance import Losses
from podtally.ledger.interfaces.counter_deltas import NOTHING_GROWN, CounterDeltas
from podtally.ledger.interfaces.interfaces import Interfaces
from podtally.ledger.metrics import families, outcome_families
from podtally.ledger.metrics.costs import CONTRACT, SeriesOptions
from podtally.ledger.metrics.tables import Tables
from podtally.ledger.metrics.view import View
from podtally.ledger.outcomes.outcome_booking import ColdRows, OutcomeBooking
from podtally.ledger.outcomes.retransmits import RetransmitBooking
from podtally.ledger.pending import PendingConnections
from podtally.ledger.recording.history_rows import Batch
from podtally.ledger.recording.recorder import Recorder, mark_recorded
from podtally.ledger.relabelling import Relabelling
from podtally.ledger.row_booking import Followers, RowBooking
from podtally.ledger.series.label_sets import DIRECTIONS, BookLabels
from podtally.ledger.series.series import SeriesView
from podtally.ledger.verdicts.candidate_rows import CandidateRows

NEARLY_FULL = 0.9  # of the series limit: then series of idle peers are removed

_TOTALS = "totals"  # the part of LedgerTotals


class Limits(NamedTuple):
    series: int
    connections: int
    grace_ns: int  # how long series of what is gone are kept
    patience_ns: int = 10_000_000_000  # how long a connection waits for its name
    events: int = 10_000  # more are summed up as scans
    undeclared_events: bool = False  # events of undeclared connections, too
    forwarders: tuple[str, ...] = ()  # globs of workloads that send and receive for others
    history: str = ""  # the stream of batches that a new ledger begins; "": no history


class LedgerTotals(msgspec.Struct, frozen=True):
    """Counts of the ledger as a whole, for the checkpoint."""

    retired_gaps: list[tuple[BookLabels, int]]
    unknown_initiators: int
    overflow_packets: int
    limited: int
    name_timeouts: int


class Ledger:
    """Everything podtally has counted since its first start on this boot."""

    def __init__(
        self,
        flags: Flags,
        limits: Limits,
        keep_closed: bool = False,
        options: SeriesOptions = CONTRACT,
        domains: DomainLabels | None = None,
    ) -> None:
        self._keep_closed = keep_closed
        self.limits = limits
        self.tables = Tables()
        self.flows, self.pods = self.tables[families.FLOWS], self.tables[families.PODS]
        self.books, self.drops = self.tables[families.BOOKS], self.tables[families.DROPS_BYTES]
        self.accounts = AccountTable(self.tables, limits.series, options)
        self.events = Events(limits.events, self.tables[families.SCANS])
        self.connections = Connections(flags, limits.connections)
        self.interfaces = Interfaces()
        settings = AttributionSettings(
            limits.patience_ns,
            self.events,
            limits.undeclared_events,
            options.by_pod,
            limits.forwarders,
            domains,
            options.nat_rules,
        )
        self.attribution = Attribution(self.interfaces, self.accounts, flags, settings)
        self.domains = self.attribution.domains
        self._dns = DnsBooking(self.tables)
        self.recorder = Recorder(self.interfaces, self.accounts, limits.history)
        self.pending = PendingConnections(
            self.connections, self.accounts, self.events, self.attribution, self.recorder
        )
        self.outcomes = OutcomeBooking(self.connections, self.accounts, self.events)
        self.retransmits = RetransmitBooking(
            self.accounts, self.tables[outcome_families.RETRANSMITS_LOST]
        )
        self.row_booking = RowBooking(
            self.connections,
            self.accounts,
            self.events,
            self.attribution,
            Followers(self.recorder, self.outcomes),
        )
        self.candidate_rows = CandidateRows()
        self.retired_gaps: dict[BookLabels, int] = {}
        self.counter_deltas = CounterDeltas()
        self.overflow_packets = 0
        self._interface_totals = InterfaceTotals(self.interfaces, self.accounts, self.tables)
        self._relabelling = Relabelling(
            self.connections, self.pending, self.accounts, self.attribution, self.recorder
        )
        self._kernel_delta = NOTHING_GROWN

    def _parts(self) -> dict[str, Part]:
        """Return the parts that the checkpoint keeps, in the order they are loaded."""
        return {
            **self.tables.by_name,
            "events": self.events,
            "scans": self.events.scans,
            "accounts": self.accounts,
            "domains": self.domains,
            "interfaces": self.interfaces,
            "connections": self.connections,
            "pending": self.pending,
            "counter_deltas": self.counter_deltas,
            "candidate_rows": self.candidate_rows,
            "history": self.recorder,
            "waiting_retransmits": self.retransmits,
        }

    def save(self) -> dict[str, Saved]:
        """Return all parts for the checkpoint."""
        totals = LedgerTotals(
            list(self.retired_gaps.items()),
            self.row_booking.unknown_initiators,
            self.overflow_packets,
            self.accounts.limited,
            self.attribution.waits.timeouts,
        )
        parts = {name: part.save() for name, part in self._parts().items()}
        return {**parts, _TOTALS: Saved(encode(totals))}

    def load(self, saved: Mapping[str, Saved], now_ns: int) -> None:
        """Restore what ``save`` returned, into a new ledger; parts may be missing.

        SavedError if a part cannot be read; then the ledger must not be used.
        """
        for name, part in self._parts().items():
            if name in saved:
                try:
                    part.load(saved[name], now_ns)
                except SavedError as error:
                    raise SavedError(f"{name}: {error}") from None
        if self.recorder.stream and not self.recorder.is_restored:
            for columns in (self.connections.columns, self.pending.held):
                mark_recorded(columns)
        if _TOTALS in saved:
            totals = saved[_TOTALS].decode(LedgerTotals)
            self.retired_gaps = dict(totals.retired_gaps)
            self.row_booking.unknown_initiators = totals.unknown_initiators
            self.overflow_packets = totals.overflow_packets
            self.accounts.limited = totals.limited
            self.attribution.waits.timeouts = totals.name_timeouts
        for columns in (self.connections.columns, self.pending.held):
            self.attribution.expect(columns)
        self._relabelling.settled_ns = now_ns
        self.begin()

    def begin(self) -> None:
        """Start an epoch's sums."""
        self.row_booking.begin()

    def book_rows(self, rows: FlowRows, cold: ColdRows, context: EpochContext) -> None:
        """Book a batch of rows, each connection at most once in an epoch."""
        self.recorder.begin_epoch(self.connections, self.pending.held, context)
        candidates = self.tables[families.CANDIDATES]
        self.candidate_rows.learn(context.declared, candidates, context.wall_ns)
        self.row_booking.book_rows(rows, cold, context)

    # -- what the kernel counts outside of rows -----------------------------------

    def book_kernel_accounts(self, accounts: KernelAccounts) -> None:
        """Book the growth of the kernel's accounts since the last reading."""
        self._kernel_delta = self.counter_deltas.grown(accounts)
        self.overflow_packets += int(self._kernel_delta.packets[:, 1].sum())

    def book_retransmits(self, retransmits: RetransmitReading, now_ns: int) -> None:
        """Keep what TCP sent again in this epoch until its connections are settled."""
        self.retransmits.take(retransmits, now_ns)

    # -- the end of an epoch --------------------------------------------------------

    def settle(self, context: EpochContext, gone: Iterable[int]) -> list[ClosedConnections]:
        """Add the epoch's sums to their series. Return the closed connections, if the ledger keeps
        them. ``gone`` are removed interfaces: call ``let_go`` for them after this.
        """
        now_ns = context.now_ns
        self.recorder.begin_epoch(self.connections, self.pending.held, context)
        candidates = self.tables[families.CANDIDATES]
        self.candidate_rows.learn(context.declared, candidates, context.wall_ns)
        self.row_booking.book_errors(context)
        delta, self._kernel_delta = self._kernel_delta, NOTHING_GROWN
        self._interface_totals.settle(delta, self.row_booking.sums, context.names, now_ns)
        self.row_booking.settle(now_ns)
        replaced = self.row_booking.replaced
        self.begin()
        leaving = np.array([i for i in gone if self.interfaces.known(i)], np.int64)
        ended = [*replaced, self.connections.settle(now_ns, leaving)]
        for each in ended:
            self.row_booking.initiators.remember(each, now_ns)
        ended = [*self.pending.hold(ended), self.pending.name(context)]
        books = LedgerTables(self.interfaces, self.accounts, self.attribution)
        for each in ended:
            label_ended(each, books, context)
        closed = [*ended, self.pending.held]
        self.outcomes.settle(context, self.row_booking.rename, closed)
        self.outcomes.settle_ended(ended, context)
        self.retransmits.settle([self.connections.columns, *closed], now_ns)
        for each in ended:
            self.recorder.end(each)
        described = [
            describe(each, books, context)._replace(
                endings=self.outcomes.endings(each),
                handshake_seconds=self.outcomes.handshake_seconds(each),
            )
            for each in ended
            if self._keep_closed and len(each.fingerprint)
        ]
        self._relabelling.after_epoch(context)
        self._release()
        return described

    def _release(self) -> None:
        """Forget removed interfaces on which nothing is pending any more."""
        for ifindex in self.interfaces.leaving_ifindexes():
            if not self._has_pending(ifindex):
                self._remove(ifindex)

    def _has_pending(self, ifindex: int) -> bool:
        return self.interfaces.has_pending(ifindex) or self.pending.on(ifindex)

    def _remove(self, ifindex: int) -> None:
        slot = self.interfaces.slot(ifindex)
        self.recorder.leave(slot)
        self.accounts.close(slot)
        self.accounts.close_waiting(slot)
        self.interfaces.remove(ifindex)

    def book_dns(self, observed: Observed, context: EpochContext) -> None:
        """Book what endpoints asked in DNS since the last epoch."""
        self._dns.book(observed, context, self.limits.patience_ns)

    def close_books(
        self,
        ifindex: NDArray[np.int64],
        counters: NDArray[np.int64],
        now_ns: int,
        losses: Losses | None = None,
    ) -> None:
        """Check the books of interfaces (n,) against readings of their counters (n, 2), from
        and to the endpoint, taken after the epoch was settled.
        """
        self._interface_totals.close(ifindex, counters, now_ns, losses)

    def let_go(self, ifindex: int) -> None:
        """Forget an interface; its series and its gap stay for the grace period."""
        if not self.interfaces.known(ifindex):
            return
        slot = self.interfaces.slot(ifindex)
        for direction, gap in zip(DIRECTIONS, self.interfaces.gap[slot].tolist(), strict=True):
            if gap:
                labels = BookLabels(self.interfaces.names[slot], direction)
                self.retired_gaps[labels] = self.retired_gaps.get(labels, 0) + gap
        self._relabelling.of_interfaces([ifindex])
        if self._has_pending(ifindex):
            self.interfaces.leave(ifindex)
        else:
            self._remove(ifindex)

    def rename(self, ifindexes: Iterable[int]) -> None:
        """Book under new names from now on: the endpoints of these interfaces have been renamed."""
        changed = [i for i in ifindexes if self.interfaces.known(i)]
        if changed:
            self._relabelling.of_interfaces(changed)

    def expire(self, names: Names, now_ns: int) -> None:
        """Forget series of what is gone and has been idle for the grace period."""
        before = now_ns - self.limits.grace_ns
        self._interface_totals.expire(before, names, now_ns)
        # What is there keeps its series, idle or not, unless room is needed.
        idle = self.accounts.idle(self.flows.idle(before), self.connections.columns.account)
        full = len(self.flows) > self.limits.series * NEARLY_FULL
        if full or self.accounts.shares.full():
            self.accounts.close_idle(idle, full)
        self.accounts.close_former(idle, names)
        self.flows.expire(before, self.accounts.series_in_use())
        for table, in_use in self.accounts.others_in_use():
            table.expire(before, in_use)
        events_in_use = [self.connections.columns.event, self.pending.held.event]
        events = np.unique(np.concatenate(events_in_use)).astype(np.int64)
        self.events.expire(before, events[events != NO_EVENT])
        self.domains.prune(self.connections.columns.domain, self.pending.held.domain)
        self.attribution.domain_shares.expire(self.flows)
        self._dns.expire(before)
        for labels in [each for each in self.retired_gaps if self.books.find(each) is None]:
            del self.retired_gaps[labels]

    def view(self) -> View:
        candidates = self.tables[families.CANDIDATES]
        return View(
            series={**self.tables.views(), families.GAPS.name: self._gaps()},
            connections=len(self.connections),
            unknown_initiators=self.row_booking.unknown_initiators,
            limited=self.accounts.limited,
            overflow_packets=self.overflow_packets,
            waiting=len(self.pending),
            name_timeouts=self.attribution.waits.timeouts,
            late=self.interfaces.late_ifindexes(),
            candidate_changes=self.candidate_rows.view(candidates),
            candidates_since_ns=self.candidate_rows.since_ns,
        )

    def open_minute(self) -> Batch:
        """Return the history's rows that are in no batch yet."""
        return self.recorder.open_minute(self.connections.columns, self.pending.held)

    def _gaps(self) -> SeriesView[BookLabels]:
        """Return the gap of each interface and direction; 0 for one that is gone or renamed."""
        gaps = dict.fromkeys(self.books.view().labels, 0) | self.retired_gaps
        for slot in self.interfaces.live().tolist():
            for direction, gap in zip(DIRECTIONS, self.interfaces.gap[slot].tolist(), strict=True):
                labels = BookLabels(self.interfaces.names[slot], direction)
                gaps[labels] = gaps.get(labels, 0) + gap
        return SeriesView(list(gaps), np.array(list(gaps.values()), np.int64).reshape(-1, 1))
