# SPDX-License-Identifier: Apache-2.0
"""The flow table as the agent sees it: flip the halves, wait, read the one at rest, clear it.

All of it is memory shared with the kernel; there is no system call per flow. What
the rows mean to the books is the ledger's business.
"""

import mmap
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.kernel import abi, bpf
from podtally.kernel.near_region import NearRegion
from podtally.kernel.pins import Generation
from podtally.kernel.retransmit_map import (
    NO_RETRANSMITS,
    RetransmitMap,
    RetransmitReading,
    open_retransmits,
)

# Rows are handled in batches, so that arrays fit the second-level cache, and are small
# enough for the allocator to reuse: a fresh page costs more than reading it.
BATCH = 16384


class FlowRows(NamedTuple):
    """A batch of flows of one half; index i of every array is the same flow.

    Sorted by fingerprint. ``bytes`` and ``packets`` are (n, 2): from and to the
    endpoint.
    """

    fingerprint: NDArray[np.uint64]
    bytes: NDArray[np.int64]
    packets: NDArray[np.int64]
    seen: NDArray[np.uint64]
    place: NDArray[np.int64]  # where its cold row is
    handshake: NDArray[np.void]  # valid where ``seen`` says so


class Table:
    """Two halves of the table, over arrays that are shared with the kernel.

    ``fence`` returns once no program that read the old epoch can still be running.
    """

    def __init__(
        self,
        layout: abi.Layout,
        arrays: "Arrays",
        fence: Callable[[], None],
        held: tuple[int, ...] = (),
        retransmits: RetransmitMap | None = None,
    ) -> None:
        """``held`` are descriptors that are closed with the table, like ``retransmits``."""
        self._retransmits = retransmits
        self.layout = layout
        self._held = held
        self._control, self._hot, self._cold, self._used, self._handshakes = arrays
        self._words = self._hot.view(np.uint64).reshape(len(self._hot), -1)
        self._today = abi.current().cold
        self._fence = fence
        self.slots = len(self._hot) // 2
        self._region: NearRegion | None = None  # of layouts that have one
        if "near_shift" in (layout.control.names or ()):
            shift = int(self._control["near_shift"][0, self.epoch & 1])
            self._region = NearRegion(self.slots, layout.block_slots, shift)

    def close(self) -> None:
        for fd in self._held:
            os.close(fd)
        self._held = ()
        if self._retransmits is not None:
            self._retransmits.close()
            self._retransmits = None

    @property
    def epoch(self) -> int:
        """Packets are counted in half ``epoch & 1``; the other is at rest once fenced."""
        return int(self._control["epoch"][0])

    def flip(self) -> None:
        self._control["epoch"][0] = self.epoch + 1

    def fence(self) -> None:
        self._fence()

    def used(self, half: int) -> int:
        """Return how many slots of a half hold flows."""
        return min(int(self._control["used"][0, half]), self.slots)

    def read(self, half: int) -> Iterator[FlowRows]:
        """The rows of a half at rest, in batches of at most BATCH."""
        listed = self._used[half * self.slots :][: self.used(half)]
        for start in range(0, len(listed), BATCH):
            yield self._batch(listed[start : start + BATCH].astype(np.int64))

    def retransmits(self, half: int) -> RetransmitReading:
        """Return what TCP sent again in the epoch of a half at rest."""
        if self._retransmits is None:
            return NO_RETRANSMITS
        return self._retransmits.read(half)

    def _batch(self, place: NDArray[np.int64]) -> FlowRows:
        place = place[np.argsort(self._hot["fingerprint"][place])]
        hot = self._hot[place]
        if not hot["fingerprint"][0]:  # zeroed by a clear that was stopped
            zeroed = int(np.searchsorted(hot["fingerprint"], np.uint64(1)))
            place, hot = place[zeroed:], hot[zeroed:]
        traffic = hot["traffic"]
        count_bytes = (traffic & np.uint64((1 << self.layout.packet_shift) - 1)).astype(np.int64)
        packets = (traffic >> np.uint64(self.layout.packet_shift)).astype(np.int64)
        carried = np.flatnonzero(hot["seen"] >> np.uint64(self.layout.seen_carried_bit))
        if len(carried):
            self._add_carries(place[carried], carried, count_bytes, packets)
        seen = hot["seen"].copy()
        return FlowRows(
            hot["fingerprint"].copy(), count_bytes, packets, seen, place, self._timed(seen, place)
        )

    def _timed(self, seen: NDArray[np.uint64], place: NDArray[np.int64]) -> NDArray[np.void]:
        """Return the handshakes of rows that have any, zeroes for the others. (n,)"""
        found = np.zeros(len(place), abi.current().handshake)
        if self._handshakes is None:
            return found
        layout = self.layout
        rejected = layout.seen_rejected | layout.seen_rejected << layout.seen_shift
        some = np.flatnonzero(seen & np.uint64(7 << layout.seen_timed_bit | rejected))
        found[some] = self._handshakes[place[some]]
        return found

    def _add_carries(
        self,
        place: NDArray[np.int64],
        rows: NDArray[np.int64],
        count_bytes: NDArray[np.int64],
        packets: NDArray[np.int64],
    ) -> None:
        lanes = self._cold["carries"][place].view(np.uint16).reshape(-1, 4).astype(np.int64)
        count_bytes[rows] += lanes[:, :2] << self.layout.byte_carry_bit
        packets[rows] += lanes[:, 2:] << (self.layout.packet_carry_bit - self.layout.packet_shift)

    def keys_at_rest(self) -> NDArray[np.void]:
        """Copies of all cold rows of the half that is not written to. (flows,)"""
        half = (self.epoch & 1) ^ 1
        return self.cold(self._used[half * self.slots :][: self.used(half)].astype(np.int64))

    def raw_rows(self, half: int) -> NDArray[np.void]:
        """Copies of the hot rows as they lie: the least that reading a half can cost."""
        return self._hot[self._used[half * self.slots :][: self.used(half)]]

    def cold(self, place: NDArray[np.int64]) -> NDArray[np.void]:
        """Copies of the cold rows: the keys of flows, and when they were first seen.

        Always in today's layout; what an older one did not know is 0.
        """
        rows = self._cold[place]
        if rows.dtype == self._today:
            return rows
        today = np.zeros(len(rows), self._today)
        for name in set(rows.dtype.names or ()) & set(today.dtype.names or ()):
            today[name] = rows[name]
        if self._handshakes is None:  # that layout's clock was coarse
            today["first_seen_ns"] &= ~np.uint64(1)
        return today

    def clear(self, half: int) -> None:
        """Make a half ready for its next epoch; stopped at any point, it can be done again.

        The count of used slots goes behind them: until then the list says what to zero. The near
        region may change then: programs look for flows of this half again after the next flip.
        """
        if self._retransmits is not None:
            self._retransmits.clear(half)
        used = self.used(half)
        if used > self.slots // 4:
            self._words[half * self.slots :][: self.slots] = 0
        else:
            self._words[self._used[half * self.slots :][:used]] = 0
        self._control["used"][0, half] = 0
        if self._region is not None:
            self._control["near_shift"][0, half] = self._region.next_shift(used)


