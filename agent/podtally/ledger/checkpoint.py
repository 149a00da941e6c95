# SPDX-License-Identifier: Apache-2.0
"""Writes the ledger down, and reads it back after a restart, a crash or an upgrade.

One file, replaced by rename: at any instant it is the old one or the new one,
whole. It need not survive the host: after a boot the kernel's tables and the
interfaces' counters begin anew, and so do the books. So nothing is synced to disk.

Layout: MAGIC, the length of the head, the head (JSON: everything that is not an
array, and where the arrays lie), the arrays, and a checksum over all of it.
"""

import ast
import errno
import math
import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from podtally.identity.interface_endpoints import InterfaceEndpoint
from podtally.ledger.account import Account
from podtally.ledger.accounts import AccountTable
from podtally.ledger.candidate_rows import Before
from podtally.ledger.connections import ConnectionColumns
from podtally.ledger.events import EventLabels
from podtally.ledger.families import KEPT
from podtally.ledger.interfaces import InterfaceRecord
from podtally.ledger.label_sets import BookLabels
from podtally.ledger.ledger import Ledger
from podtally.ledger.series import SeriesTable

MAGIC = b"podtally"
SCHEMA = 8
_READABLE = (4, 5, 6, 7, 8)  # 4 has no costs, 5 no scans, 6 no drops, 7 nothing missed or spoofed
_PREFIX = struct.Struct("<8sII")  # magic, schema, length of the head
_SUM = struct.Struct("<I")
_ALIGN = 64

Array = NDArray[Any]
Pairs = list[tuple[int, Any]]  # indexes, with label sets or accounts

_PARTS = ("sums", "moved_ns")
_SCANS = ("scans.events", "scans.ports", "scans.hashes")
_ARRAYS = frozenset(
    {"interfaces", "kernel.key", "kernel.read"}
    | {f"events.{part}" for part in (*_PARTS, "first_ns", "told", "told_ns")}
    | {f"{table}.{name}" for table in ("connections", "held") for name in ConnectionColumns._fields}
)


class CheckpointError(Exception):
    """The file is there and cannot be believed; the text says why."""


class Position(msgspec.Struct, frozen=True):
    """How far the kernel's tables are booked: every epoch before ``epoch`` of ``generation``."""

    boot_id: str
    generation: str
    epoch: int


class Extras(msgspec.Struct, frozen=True):
    """What else must outlive the agent: who is behind the interfaces, and its own counters."""

    residents: list[InterfaceEndpoint] = []
    own_metrics: dict[str, list[float]] = {}
    known_ns: int = 0  # up to when the residents are known, CLOCK_MONOTONIC


