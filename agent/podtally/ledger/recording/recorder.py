# SPDX-License-Identifier: Apache-2.0
"""Records for the history what the ledger books: by minute and conversation, with exact sums.

A connection keeps how much of its totals is recorded; the rest is recorded when the minute
ends, the connection ends, or its labels change. Finished minutes are batches, kept until the
store has them. All of it is in the checkpoint, so an epoch is in both or in neither.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from podtally.ledger.accounts.accounts import AccountTable
from podtally.ledger.checkpoint.saved import Saved, encode
from podtally.ledger.connections.connections import UNNAMED, ConnectionColumns, Connections
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.interfaces.interfaces import Interfaces
from podtally.ledger.recording.history_rows import (
    MINUTE_NS,
    Batch,
    HistoryRows,
    RowLabels,
    bounded,
    joined,
    loaded_rows,
    no_rows,
    saved_rows,
    summed,
)
from podtally.ledger.recording.recorded_rows import (
    Moment,
    WaitingRows,
    connection_rows,
    moved,
    rest_rows,
)
from podtally.ledger.recording.row_labels import LabelNumbers

ALL = slice(None)
MAX_PIECES = 20_000  # rows that are not summed yet
MAX_OUTBOX_ROWS = 100_000  # that the store has not taken; beyond, the oldest batches are lost


class _Values(msgspec.Struct, frozen=True):
    """The part of the state that is no array."""

    stream: str
    minute: int
    next_number: int
    lost_rows: int
    labels: list[RowLabels]
    outbox: list[tuple[int, int, list[RowLabels]]]  # number, rows and labels of each batch
    waiting: list[str]  # names of interfaces


class Recorder:
    """``stream`` identifies this sequence of batches: no other recorder may use it. "": off."""

    def __init__(self, interfaces: Interfaces, accounts: AccountTable, stream: str = "") -> None:
        self.stream = stream
        self.outbox: list[Batch] = []
        self.lost_rows = 0  # since the stream began
        self._interfaces, self._accounts, self._rest = interfaces, accounts, interfaces.rest
        self._labels = LabelNumbers(interfaces, accounts)
        self._minute = 0  # since 1970; 0: before the first epoch
        self._offset_ns = 0  # what CLOCK_MONOTONIC lacks of the wall clock
        self._next_number = 0
        self._pieces: list[HistoryRows] = []
        self._summed = 0  # pieces, when they were last summed up
        self._waiting = WaitingRows()
        self.is_restored = False  # from a checkpoint

    # -- an epoch -------------------------------------------------------------------------

    def begin_epoch(
        self, connections: Connections, held: ConnectionColumns, context: EpochContext
    ) -> None:
        """Call before an epoch is booked: it belongs to the minute in which it ends.

        ``held`` are closed connections that wait for a name.
        """
        if not self.stream or not context.wall_ns:
            return
        renamed = self._labels.renamed_slots()
        if len(renamed):  # what was counted up to now belongs to the earlier name
            for each in (connections.columns, held):
                own = np.isin(each.key["ifindex"], self._interfaces.ifindex[renamed])
                self._record(each, np.flatnonzero(own))
                self._record_waiting(each, np.flatnonzero(own))
            self._record_rest(renamed)
        minute = context.wall_ns // MINUTE_NS
        if self._minute and minute != self._minute:
            self._end_minute(connections.columns, held)
        self._labels.learn(context.names)
        if minute != self._minute:
            since_ns = context.wall_ns - minute * MINUTE_NS
            connections.minute_from_ns = max(1, context.now_ns - since_ns)
        self._minute, self._offset_ns = minute, context.wall_ns - context.now_ns

    def unname(self, columns: ConnectionColumns, index: NDArray[np.int64]) -> None:
        """Set connections to UNNAMED; what they have moved is recorded under their labels."""
        self._record(columns, index)
        columns.account[index] = UNNAMED

    def end(self, columns: ConnectionColumns) -> None:
        """Record the rest of connections that have ended and wait for no name."""
        self._record(columns, np.arange(len(columns.fingerprint)))

    def named(self, columns: ConnectionColumns, account: NDArray[np.int64]) -> None:
        """Record what connections moved in earlier minutes, while they waited for a name.

        ``account`` (n,) is where they are booked now.
        """
        if not len(self._waiting) or not len(account):
            return
        rows, place = self._waiting.take(columns)
        names = self._waiting.interfaces
        outcome = columns.outcome[place]
        label = self._labels.of_interfaces(account[place], outcome, names, rows.label)
        port = self._labels.ports(account[place], rows.port)
        self._add(rows._replace(label=label, port=port))

    def leave(self, slot: int) -> None:
        """Record the rest of an interface that is about to be forgotten."""
        if self.stream:
            self._record_rest(np.array([slot], np.int64))

    # -- batches --------------------------------------------------------------------------

    def taken(self, stream: str, number: int) -> None:
        """Forget batches up to ``number``: the store has them."""
        if stream == self.stream:
            self.outbox = [each for each in self.outbox if each.number > number]

    def open_minute(self, columns: ConnectionColumns, held: ConnectionColumns) -> Batch:
        """Return what is in no batch yet, without changing it."""
        slots = self._rest.among(self._interfaces.live())
        parts = [*self._pieces, rest_rows(self._rest, slots, self._labels, self._moment())]
        for each in (columns, held):
            index = moved(each, np.arange(len(each.fingerprint)))
            index = index[each.account[index] >= 0]
            parts.append(self._rows(each, index))
        return Batch(self.stream, -1, tuple(self._labels.values), summed(joined(parts)))

    # -- the checkpoint -------------------------------------------------------------------

    def save(self) -> Saved:
        if not self.stream:
            return Saved()
        values = _Values(
            stream=self.stream,
            minute=self._minute,
            next_number=self._next_number,
            lost_rows=self.lost_rows,
            labels=self._labels.values,
            outbox=[(each.number, len(each.rows.minute), [*each.labels]) for each in self.outbox],
            waiting=self._waiting.interfaces,
        )
        arrays = saved_rows("pieces", joined(self._pieces or [no_rows()]))
        arrays |= saved_rows("outbox", joined([each.rows for each in self.outbox] or [no_rows()]))
        return Saved(encode(values), arrays | self._waiting.save() | self._rest.save())

    def load(self, saved: Saved, now_ns: int) -> None:
        if not self.stream or not saved.arrays:
            return
        self.is_restored = True
        values = saved.decode(_Values)
        self.stream, self._minute = values.stream, values.minute
        self._next_number, self.lost_rows = values.next_number, values.lost_rows
        self._labels.restore(values.labels)
        self._labels.learn_interfaces()
        self._pieces = [loaded_rows("pieces", saved)]
        self._waiting.load(saved)
        self._waiting.interfaces = values.waiting
        self._rest.load(saved)
        rows, begin = loaded_rows("outbox", saved), 0
        for number, count, labels in values.outbox:
            some = rows.take(np.arange(begin, begin + count))
            self.outbox.append(Batch(self.stream, number, tuple(labels), some))
            begin += count

    # -- rows -----------------------------------------------------------------------------

    def _moment(self) -> Moment:
        return Moment(self._minute, self._offset_ns)

    def _record(self, columns: ConnectionColumns, index: NDArray[np.int64]) -> None:
        """Record what connections with names have moved since they were last recorded."""
        if not self.stream or not len(index):
            return
        index = moved(columns, index)
        account = columns.account[index]
        index = index[(account >= 0) & ~self._accounts.waiting[np.maximum(account, 0)]]
        if len(index):
            self._add(self._rows(columns, index))
            mark_recorded(columns, index)

    def _rows(self, columns: ConnectionColumns, index: NDArray[np.int64]) -> HistoryRows:
        account = columns.account[index]
        label = self._labels.of(account, columns.outcome[index])
        rows = connection_rows(columns, index, label, self._moment())
        return rows._replace(port=self._labels.ports(account, rows.port))

    def _record_waiting(self, columns: ConnectionColumns, index: NDArray[np.int64]) -> None:
        index = moved(columns, index)
        index = index[columns.account[index] >= 0]  # the others are recorded
        if len(index):
            slots = self._accounts.slot[columns.account[index]]
            names = [self._labels.interface(slot) for slot in slots.tolist()]
            no_label = np.zeros(len(index), np.int32)
            rows = connection_rows(columns, index, no_label, self._moment())
            self._waiting.add(columns.take(index), rows, names)
            mark_recorded(columns, index)

    def _record_rest(self, slots: NDArray[np.int64]) -> None:
        slots = self._rest.among(slots)
        self._add(rest_rows(self._rest, slots, self._labels, self._moment()))
        self._rest.clear(slots)

    def _add(self, rows: HistoryRows) -> None:
        if not len(rows.minute):
            return
        self._pieces.append(rows)
        if sum(len(each.minute) for each in self._pieces) > MAX_PIECES + 2 * self._summed:
            self._sum_up()

    def _sum_up(self) -> None:
        rows = summed(joined(self._pieces or [no_rows()]))
        rows = bounded(rows, self._labels.endpoint[rows.label])
        self._pieces, self._summed = [rows], len(rows.minute)

    def _end_minute(self, columns: ConnectionColumns, held: ConnectionColumns) -> None:
        self._record(columns, np.arange(len(columns.fingerprint)))
        for each in (columns, held):
            self._record_waiting(each, np.arange(len(each.fingerprint)))
        self._record_rest(self._interfaces.live())
        self._sum_up()
        rows = self._pieces[0]
        self._pieces, self._summed = [], 0
        if len(rows.minute):
            used, place = np.unique(rows.label, return_inverse=True)
            labels = tuple(self._labels.values[i] for i in used.tolist())
            rows = rows._replace(label=place.astype(np.int32).reshape(-1))
            self.outbox.append(Batch(self.stream, self._next_number, labels, rows))
            self._next_number += 1
        self._labels.restore([])
        while sum(len(each.rows.minute) for each in self.outbox) > MAX_OUTBOX_ROWS:
            self.lost_rows += len(self.outbox.pop(0).rows.minute)


def mark_recorded(columns: ConnectionColumns, index: NDArray[np.int64] | slice = ALL) -> None:
    """Note that all of these connections' totals is recorded, or not to be."""
    columns.recorded[index] = np.hstack([columns.bytes[index], columns.packets[index]])
