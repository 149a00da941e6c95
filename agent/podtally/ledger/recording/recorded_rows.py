# SPDX-License-Identifier: Apache-2.0
"""Makes rows of the history: of connections, of interfaces, and of what waits for a name."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.checkpoint.saved import Array, Saved
from podtally.ledger.connections.account import server_port
from podtally.ledger.connections.connections import INITIATOR_MASK, ConnectionColumns
from podtally.ledger.interfaces.interface_rest import KINDS, InterfaceRest
from podtally.ledger.recording.history_rows import (
    MINUTE_NS,
    HistoryRows,
    joined,
    loaded_rows,
    no_rows,
    saved_rows,
)
from podtally.ledger.recording.row_labels import LabelNumbers


class Moment(NamedTuple):
    """The minute that rows belong to (since 1970), and what CLOCK_MONOTONIC lacks of the wall
    clock, in ns.
    """

    minute: int
    offset_ns: int


def moved(columns: ConnectionColumns, index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return those connections at ``index`` of which something is not recorded. (m,)"""
    recorded = columns.recorded.take(index, axis=0)
    more = (columns.bytes.take(index, axis=0) != recorded[:, :2]).any(axis=1)
    more |= (columns.packets.take(index, axis=0) != recorded[:, 2:]).any(axis=1)
    found: NDArray[np.int64] = index[more]
    return found


def connection_rows(
    columns: ConnectionColumns,
    index: NDArray[np.int64],
    label: NDArray[np.int32],
    moment: Moment,
) -> HistoryRows:
    """Return what connections at ``index`` moved since they were last recorded."""
    key = columns.key[index]
    recorded = columns.recorded.take(index, axis=0)
    is_new: NDArray[np.bool_] = np.logical_not(recorded.any(axis=1))
    initiator = columns.initiator[index] & np.uint8(INITIATOR_MASK)
    first_ns = np.where(is_new, columns.first_ns[index], columns.resumed_ns[index])
    return HistoryRows(
        minute=np.full(len(index), moment.minute, np.int64),
        label=label,
        address=np.ascontiguousarray(key["remote_address"]),
        port=server_port(initiator, key["local_port"], key["remote_port"]).astype(np.int32),
        protocol=np.ascontiguousarray(key["protocol"]),
        initiator=initiator,
        connections=np.where(is_new, 1, 0),
        bytes=columns.bytes.take(index, axis=0) - recorded[:, :2],
        packets=columns.packets.take(index, axis=0) - recorded[:, 2:],
        first_ns=first_ns + moment.offset_ns,
        last_ns=columns.last_ns[index] + moment.offset_ns,
    )


def rest_rows(
    rest: InterfaceRest, slots: NDArray[np.int64], labels: LabelNumbers, moment: Moment
) -> HistoryRows:
    """Return what is no flow, of interfaces; the loop is over those that have any."""
    n = len(slots) * len(KINDS)
    kinds = range(len(KINDS))
    made = [labels.of_rest(slot, kind) for slot in slots.tolist() for kind in kinds]
    at = np.zeros(n, np.int64)
    rows = HistoryRows(
        minute=np.full(n, moment.minute, np.int64),
        label=np.array(made, np.int32),
        address=np.zeros((n, 2), np.uint64),
        port=np.zeros(n, np.int32),
        protocol=np.zeros(n, np.uint8),
        initiator=np.zeros(n, np.uint8),
        connections=np.zeros(n, np.int64),
        bytes=rest.bytes[slots].swapaxes(1, 2).reshape(n, 2),
        packets=rest.packets[slots].swapaxes(1, 2).reshape(n, 2),
        first_ns=at + moment.minute * MINUTE_NS,
        last_ns=at + moment.minute * MINUTE_NS,
    )
    return rows.take(np.flatnonzero(rows.bytes.any(axis=1) | rows.packets.any(axis=1)))


class WaitingRows:
    """Rows of earlier minutes, of connections that still wait for their names.

    In the place of a label, rows have the number of their interface's name in ``interfaces``.
    """

    def __init__(self) -> None:
        self.interfaces: list[str] = []
        self._fingerprint = np.zeros(0, np.uint64)
        self._first_ns = np.zeros(0, np.int64)  # with the fingerprint, the connection
        self._rows = no_rows()

    def __len__(self) -> int:
        return len(self._fingerprint)

    def add(self, columns: ConnectionColumns, rows: HistoryRows, interfaces: Sequence[str]) -> None:
        """Add rows (n,) of connections, and the names of their interfaces."""
        if not len(self):
            self.interfaces = []
        known = {name: number for number, name in enumerate(self.interfaces)}
        numbers = [known.setdefault(name, len(known)) for name in interfaces]
        self.interfaces = list(known)
        rows = rows._replace(label=np.array(numbers, np.int32))
        self._fingerprint = np.concatenate([self._fingerprint, columns.fingerprint])
        self._first_ns = np.concatenate([self._first_ns, columns.first_ns])
        self._rows = joined([self._rows, rows])

    def take(self, columns: ConnectionColumns) -> tuple[HistoryRows, NDArray[np.int64]]:
        """Remove and return the rows of connections, and the place of each among ``columns``."""
        place = self._places(columns)
        found = place >= 0
        rows, left = self._rows.take(found), ~found
        self._fingerprint, self._first_ns = self._fingerprint[left], self._first_ns[left]
        self._rows = self._rows.take(left)
        return rows, place[found]

    def save(self) -> dict[str, Array]:
        arrays = saved_rows("waiting", self._rows)
        connection = {"waiting_fingerprint": self._fingerprint, "waiting_first_ns": self._first_ns}
        return arrays | connection

    def load(self, saved: Saved) -> None:
        self._fingerprint = saved.array("waiting_fingerprint")
        self._first_ns = saved.array("waiting_first_ns")
        self._rows = loaded_rows("waiting", saved)

    def _places(self, columns: ConnectionColumns) -> NDArray[np.int64]:
        """Return where the connection of each row is among ``columns``; -1: it is not. (n,)"""
        own = np.rec.fromarrays([self._fingerprint, self._first_ns])
        others = np.rec.fromarrays([columns.fingerprint, columns.first_ns])
        _, place, at = np.intersect1d(others, np.unique(own), return_indices=True)
        different, of_row = np.unique(own, return_inverse=True)
        found = np.full(len(different), -1, np.int64)
        found[at] = place
        return found[of_row.reshape(-1)]