class _ArrayPlace(msgspec.Struct, frozen=True):
    """Where an array lies, counted from the end of the head."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


# The label sets of tables, by their names; a family that an older file lacks is empty.
_LABELS: dict[str, type[Any]] = {
    **{family.name: family.labels for family in KEPT},
    "events": EventLabels,
    "accounts": Account,
}


class _Head(msgspec.Struct, frozen=True):
    position: Position
    arrays: list[_ArrayPlace]
    labels: dict[str, msgspec.Raw]  # by the names of _LABELS: index and label set of each
    interfaces: list[InterfaceRecord]
    retired_gaps: list[tuple[BookLabels, int]]
    began_unknown: int
    overflow_packets: int
    limited: int
    came_too_late: int
    extras: Extras
    tried: Before = Before()


class Checkpoint:
    """The file of one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "checkpoint"
        self._temporary = state_dir / "checkpoint.new"
        self._encoded: dict[str, tuple[int, msgspec.Raw]] = {}
        self._encoder = msgspec.json.Encoder()

    def write(self, position: Position, ledger: Ledger, extras: Extras) -> int:
        """Replace the file; returns its size. OSError leaves the old one as it was."""
        records, pairs = ledger.interfaces.dump()
        arrays = _arrays(ledger, pairs)
        places = list(_places(arrays))
        head = self._encoder.encode(
            _Head(
                position,
                places,
                {name: self._labels(name, t) for name, t in _labelled(ledger).items()},
                records,
                list(ledger.retired_gaps.items()),
                ledger.row_booking.began_unknown,
                ledger.overflow_packets,
                ledger.accounts.limited,
                ledger.attribution.waits.timeouts,
                extras,
                ledger.candidate_rows.dump(),
            )
        )
        return self._replace(head, arrays)

    def read(self) -> tuple[Position, "Contents"] | None:
        """What was last written; None if nothing was. CheckpointError if it is corrupt."""
        try:
            data = _read_whole(self.path)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise CheckpointError("it is a symbolic link") from None
            raise
        head, body = _open(data)
        try:
            arrays = {place.name: _array(body, place) for place in head.arrays}
        except (ValueError, TypeError, SyntaxError) as error:
            raise CheckpointError(f"its arrays cannot be read: {error}") from None
        missing = _ARRAYS - arrays.keys()
        pairs = _pairs(head)
        missing |= {
            f"{table}.{part}"
            for table, labels in pairs.items()
            for part in _PARTS
            if labels and table != "accounts"
        } - arrays.keys()
        if missing:
            raise CheckpointError(f"arrays are missing: {', '.join(sorted(missing))}")
        return head.position, Contents(head, pairs, arrays)

    def put_aside(self) -> Path:
        """Give a file that cannot be used another name, so that it can be looked into."""
        number = 1
        while (aside := self.path.with_name(f"checkpoint.unusable-{number}")).exists():
            number += 1
        self.path.rename(aside)
        return aside

    def _labels(self, name: str, table: SeriesTable[Any] | AccountTable) -> msgspec.Raw:
        known = self._encoded.get(name)
        if known is None or known[0] != table.version:
            known = (table.version, msgspec.Raw(self._encoder.encode(table.pairs())))
            self._encoded[name] = known
        return known[1]

    def _replace(self, head: bytes, arrays: dict[str, Array]) -> int:
        head += b" " * (-(len(head) + _PREFIX.size) % _ALIGN)
        checksum = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self._temporary, flags, 0o640), "wb", buffering=0) as file:
            for part in (_PREFIX.pack(MAGIC, SCHEMA, len(head)), head, *_parts(arrays)):
                checksum = zlib.crc32(part, checksum)
                _write_all(file.fileno(), part)
            _write_all(file.fileno(), _SUM.pack(checksum))
            size = file.tell()
        self._temporary.rename(self.path)
        return size


class Contents:
    """A checkpoint that was read, to be put into a fresh ledger."""

    def __init__(self, head: _Head, pairs: dict[str, Pairs], arrays: dict[str, Array]) -> None:
        self._head = head
        self._pairs = pairs
        self._arrays = arrays
        self.extras = head.extras

    def restore(self, ledger: Ledger, now_ns: int) -> None:
        head, arrays = self._head, self._arrays
        for name, table in _tables(ledger).items():
            if f"{name}.sums" in arrays:
                table.restore(self._pairs[name], arrays[f"{name}.sums"], arrays[f"{name}.moved_ns"])
        told = (arrays[f"events.{name}"].copy() for name in ("first_ns", "told", "told_ns"))
        ledger.events.restore(*told)
        if all(name in arrays for name in _SCANS):
            ledger.events.scans.restore(*(arrays[name] for name in _SCANS))
        ledger.accounts.restore(self._pairs["accounts"], now_ns)
        ledger.interfaces.restore(head.interfaces, arrays["interfaces"])
        ledger.connections.columns = self._columns("connections")
        ledger.waiting.held = self._columns("held")
        ledger.counter_deltas.key = arrays["kernel.key"].copy()
        ledger.counter_deltas.sums = arrays["kernel.read"].copy()
        ledger.candidate_rows.restore(head.tried)
        ledger.retired_gaps = dict(head.retired_gaps)
        ledger.row_booking.began_unknown = head.began_unknown
        ledger.overflow_packets = head.overflow_packets
        ledger.accounts.limited = head.limited
        ledger.attribution.waits.timeouts = head.came_too_late
        ledger.settled_ns = now_ns
        ledger.begin()

    def _columns(self, table: str) -> ConnectionColumns:
        return ConnectionColumns(
            *(self._arrays[f"{table}.{name}"].copy() for name in ConnectionColumns._fields)
        )


