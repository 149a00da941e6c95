# SPDX-License-Identifier: Apache-2.0
"""Loads the programs under test for one benchmark and runs packets through them."""

import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from podtally.kernel import bpf
from podtally.kernel.account_map import AccountMap
from podtally.kernel.flow_programs import compile_here, flow_job
from podtally.kernel.loader import LoadJob, load
from podtally.kernel.near_region import RECENT_EPOCHS
from podtally.kernel.pins import Generation, Options, Pins, slots_for
from podtally.kernel.table import Table, open_table

PLAIN = Path(__file__).with_name("plain.c")
MAX_FLOWS = 65536
LOOPBACK = 1  # the interface that a test run's packets are on
_MAP_LOOKUP_AND_DELETE_BATCH = 25  # enum bpf_cmd


class Rig:
    """The programs ``empty``, ``plain`` and ``podtally``, and ``rotate`` before them."""

    def __init__(self, plain: Path, generation: Generation) -> None:
        self.programs = {
            "empty": bpf.obj_get(plain / "progs" / "empty"),
            "plain": bpf.obj_get(plain / "progs" / "plain"),
            "podtally": generation.program_fds()["from_pod"],
        }
        self._rotate = bpf.obj_get(plain / "progs" / "rotate")
        self._under_test = bpf.obj_get(plain / "maps" / "under_test")
        self._turns = bpf.obj_get(plain / "maps" / "turns")
        self._counts = bpf.obj_get(plain / "maps" / "counts")
        self.books = AccountMap(generation)
        self.table: Table = open_table(generation)
        self._memory = [_words(generation, name) for name in ("hot", "used", "control")]

    def run(self, program: str, packet: bytes, flows: int, times: int) -> float:
        """Nanoseconds a packet, of one system call that runs ``times`` packets of ``flows`` flows.

        Timed from outside: the kernel's own figure is in whole nanoseconds.
        """
        first = np.zeros(1, np.uint32)
        bpf.update(self._under_test, first, np.array([self.programs[program]], np.uint32))
        bpf.update(self._turns, first, np.array([0, flows], np.uint64))
        start = time.perf_counter_ns()
        bpf.test_run(self._rotate, packet, times)
        return (time.perf_counter_ns() - start) / times

    def clear(self) -> None:
        """Empty every table; no program runs meanwhile."""
        for words in self._memory:
            words[:] = 0
        _empty_hash(self._counts)
        self.books.close_accounts(LOOPBACK)
        self.books.open_accounts(LOOPBACK)

    def settle(self, run: Callable[[], object]) -> None:
        """Let the table's near region follow the flows of ``run``, as an agent's epochs would."""
        for _ in range(RECENT_EPOCHS + 2):
            run()
            rest = self.table.epoch & 1
            self.table.flip()
            self.table.fence()
            self.table.clear(rest)

    def counted(self) -> int:
        """Packets that podtally has booked since ``clear()``, under a flow or an account."""
        rows = sum(int(rows.packets.sum()) for rows in self.table.read(self.table.epoch & 1))
        return rows + int(self.books.read().packets.sum())


@contextmanager
def loaded(max_flows: int = MAX_FLOWS) -> Iterator[Rig]:
    """Load and pin both sides; nothing stays pinned."""
    pins = Pins(Path(f"/sys/fs/bpf/ptl-bench-{os.getpid()}"))
    try:
        load(flow_job(Options(slots=slots_for(max_flows), books=4), pins.next))
        generation = pins.promote()
        load(_plain_job(pins.next))
        yield Rig(pins.next, generation)
    finally:
        pins.remove_all()
        pins.close()


def _plain_job(into: Path) -> LoadJob:
    return LoadJob(compile_here(PLAIN), {"room": slots_for(MAX_FLOWS)}, str(into))


def _words(generation: Generation, name: str) -> NDArray[np.uint64]:
    with bpf.owned(generation.map_fd(name)) as fd:
        info = bpf.map_info(fd)
        size = info.value_size * info.max_entries
        memory = mmap.mmap(fd, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
    return np.frombuffer(memory, np.uint64, size // 8)


def _empty_hash(map_fd: int) -> None:
    """Take all entries out in one call: nothing writes to the map meanwhile."""
    info = bpf.map_info(map_fd)
    keys = np.zeros(info.max_entries * info.key_size, np.uint8)
    values = np.zeros(info.max_entries * info.value_size, np.uint8)
    position = np.zeros(1, np.uint32)
    # union bpf_attr.batch: in_batch, out_batch, keys, values, count, map_fd, elem_flags, flags
    pointers = (0, *(int(array.ctypes.data) for array in (position, keys, values)))
    attr = bytearray(struct.pack("=QQQQIIQQ", *pointers, info.max_entries, map_fd, 0, 0))
    try:
        bpf.bpf(_MAP_LOOKUP_AND_DELETE_BATCH, attr)
    except FileNotFoundError:
        return  # ENOENT: the end
