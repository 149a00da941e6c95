# SPDX-License-Identifier: Apache-2.0
"""Books an epoch's rows: each joins its connection; bytes and packets are summed by account."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.kernel.table import FlowRows
from podtally.ledger.accounts.accounts import AccountTable
from podtally.ledger.attribution.attribution import AttributedConnections, Attribution
from podtally.ledger.connections.connections import (
    CONTESTED,
    INITIATOR_MASK,
    INITIATOR_UNKNOWN,
    KEY,
    NO_CONNECTION,
    UNNAMED,
    ConnectionColumns,
    Connections,
)
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.connections.icmp_errors import errors_among, quoted_fingerprints
from podtally.ledger.connections.initiator import InitiatorFinder, initiator_of, opening_flags
from podtally.ledger.connections.new_connections import (
    NewConnections,
    carries_data,
    may_carry_data,
    new_connections,
)
from podtally.ledger.domains.peer_domains import NOT_LOOKED_UP
from podtally.ledger.events.events import NO_EVENT, Events
from podtally.ledger.metrics.families import DENIED, UNDECIDED
from podtally.ledger.metrics.family import BYTES, PACKETS
from podtally.ledger.outcomes.outcome_booking import ColdRows, OutcomeBooking
from podtally.ledger.recording.recorder import Recorder


class Followers(NamedTuple):
    """What follows connections beside their sums."""

    recorder: Recorder
    outcomes: OutcomeBooking


class RowBooking:
    """``sums`` (4, accounts) of this epoch: bytes, then packets, each from and to the endpoint."""

    def __init__(
        self,
        connections: Connections,
        accounts: AccountTable,
        events: Events,
        attribution: Attribution,
        followers: Followers,
    ) -> None:
        self.outcomes = followers.outcomes
        self.connections = connections
        self.accounts = accounts
        self.events = events
        self.attribution = attribution
        self.recorder = followers.recorder
        self.unknown_initiators = 0
        self.replaced: list[ConnectionColumns] = []  # connections that lost their ports
        self._errors: list[tuple[FlowRows, ColdRows]] = []  # of this epoch
        self._flags = connections.flags
        self._opening = opening_flags(connections.flags)
        self.initiators = InitiatorFinder(connections.flags, attribution.interfaces)
        self.begin()

    def begin(self) -> None:
        """Start an epoch's sums."""
        self.sums = np.zeros((4, len(self.accounts)), np.int64)
        self.replaced = []

    def settle(self, now_ns: int) -> None:
        """Add the epoch's sums to the series of the accounts."""
        moved = np.flatnonzero(self.sums.any(axis=0))
        for direction in (0, 1):
            amounts = np.zeros((len(moved), 3), np.int64)
            amounts[:, BYTES] = self.sums[direction, moved]
            amounts[:, PACKETS] = self.sums[2 + direction, moved]
            self.accounts.add(moved, direction, amounts, now_ns)

    def book_rows(self, rows: FlowRows, cold: ColdRows, context: EpochContext) -> None:
        """Book a batch of rows, each connection at most once in an epoch.

        Rows of ICMP errors wait for the epoch's last batch: what they quote may be in it.
        """
        errors = errors_among(rows.seen, self._flags)
        if errors.any():
            self._errors.append((FlowRows._make(column[errors] for column in rows), cold))
            rows = FlowRows._make(column[~errors] for column in rows)
        self._book(rows, cold, context)

    def book_errors(self, context: EpochContext) -> None:
        """Book the epoch's ICMP errors, each with the connection it quotes.

        One that quotes no connection is booked and judged as ICMP of its sender.
        """
        held, self._errors = self._errors, []
        for rows, cold in held:
            quoted = quoted_fingerprints(rows, self._flags)
            account, event = self.connections.add_errors(quoted, rows, context.now_ns)
            unnamed = account == UNNAMED
            if unnamed.any():
                place, _ = self.connections.find(np.unique(quoted[unnamed]))
                self.rename(place, context)
                place = np.searchsorted(self.connections.columns.fingerprint, quoted[unnamed])
                account[unnamed] = self.connections.columns.account[place]
                event[unnamed] = self.connections.columns.event[place]
            found = account != NO_CONNECTION
            some = FlowRows._make(column[found] for column in rows)
            self._add(
                AttributedConnections(account[found].astype(np.int64), event[found]),
                some,
                context.now_ns,
            )
            self._book(FlowRows._make(column[~found] for column in rows), cold, context)

    def _book(self, rows: FlowRows, cold: ColdRows, context: EpochContext) -> None:
        if not len(rows.fingerprint):
            return
        place, known = self.connections.find(rows.fingerprint)
        if known.all():
            booked = self._book_known(rows, place, cold, context)
        else:
            booked = AttributedConnections(
                np.empty(len(place), np.int64), np.empty(len(place), np.int32)
            )
            old = np.flatnonzero(known)
            some = FlowRows._make(column[old] for column in rows)
            booked.account[old], booked.event[old] = self._book_known(
                some, place[old], cold, context
            )
            new = np.flatnonzero(~known)
            fresh = self._begin(FlowRows._make(column[new] for column in rows), cold, context)
            booked.account[new], booked.event[new] = fresh.account, fresh.event
            self.connections.begin(fresh)
        self._add(booked, rows, context.now_ns)
        scans = self.events.scans_among(booked.event)
        if len(scans):
            address = cold(rows.place[scans])["remote_address"]
            self.events.scans.weigh(booked.event[scans], address, rows.bytes[scans].sum(axis=1))

    def _book_known(
        self, rows: FlowRows, place: NDArray[np.int64], cold: ColdRows, context: EpochContext
    ) -> AttributedConnections:
        """Add rows to their connections; return their accounts and events."""
        connections = self.connections
        reused = connections.reused(place, rows.seen)
        handed = self._reassigned(rows, place, cold, context)
        if handed is not None:
            reused = reused | handed
        if not reused.any():
            uncounted = self._reopen(place, rows)
            self.outcomes.advance(place, rows, cold)
            connections.add_to(place, (rows.bytes, rows.packets), rows.seen, context.now_ns)
        else:
            old = FlowRows._make(column[~reused] for column in rows)
            amounts = (old.bytes, old.packets)
            uncounted = self._reopen(place[~reused], old)
            self.outcomes.advance(place[~reused], old, cold)
            connections.add_to(place[~reused], amounts, old.seen, context.now_ns)
            again = FlowRows._make(column[reused] for column in rows)
            fresh = self._begin(again, cold, context, connections.columns.initiator[place[reused]])
            self.replaced.append(connections.replace(place[reused], fresh))
        unnamed = place[connections.columns.account[place] == UNNAMED]
        if len(unnamed):
            self.rename(unnamed, context)
        columns = connections.columns
        if len(uncounted):
            account = columns.account[uncounted].astype(np.int64)
            self.accounts.count_openings(account, columns.initiator[uncounted], context.now_ns)
        return AttributedConnections(columns.account[place].astype(np.int64), columns.event[place])

    def _reopen(self, place: NDArray[np.int64], rows: FlowRows) -> NDArray[np.int64]:
        """Set connections to UNNAMED for which these rows, not added yet, are new evidence: of
        the opener, or of an endpoint that answers frames it seemed to receive by flooding.

        Return the places of those with an opening that was not counted yet.
        """
        columns = self.connections.columns
        news = np.flatnonzero(rows.seen & ~columns.seen[place] & self._opening)
        uncounted, again = place[:0], [place[:0]]
        if len(news):
            at = place[news]
            before, seen = columns.initiator[at], columns.seen[at] | rows.seen[news]
            initiator = initiator_of(seen, columns.key[at], self._flags) | before & CONTESTED
            # A side known from earlier epochs, memory or the tracker stays known; what
            # contradicts it contests it and never replaces it.
            side, side_before = initiator & INITIATOR_MASK, before & INITIATOR_MASK
            contradicted = (side != side_before) & (side != 0) & (side_before != 0)
            initiator = np.where(side == INITIATOR_UNKNOWN, initiator | before, initiator)
            initiator[contradicted] |= CONTESTED
            uncounted = at[(before & INITIATOR_MASK == 0) & (initiator & INITIATOR_MASK != 0)]
            again.append(at[initiator != before])
            columns.initiator[at] = initiator
        # Without an opening, headers alone are no news, and data are.
        unopened = np.flatnonzero(columns.initiator.take(place) == INITIATOR_UNKNOWN)
        if len(unopened):
            again.append(self._with_first_data(place[unopened], rows, unopened))
        if self.accounts.silent.any():
            silent = self.accounts.silent[np.maximum(columns.account[place], 0)]
            answers = (columns.packets[place, 0] == 0) & (rows.packets[:, 0] > 0)
            again.append(place[silent & answers])
        some = np.concatenate(again)
        account = columns.account[some]
        self.recorder.unname(columns, some[(account >= 0) & ~self.accounts.waiting[account]])
        to_count: NDArray[np.int64] = uncounted[columns.account[uncounted] == UNNAMED]
        return to_count

    def _with_first_data(
        self, at: NDArray[np.int64], rows: FlowRows, index: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the connections among ``at`` (n,) to which rows at ``index`` (n,) bring the first
        data.
        """
        columns = self.connections.columns  # take() copies pairs faster than an index does
        bytes_, packets = columns.bytes.take(at, axis=0), columns.packets.take(at, axis=0)
        more = (rows.bytes.take(index, axis=0), rows.packets.take(index, axis=0))
        after = (bytes_ + more[0], packets + more[1])
        some = np.flatnonzero(may_carry_data(*after))
        key = columns.key[at[some]]
        before = carries_data(key, bytes_[some], packets[some])
        first: NDArray[np.int64] = at[
            some[~before & carries_data(key, after[0][some], after[1][some])]
        ]
        return first

    def rename(self, place: NDArray[np.int64], context: EpochContext) -> None:
        """Find the labels of connections again; count those that are denied from now on, or by
        other policies.
        """
        columns = self.connections.columns
        flows = new_connections(columns.take(place))
        named = self.attribution.attribute(flows, context, wait=False)
        columns.domain[place] = flows.domain
        before = columns.event[place]
        changed = (named.event != before) & (named.event != NO_EVENT)
        columns.account[place], columns.event[place] = named
        if changed.any():
            others = self.events.policies_differ(before[changed], named.event[changed])
            self.accounts.count(DENIED, named.account[changed][others], context.now_ns)
            self.accounts.count(UNDECIDED, named.account[changed], context.now_ns)
            self.events.count(named.event[changed], context.now_ns)

    def _reassigned(
        self, rows: FlowRows, place: NDArray[np.int64], cold: ColdRows, context: EpochContext
    ) -> NDArray[np.bool_] | None:
        """Return which rows continue a connection to an address that has another owner now,
        (n,); None: none of them.
        """
        if not len(context.reassigned):
            return None
        remote = self.connections.columns.key["remote_address"][place]
        some = np.flatnonzero(np.isin(remote[:, 1], context.reassigned))
        if not len(some):
            return None
        high, low = remote[some].byteswap().T
        now_ns = cold(rows.place[some])["first_seen_ns"].astype(np.int64)
        then_ns = self.connections.columns.first_ns[place[some]]
        look_up = context.names.look_up
        handed = np.zeros(len(place), np.bool_)
        handed[some] = look_up(high, low, now_ns) != look_up(high, low, then_ns)
        return handed

    def _begin(
        self,
        rows: FlowRows,
        cold: ColdRows,
        context: EpochContext,
        initiator_before: NDArray[np.uint8] | None = None,
    ) -> ConnectionColumns:
        """Return new connections from rows, with labels as of their first packet."""
        cold_rows = cold(rows.place)
        key = np.empty(len(cold_rows), KEY)
        for field in KEY.names or ():
            key[field] = cold_rows[field]
        first_ns = cold_rows["first_seen_ns"].astype(np.int64)
        initiator = self.initiators.find(rows.seen, rows.fingerprint, key, first_ns, context)
        if initiator_before is not None:  # in reused ports without a SYN
            initiator = np.where(
                initiator == INITIATOR_UNKNOWN, initiator_before, initiator
            ).astype(np.uint8)
        has_data = carries_data(key, rows.bytes, rows.packets)
        flows = NewConnections(
            key,
            initiator,
            first_ns,
            rows.seen,
            rows.packets[:, 0],
            has_data,
            np.full(len(key), NOT_LOOKED_UP, np.int32),
        )
        named = self.attribution.attribute(flows, context)
        self.accounts.count_new(named.account, initiator, context.now_ns)
        self.events.count(named.event, context.now_ns)
        self.unknown_initiators += int(
            np.count_nonzero(initiator & INITIATOR_MASK == INITIATOR_UNKNOWN)
        )
        return ConnectionColumns(
            rows.fingerprint,
            named.account.astype(np.int32),
            named.event,
            initiator,
            rows.seen,
            first_ns,
            np.full(len(key), context.now_ns, np.int64),
            rows.bytes,
            rows.packets,
            key,
            flows.domain,
            np.zeros((len(key), 4), np.int64),
            first_ns.copy(),
            np.zeros(len(key), np.uint8),
            self.outcomes.begin(rows, cold_rows),
        )

    def _add(self, booked: AttributedConnections, rows: FlowRows, now_ns: int) -> None:
        account = booked.account
        short = len(self.accounts) - self.sums.shape[1]
        if short > 0:  # these rows have opened accounts
            self.sums = np.pad(self.sums, ((0, 0), (0, short)))
        for direction in (0, 1):
            np.add.at(self.sums[direction], account, rows.bytes[:, direction])
            np.add.at(self.sums[2 + direction], account, rows.packets[:, direction])
        self.events.add_bytes(booked.event, rows.bytes, now_ns)