def _tables(ledger: Ledger) -> dict[str, SeriesTable[Any]]:
    """Return the tables of series by their names in ``_LABELS``."""
    return {**ledger.tables.by_name, "events": ledger.events.table}


def _labelled(ledger: Ledger) -> dict[str, SeriesTable[Any] | AccountTable]:
    return {**_tables(ledger), "accounts": ledger.accounts}


def _arrays(ledger: Ledger, interface_pairs: Array) -> dict[str, Array]:
    arrays: dict[str, Array] = {"interfaces": interface_pairs}
    for name, table in _tables(ledger).items():
        arrays[f"{name}.sums"], arrays[f"{name}.moved_ns"] = table.sums()
    events = ledger.events
    arrays["events.first_ns"], arrays["events.told"] = events.first_ns, events.told
    arrays["events.told_ns"] = events.told_ns
    arrays |= dict(zip(_SCANS, events.scans.dump(), strict=True))
    kept = (("connections", ledger.connections.columns), ("held", ledger.waiting.held))
    for where, columns in kept:
        arrays |= {f"{where}.{name}": column for name, column in columns._asdict().items()}
    arrays["kernel.key"], arrays["kernel.read"] = (
        ledger.counter_deltas.key,
        ledger.counter_deltas.sums,
    )
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _places(arrays: dict[str, Array]) -> Iterable[_ArrayPlace]:
    offset = 0
    for name, array in arrays.items():
        described = array.dtype.descr if array.dtype.names else array.dtype.str
        yield _ArrayPlace(name, repr(described), array.shape, offset)
        offset += -(-array.nbytes // _ALIGN) * _ALIGN


def _array(body: memoryview, place: _ArrayPlace) -> Array:
    # The repr of a dtype's description is a literal; nothing is run.
    dtype = np.dtype(ast.literal_eval(place.dtype))
    flat = np.frombuffer(body, dtype, math.prod(place.shape), place.offset)
    return flat.reshape(place.shape)


def _parts(arrays: dict[str, Array]) -> Iterable[bytes | memoryview]:
    for array in arrays.values():
        yield array.reshape(-1).view(np.uint8).data if array.nbytes else b""
        yield bytes(-array.nbytes % _ALIGN)


def _read_whole(path: Path) -> bytes:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        return file.read()


def _write_all(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _open(data: bytes) -> tuple[_Head, memoryview]:
    if len(data) < _PREFIX.size + _SUM.size or not data.startswith(MAGIC):
        raise CheckpointError("it is not a checkpoint, or cut short")
    _, schema, length = _PREFIX.unpack_from(data)
    if _SUM.unpack_from(data, len(data) - _SUM.size)[0] != zlib.crc32(
        memoryview(data)[: -_SUM.size]
    ):
        raise CheckpointError("its checksum does not match what is in it")
    if schema not in _READABLE:
        raise CheckpointError(f"it is of schema {schema}, this podtally writes {SCHEMA}")
    try:
        head = msgspec.json.decode(data[_PREFIX.size : _PREFIX.size + length], type=_Head)
    except msgspec.DecodeError as error:
        raise CheckpointError(f"its head cannot be read: {error}") from None
    return head, memoryview(data)[_PREFIX.size + length :]


def _pairs(head: _Head) -> dict[str, Pairs]:
    """Return what ``_Head.labels`` holds; CheckpointError if it cannot be read."""
    try:
        return {
            name: msgspec.json.decode(head.labels.get(name, b"[]"), type=list[tuple[int, labels]])  # type: ignore[valid-type]
            for name, labels in _LABELS.items()
        }
    except msgspec.DecodeError as error:
        raise CheckpointError(f"its labels cannot be read: {error}") from None
