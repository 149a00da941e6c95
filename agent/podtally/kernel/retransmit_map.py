# SPDX-License-Identifier: Apache-2.0
"""Reads what TCP sent again, from the map that ``bpf/retransmit.h`` fills.

Its entries belong to a half of the flow table: they are read and cleared with its rows, so they
are booked once, too.
"""

import errno
import os
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.kernel import bpf
from podtally.kernel.pins import Generation

MAP, LOST = "retransmits", "retransmit_lost"
KEY = np.dtype(
    [
        ("source", "u8", (2,)),
        ("destination", "u8", (2,)),
        ("source_port", "u2"),
        ("destination_port", "u2"),
        ("half", "u4"),
    ]
)
RETRANSMIT = np.dtype([("key", KEY), ("count", "i8")])
_COUNT = np.dtype([("count", "u8")])
_PROGRAMS = "retransmit_"  # how their names begin


class RetransmitReading(NamedTuple):
    """What TCP sent again in an epoch."""

    counted: NDArray[np.void]  # as RETRANSMIT, (n,)
    lost: int = 0  # beyond an address's share, or the map's room
    skipped: int = 0  # by the kernel, since the programs were loaded: see ``bpf.prog_info``


NO_RETRANSMITS = RetransmitReading(np.zeros(0, RETRANSMIT))


class RetransmitMap:
    """The maps of one generation."""

    def __init__(self, generation: Generation) -> None:
        """Raises OSError naming the pin."""
        self._fd = generation.map_fd(MAP)
        self._room = bpf.map_info(self._fd).max_entries
        self._lost = generation.map_fd(LOST) if LOST in generation.maps else None
        missing = generation.missing_programs()  # its pin may be gone: it counts no more
        self._programs = [
            bpf.obj_get(generation.root / "progs" / name)
            for name in generation.programs
            if name.startswith(_PROGRAMS) and name not in missing
        ]

    def close(self) -> None:
        for fd in (self._fd, self._lost, *self._programs):
            if fd is not None:
                os.close(fd)

    def read(self, half: int) -> RetransmitReading:
        """Return the entries of a half at rest."""
        keys, values = self._entries(half)
        found: NDArray[Any] = np.zeros(len(keys), RETRANSMIT)
        found["key"], found["count"] = keys, values
        lost = np.zeros(1, np.uint64)
        if self._lost is not None:
            bpf.lookup(self._lost, np.array([half], np.uint32), lost)
        skipped = sum(bpf.prog_info(fd).misses for fd in self._programs)
        return RetransmitReading(found, int(lost[0]), skipped)

    def clear(self, half: int) -> None:
        """Remove the entries of a half; stopped at any point, it can be done again."""
        keys, _ = self._entries(half)
        if len(keys):
            bpf.delete_all(self._fd, np.ascontiguousarray(keys))
        if self._lost is not None:
            bpf.update(self._lost, np.array([half], np.uint32), np.zeros(1, np.uint64))

    def _entries(self, half: int) -> tuple[NDArray[np.void], NDArray[np.int64]]:
        keys, values = bpf.lookup_all(self._fd, KEY, _COUNT, 1, self._room)
        own = keys["half"] == half
        return keys[own], values["count"][own, 0].astype(np.int64)


def open_retransmits(generation: Generation) -> RetransmitMap | None:
    """Open the map; None for programs without it."""
    if MAP not in generation.maps:
        return None
    found = RetransmitMap(generation)
    info = bpf.map_info(found._fd)
    if (info.key_size, info.value_size) != (KEY.itemsize, _COUNT.itemsize):
        found.close()
        raise OSError(errno.EINVAL, f"the map {MAP} has another layout", str(generation.root))
    return found