class Arrays(NamedTuple):
    """The maps of a table: ``control`` (1,), the others (2 * slots,).

    ``handshakes`` is None for layouts without them.
    """

    control: NDArray[np.void]
    hot: NDArray[np.void]
    cold: NDArray[np.void]
    used: NDArray[np.uint64]
    handshakes: NDArray[np.void] | None = None


def open_table(generation: Generation) -> Table:
    """Map a pinned generation's table into memory; raises OSError naming the pin."""
    layout, slots = generation.about.layout, generation.about.options.slots
    arrays = Arrays(
        _mapped(generation, "control", layout.control, 1),
        _mapped(generation, "hot", layout.hot, 2 * slots),
        _mapped(generation, "cold", layout.cold, 2 * slots),
        _mapped(generation, "used", np.dtype(np.uint64), 2 * slots),
        None
        if layout.handshake is None
        else _mapped(generation, "handshakes", layout.handshake, 2 * slots),
    )
    fence, inner = generation.map_fd("fence"), generation.map_fd("fence_inner")
    key, value = np.zeros(1, np.uint32), np.array([inner], np.uint32)

    def wait_for_grace_period() -> None:
        # maybe_wait_bpf_programs() in kernel/bpf/syscall.c: synchronize_rcu()
        bpf.update(fence, key, value)

    return Table(
        layout, arrays, wait_for_grace_period, (fence, inner), open_retransmits(generation)
    )


def _mapped(generation: Generation, name: str, dtype: np.dtype, length: int) -> NDArray:  # type: ignore[type-arg]
    with bpf.owned(generation.map_fd(name)) as fd:
        size = -(-dtype.itemsize * length // mmap.PAGESIZE) * mmap.PAGESIZE
        memory = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    return np.frombuffer(memory, dtype, length)
