# SPDX-License-Identifier: Apache-2.0
"""Drives one loaded generation in a test: sends a frame to a program, reads what was booked."""

import ipaddress
import mmap
import socket
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.kernel import bpf
from podtally.kernel.account_map import UNATTRIBUTED, AccountMap
from podtally.kernel.pins import Generation
from podtally.kernel.table import FlowRows, Table, open_table

LOOPBACK = 1  # the interface that a test run's packets are on
FROM, TO = 0, 1
OTHER, OVERFLOW = 0, 1

Pair = tuple[int, int]


class Flow(NamedTuple):
    protocol: int
    local: str
    local_port: int
    remote: str
    remote_port: int


class Entry(NamedTuple):
    flow: Flow
    bytes: Pair  # from and to the endpoint
    packets: Pair
    seen: int
    first_direction: int
    first_seen_ns: int
    ifindex: int


class Account(NamedTuple):
    bytes: int
    packets: int


NOTHING = Account(0, 0)


class Kernel:
    """A generation of programs with its table and books; no traffic but the test's."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.programs = generation.program_fds()
        self.table: Table = open_table(generation)
        self.books = AccountMap(generation)
        self.layout = generation.about.layout
        self.hot = shared(generation, "hot").view(self.layout.hot)
        self.control = shared(generation, "control")[: self.layout.control.itemsize // 8].view(
            self.layout.control
        )

    def send(self, program: str, frame: bytes, repeat: int = 1, context: bytes = b"") -> int:
        return bpf.test_run(self.programs[program], frame, repeat, context).retval

    def entries(self) -> list[Entry]:
        """The flows of the active half; nothing writes to it between two test runs."""
        return self.entries_of(self.table.epoch & 1)

    def entries_of(self, half: int) -> list[Entry]:
        return [entry for rows in self.table.read(half) for entry in self._entries(rows)]

    def _entries(self, rows: FlowRows) -> list[Entry]:
        return [
            Entry(_flow(cold), _pair(size), _pair(count), self._seen(seen, cold), *_origin(cold))
            for size, count, seen, cold in zip(
                rows.bytes, rows.packets, rows.seen, self.table.cold(rows.place), strict=True
            )
        ]

    def _seen(self, seen: np.uint64, cold: np.void) -> int:
        """The facts of a row, without those of its handshake: test_handshake.py."""
        layout = self.layout
        found = int(seen) & ~(layout.seen_retries_mask << layout.seen_retries_shift)
        for bit in range(layout.seen_timed_bit, layout.seen_timed_bit + 3):
            found &= ~(1 << bit)
        if cold["protocol"] != socket.IPPROTO_TCP:
            found &= ~(layout.seen_packet | layout.seen_packet << layout.seen_shift)
        return found

    def account(self, direction: int, account: int, ifindex: int = LOOPBACK) -> Account:
        books = self.books.read()
        rows = (books.ifindex == ifindex) & (books.direction == direction)
        return Account(
            int(books.bytes[rows, account].sum()), int(books.packets[rows, account].sum())
        )

    def reset_table(self) -> None:
        """An empty table without a near region; lanes and accounts stay."""
        for half in (0, 1):
            self.table.clear(half)
        self.control["near_shift"] = 0

    def reset(self) -> None:
        """An empty table, and accounts for the loopback only."""
        self.reset_table()
        for ifindex in (UNATTRIBUTED, LOOPBACK):
            self.books.close_accounts(ifindex)
        self.books.open_accounts(LOOPBACK)


def shared(generation: Generation, name: str) -> NDArray[np.uint64]:
    """The words of a map, in memory shared with the kernel, for tests that meddle with them."""
    with bpf.owned(generation.map_fd(name)) as fd:
        info = bpf.map_info(fd)
        size = info.value_size * info.max_entries
        memory = mmap.mmap(fd, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
    return np.frombuffer(memory, np.uint64, size // 8)


def _flow(cold: np.void) -> Flow:
    return Flow(
        int(cold["protocol"]),
        _address(cold["local_address"]),
        int(cold["local_port"]),
        _address(cold["remote_address"]),
        int(cold["remote_port"]),
    )


def _origin(cold: np.void) -> tuple[int, int, int]:
    return int(cold["first_direction"]), int(cold["first_seen_ns"]), int(cold["ifindex"])


def _address(words: NDArray[np.uint64]) -> str:
    address = ipaddress.IPv6Address(words.tobytes())
    return str(address.ipv4_mapped or address)


def _pair(values: NDArray[np.int64]) -> Pair:
    return int(values[0]), int(values[1])
