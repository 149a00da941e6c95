# SPDX-License-Identifier: Apache-2.0
"""Writes parts to one file, and reads them back after a restart, a crash or an upgrade.

The file is replaced by rename: at any instant it is the old one or the new one, complete. It
need not survive the host: after a boot the kernel's tables and the interfaces' counters restart
from zero, and so do the books. So nothing is synced to disk.

Layout: MAGIC, the length of the head, the head (JSON: the values of each part, and where the
arrays are), the arrays, and a checksum of all of it. What a part means is not known here.
"""

import ast
import errno
import math
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import numpy as np

from podtally.ledger.checkpoint.older_checkpoints import OLDER_SCHEMAS, parts_of_older
from podtally.ledger.checkpoint.saved import Array, Saved

MAGIC = b"podtally"
SCHEMA = 9
_PREFIX = struct.Struct("<8sII")  # magic, schema, length of the head
_SUM = struct.Struct("<I")
_ALIGN = 64

Parts = dict[str, Saved]


class CheckpointError(Exception):
    """The file is there and cannot be used; the text says why."""


class Position(msgspec.Struct, frozen=True):
    """How far the kernel's tables are booked: every epoch before ``epoch`` of ``generation``."""

    boot_id: str
    generation: str
    epoch: int


class _ArrayPlace(msgspec.Struct, frozen=True):
    """Where an array is, counted from the end of the head."""

    name: str  # PART.NAME
    dtype: str
    shape: tuple[int, ...]
    offset: int


class _Head(msgspec.Struct, frozen=True):
    position: Position
    arrays: list[_ArrayPlace]
    parts: dict[str, msgspec.Raw] = {}


class Checkpoint:
    """The file of one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "checkpoint"
        self._temporary = state_dir / "checkpoint.new"
        self._encoder = msgspec.json.Encoder()

    def write(self, position: Position, parts: Mapping[str, Saved]) -> int:
        """Replace the file; return its size. OSError leaves the old one as it was."""
        arrays = {
            f"{part}.{name}": np.ascontiguousarray(array)
            for part, saved in parts.items()
            for name, array in saved.arrays.items()
        }
        values = {part: msgspec.Raw(saved.values) for part, saved in parts.items()}
        head = self._encoder.encode(_Head(position, list(_places(arrays)), values))
        return self._replace(head, arrays)

    def read(self) -> tuple[Position, Parts] | None:
        """Return what was written last, None without a file; CheckpointError if it is corrupt."""
        try:
            data = _read_whole(self.path)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise CheckpointError("it is a symbolic link") from None
            raise
        head, values, body = _open(data)
        try:
            arrays = {place.name: _array(body, place) for place in head.arrays}
        except (ValueError, TypeError, SyntaxError) as error:
            raise CheckpointError(f"its arrays cannot be read: {error}") from None
        by_part: dict[str, dict[str, Array]] = {part: {} for part in values}
        for full_name, array in arrays.items():
            part, _, name = full_name.partition(".")
            by_part.setdefault(part, {})[name] = array
        return head.position, {
            part: Saved(values.get(part, b"null"), its) for part, its in by_part.items()
        }

    def put_aside(self) -> Path:
        """Rename a file that cannot be used, so that it can be examined."""
        number = 1
        while (aside := self.path.with_name(f"checkpoint.unusable-{number}")).exists():
            number += 1
        self.path.rename(aside)
        return aside

    def _replace(self, head: bytes, arrays: dict[str, Array]) -> int:
        head += b" " * (-(len(head) + _PREFIX.size) % _ALIGN)
        checksum = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self._temporary, flags, 0o640), "wb", buffering=0) as file:
            for part in (_PREFIX.pack(MAGIC, SCHEMA, len(head)), head, *_bytes_of(arrays)):
                checksum = zlib.crc32(part, checksum)
                _write_all(file.fileno(), part)
            _write_all(file.fileno(), _SUM.pack(checksum))
            size = file.tell()
        self._temporary.rename(self.path)
        return size


def _places(arrays: Mapping[str, Array]) -> Iterable[_ArrayPlace]:
    offset = 0
    for name, array in arrays.items():
        described = array.dtype.descr if array.dtype.names else array.dtype.str
        yield _ArrayPlace(name, repr(described), array.shape, offset)
        offset += -(-array.nbytes // _ALIGN) * _ALIGN


def _array(body: memoryview, place: _ArrayPlace) -> Array:
    # The repr of a dtype's description is a literal; nothing is executed.
    dtype = np.dtype(ast.literal_eval(place.dtype))
    flat = np.frombuffer(body, dtype, math.prod(place.shape), place.offset)
    return flat.reshape(place.shape)


def _bytes_of(arrays: Mapping[str, Array]) -> Iterable[bytes | memoryview]:
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


def _open(data: bytes) -> tuple[_Head, dict[str, bytes], memoryview]:
    """Return the head, the values of each part, and the arrays' bytes."""
    if len(data) < _PREFIX.size + _SUM.size or not data.startswith(MAGIC):
        raise CheckpointError("it is not a checkpoint, or cut short")
    _, schema, length = _PREFIX.unpack_from(data)
    if _SUM.unpack_from(data, len(data) - _SUM.size)[0] != zlib.crc32(
        memoryview(data)[: -_SUM.size]
    ):
        raise CheckpointError("its checksum does not match its content")
    if schema not in (SCHEMA, *OLDER_SCHEMAS):
        raise CheckpointError(f"it is of schema {schema}, this podtally writes {SCHEMA}")
    text = data[_PREFIX.size : _PREFIX.size + length]
    try:
        head = msgspec.json.decode(text, type=_Head)
        values = {name: bytes(raw) for name, raw in head.parts.items()}
        if schema in OLDER_SCHEMAS:
            values, renamed = parts_of_older(text)
            places = [
                msgspec.structs.replace(each, name=renamed.get(each.name, each.name))
                for each in head.arrays
            ]
            head = msgspec.structs.replace(head, arrays=places)
    except msgspec.DecodeError as error:
        raise CheckpointError(f"its head cannot be read: {error}") from None
    return head, values, memoryview(data)[_PREFIX.size + length :]
