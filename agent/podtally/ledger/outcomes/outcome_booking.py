# SPDX-License-Identifier: Apache-2.0
"""Follows the handshakes of connections, and counts what became of each, once."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from podtally.kernel.table import FlowRows
from podtally.ledger.accounts.accounts import AccountTable
from podtally.ledger.accounts.outcome_series import Cells, bucket_amounts
from podtally.ledger.connections.connections import (
    INITIATOR_ENDPOINT,
    INITIATOR_MASK,
    INITIATOR_PEER,
    UNNAMED,
    ConnectionColumns,
    Connections,
)
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.events.events import Events
from podtally.ledger.outcomes.audit_booking import AuditBooking
from podtally.ledger.outcomes.audit_events import AuditEvents
from podtally.outcomes import decision
from podtally.outcomes.decision import DecisionInput
from podtally.outcomes.progress import (
    ANSWERED,
    COMPLETED,
    OPENED,
    PROGRESS,
    HandshakeRows,
    Progress,
    advance,
    may_change,
    seconds,
)

ColdRows = Callable[[NDArray[np.int64]], NDArray[np.void]]
Rename = Callable[[NDArray[np.int64], EpochContext], None]
_STEPS = ((OPENED, ANSWERED), (ANSWERED, COMPLETED))


class OutcomeBooking:
    """Over the connections and accounts of one ledger."""

    def __init__(self, connections: Connections, accounts: AccountTable, events: Events) -> None:
        self._connections = connections
        self._accounts = accounts
        self._events = events
        self._audit = AuditBooking(connections, accounts, AuditEvents(events))
        self._bits = connections.flags.handshake

    # -- from rows ---------------------------------------------------------------------

    def begin(self, rows: FlowRows, cold: NDArray[np.void]) -> Progress:
        """Return the state of new connections, from their first rows. (n,)"""
        return advance(np.zeros(len(cold), PROGRESS), _handshake_rows(rows, cold), self._bits)

    def advance(self, place: NDArray[np.int64], rows: FlowRows, cold: ColdRows) -> None:
        """Update connections that are not decided yet by another row of each."""
        columns = self._connections.columns
        some = np.flatnonzero(columns.outcome[place] == decision.UNDECIDED)
        before = columns.progress[place[some]]
        some = some[may_change(before, rows.seen[some], rows.packets[some], self._bits)]
        if len(some):
            its = FlowRows._make(column[some] for column in rows)
            handshake = _handshake_rows(its, cold(its.place))
            at = place[some]
            columns.progress[at] = advance(columns.progress[at], handshake, self._bits)

    # -- at the end of an epoch ----------------------------------------------------------

    def settle(
        self, context: EpochContext, rename: Rename, closed: Sequence[ConnectionColumns] = ()
    ) -> None:
        """Decide open connections; ``rename`` finds the labels of connections again. ``closed``
        are those that have just ended, or wait for a name since then.
        """
        self._audit.begin_epoch(context, closed)
        columns = self._connections.columns
        rows = np.flatnonzero(
            (columns.outcome == decision.UNDECIDED) & (columns.initiator & INITIATOR_MASK != 0)
        )
        if not len(rows):
            return
        rows = rows[~self._waits(columns.account[rows])]
        found = self._decide(columns, rows, context.now_ns, over=False)
        rows, found = rows[found != decision.UNDECIDED], found[found != decision.UNDECIDED]
        if not len(rows):
            return
        unnamed = rows[columns.account[rows] == UNNAMED]
        if len(unnamed):
            rename(unnamed, context)
        held = self._audit.are_held(columns.take(rows), found)
        rows, found = rows[~held], found[~held]
        columns.outcome[rows] = found
        self._count(columns.take(rows), context)

    def settle_ended(self, ended: Sequence[ConnectionColumns], context: EpochContext) -> None:
        """Decide connections that are over, and count how they ended. They have their labels."""
        for columns in ended:
            if not len(columns.fingerprint):
                continue
            every = np.arange(len(columns.fingerprint))
            found = self._decide(columns, every, context.now_ns, over=True)
            late = np.flatnonzero(columns.outcome == decision.UNDECIDED)
            columns.outcome[late] = found[late]
            self._count(columns.take(late), context)
            self._count_endings(columns, context.now_ns)

    def endings(self, columns: ConnectionColumns) -> NDArray[np.uint8]:
        """Return ``decision.ENDINGS`` of connections that are over. (n,)"""
        return decision.endings(columns.outcome, columns.seen, self._bits.shift)

    def handshake_seconds(self, columns: ConnectionColumns) -> NDArray[np.float64]:
        """Return the seconds of each step of connections' handshakes; NaN if not known. (n, 2)"""
        found = np.full((len(columns.fingerprint), len(_STEPS)), np.nan)
        for step, (start, end) in enumerate(_STEPS):
            known, took = seconds(columns.progress, start, end, self._bits.unit)
            found[known, step] = took[known]
        return found

    def _waits(self, account: NDArray[np.int32]) -> NDArray[np.bool_]:
        waits: NDArray[np.bool_] = self._accounts.waiting[np.maximum(account, 0)] & (account >= 0)
        return waits

    def _decide(
        self, columns: ConnectionColumns, rows: NDArray[np.int64], now_ns: int, over: bool
    ) -> NDArray[np.uint8]:
        """Decide the connections at ``rows``; in a flood of SYNs, these are many. (n,)"""
        given = DecisionInput(
            progress=columns.progress[rows],
            seen=columns.seen[rows],
            protocol=columns.key["protocol"][rows],
            opener=_side_of(columns.initiator[rows]),
            first_ns=columns.first_ns[rows],
            last_ns=columns.last_ns[rows],
        )
        return decision.decide(given, now_ns, self._bits, over)

    def _countable(self, columns: ConnectionColumns) -> NDArray[np.int64]:
        """Return the rows that podtally_connections_total counts."""
        account = np.maximum(columns.account, 0)
        known = (columns.account >= 0) & self._accounts.outcomes.counted[account]
        known &= ~self._accounts.silent[account] & (_opener(columns) >= 0)
        return np.flatnonzero(known)

    def _count(self, columns: ConnectionColumns, context: EpochContext) -> None:
        self._events.outcomes.add(columns.event, columns.outcome)
        columns = columns.take(self._countable(columns))
        n = len(columns.fingerprint)
        if not n:
            return
        series, now_ns = self._accounts.outcomes, context.now_ns
        cells = Cells(columns.account.astype(np.int64), _opener(columns), columns.outcome)
        series.outcomes.add(cells, np.ones((n, 1), np.int64), now_ns)
        worked = np.isin(columns.outcome, (decision.ESTABLISHED, decision.ANSWERED))
        for step, (start, end) in enumerate(_STEPS):
            known, took = seconds(columns.progress, start, end, self._bits.unit)
            some = np.flatnonzero(known & worked)
            if len(some):
                steps = cells._replace(value=np.full(n, step)).take(some)
                series.handshakes.add(steps, bucket_amounts(took[some]), now_ns)
        self._audit.book(columns, cells, now_ns)

    def _count_endings(self, columns: ConnectionColumns, now_ns: int) -> None:
        ending = self.endings(columns)
        some = np.intersect1d(
            np.flatnonzero(ending != decision.NO_ENDING), self._countable(columns)
        )
        if len(some):
            cells = Cells(columns.account.astype(np.int64), _opener(columns), ending).take(some)
            one = np.ones((len(some), 1), np.int64)
            self._accounts.outcomes.endings.add(cells, one, now_ns)


def _handshake_rows(rows: FlowRows, cold: NDArray[np.void]) -> HandshakeRows:
    return HandshakeRows(
        seen=rows.seen,
        packets=rows.packets,
        first_ns=cold["first_seen_ns"],
        first_direction=cold["first_direction"],
        protocol=cold["protocol"],
        handshake=rows.handshake,
    )


def _opener(columns: ConnectionColumns) -> NDArray[np.int64]:
    """Return the side that opened connections: 0 the endpoint, 1 its peer, -1 unknown. (n,)"""
    return _side_of(columns.initiator)


def _side_of(initiator: NDArray[np.uint8]) -> NDArray[np.int64]:
    side = initiator & INITIATOR_MASK
    return np.select([side == INITIATOR_ENDPOINT, side == INITIATOR_PEER], [0, 1], -1)
