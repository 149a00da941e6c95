# SPDX-License-Identifier: Apache-2.0
"""Rows of the history: what a conversation moved in one minute."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.checkpoint.saved import Saved
from podtally.ledger.series.shares import beyond

MINUTE_NS = 60_000_000_000
MAX_ROWS = 1000  # of an endpoint in a minute; beyond, its smallest conversations are summed
OTHER_PORT = -2  # in the place of a port: one of many
# Accounts of the books, and what they hold in their flows that belongs to no endpoint: traffic
# that passes an uplink for others, and what still waits for a name.
ACCOUNT_FLOWS, ACCOUNT_FORWARDED, ACCOUNT_WAITING = "flows", "forwarded", "waiting"

Array = NDArray[Any]


class RowLabels(NamedTuple):
    """The texts of a row, with the names of the metrics' labels."""

    interface: str
    account: str  # flows, forwarded, waiting, other, overflow
    namespace: str = ""
    pod: str = ""  # the endpoint's name, of pods and others
    uid: str = ""
    workload: str = ""
    workload_kind: str = ""
    peer_kind: str = ""
    peer_namespace: str = ""
    peer_workload: str = ""
    peer_domain: str = ""
    scope: str = ""
    verdict: str = ""
    policy: str = ""  # that denies it
    cause: str = ""  # why the verdict is unknown
    outcome: str = ""


class HistoryRows(NamedTuple):
    """Rows as columns; index i of every array is the same one. Times are wall-clock."""

    minute: NDArray[np.int64]  # since 1970
    label: NDArray[np.int32]  # index in a list of RowLabels
    address: NDArray[np.uint64]  # (n, 2), the peer's in network order; 0: none, or many
    port: NDArray[np.int32]  # the server's; 0: none, else as in ``account``
    protocol: NDArray[np.uint8]
    initiator: NDArray[np.uint8]  # INITIATOR_*
    connections: NDArray[np.int64]  # that were first recorded in this minute
    bytes: NDArray[np.int64]  # (n, 2), from and to the endpoint
    packets: NDArray[np.int64]
    first_ns: NDArray[np.int64]
    last_ns: NDArray[np.int64]

    def take(self, index: NDArray[np.bool_] | NDArray[np.int64]) -> "HistoryRows":
        return HistoryRows._make(column[index] for column in self)


class Batch(NamedTuple):
    """Rows that are written at once; ``number`` counts up within one ``stream``."""

    stream: str
    number: int
    labels: Sequence[RowLabels]
    rows: HistoryRows


_EMPTY = HistoryRows(
    minute=np.zeros(0, np.int64),
    label=np.zeros(0, np.int32),
    address=np.zeros((0, 2), np.uint64),
    port=np.zeros(0, np.int32),
    protocol=np.zeros(0, np.uint8),
    initiator=np.zeros(0, np.uint8),
    connections=np.zeros(0, np.int64),
    bytes=np.zeros((0, 2), np.int64),
    packets=np.zeros((0, 2), np.int64),
    first_ns=np.zeros(0, np.int64),
    last_ns=np.zeros(0, np.int64),
)
_SECRET = np.frombuffer(os.urandom(8 * 5), np.uint64) | np.uint64(1)  # one for each word of a key
_MIX = np.uint64(0xBF58476D1CE4E5B9)  # SplitMix64 (Steele et al. 2014)


def no_rows() -> HistoryRows:
    return _EMPTY


def joined(parts: Sequence[HistoryRows]) -> HistoryRows:
    if len(parts) == 1:
        return parts[0]
    return HistoryRows(*(np.concatenate(column) for column in zip(_EMPTY, *parts, strict=True)))


def saved_rows(name: str, rows: HistoryRows) -> dict[str, Array]:
    """Return arrays for the checkpoint, under ``name``."""
    return {f"{name}_{field}": column for field, column in rows._asdict().items()}


def loaded_rows(name: str, saved: Saved) -> HistoryRows:
    return HistoryRows(*(saved.array(f"{name}_{field}") for field in HistoryRows._fields))


def summed(rows: HistoryRows) -> HistoryRows:
    """Return rows with the sums of those that differ in no key."""
    if len(rows.minute) < 2:
        return rows
    hashes = _hashed(rows)
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    first = order[starts]
    if len(first) == len(order):
        return rows

    def add(column: Array) -> Array:
        return np.add.reduceat(column[order], starts, axis=0)

    return rows.take(first)._replace(
        connections=add(rows.connections),
        bytes=add(rows.bytes),
        packets=add(rows.packets),
        first_ns=np.minimum.reduceat(rows.first_ns[order], starts),
        last_ns=np.maximum.reduceat(rows.last_ns[order], starts),
    )


def bounded(rows: HistoryRows, endpoint: NDArray[np.int64]) -> HistoryRows:
    """Return summed rows, at most MAX_ROWS of an endpoint, and one more for each label it has.

    ``endpoint`` (n,) numbers the endpoints of the rows. The largest conversations keep their
    addresses and ports; sums by label stay exact.
    """
    if len(rows.minute) <= MAX_ROWS:
        return rows
    order = np.argsort(-rows.bytes.sum(axis=1), kind="stable")
    over = np.zeros(len(order), np.bool_)
    over[order] = beyond(endpoint[order], endpoint[:0], MAX_ROWS)
    if not over.any():
        return rows
    rows = rows._replace(
        address=np.where(over[:, None], np.uint64(0), rows.address),
        port=np.where(over, np.int32(OTHER_PORT), rows.port),
    )
    return summed(rows)


def _hashed(rows: HistoryRows) -> NDArray[np.uint64]:
    """Return secret 64-bit hashes of the keys. (n,)"""
    small = rows.port.astype(np.int64) << 16 | rows.protocol.astype(np.int64) << 8
    words = (
        *(rows.minute.view(np.uint64), rows.label.astype(np.uint64)),
        *(rows.address[:, 0], rows.address[:, 1]),
        (small | rows.initiator).view(np.uint64),
    )
    mixed = np.zeros(len(rows.minute), np.uint64)
    with np.errstate(over="ignore"):
        for word, odd in zip(words, _SECRET, strict=True):
            mixed = (mixed ^ word) * odd
            mixed ^= mixed >> np.uint64(29)
            mixed *= _MIX
            mixed ^= mixed >> np.uint64(32)
    return mixed
