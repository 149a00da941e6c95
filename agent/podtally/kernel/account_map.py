# SPDX-License-Identifier: Apache-2.0
"""The kernel's own accounts: what crossed an interface and is in no flow row; and its lanes.

They are cumulative and per CPU. An account is opened before the programs are
attached, so that a packet never has to make one; and so are the lanes, which bound
what one way through an interface may take up (``bpf/flow.h``).
"""

import errno
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.errors import PodtallyError
from podtally.kernel import abi, bpf
from podtally.kernel.pins import Generation

_PAUSES = (0.0, *(0.05,) * 20)  # until the kernel has refilled its reserve of elements
UNATTRIBUTED = 0  # ifindex of the account of interfaces without accounts of their own


class AccountReading(NamedTuple):
    """Cumulative sums over all CPUs; index i of every array is one interface and direction.

    ``bytes`` and ``packets`` are (n, 2): other and overflow. ``tagged`` are frames, of
    whatever account, with a VLAN tag that is in no sum of bytes.
    """

    ifindex: NDArray[np.int64]
    direction: NDArray[np.int64]
    bytes: NDArray[np.int64]
    packets: NDArray[np.int64]
    tagged: NDArray[np.int64]


class AccountMap:
    """The map ``books`` of one generation."""

    def __init__(self, generation: Generation) -> None:
        layout = generation.about.layout
        self._key: abi.Struct = layout.book_key
        self._value: abi.Struct = layout.book
        self._fd = generation.map_fd("books")
        self._room = generation.about.options.books
        self._cpus = bpf.possible_cpus()
        self._lane: abi.Struct | None = layout.lane  # None: programs without lanes
        self._lane_numbers = range(layout.lanes)
        self._lanes_fd = -1 if layout.lane is None else generation.map_fd("lanes")
        self._bound: abi.Struct | None = layout.bound if "bounds" in generation.maps else None
        self._bounds_fd = -1 if self._bound is None else generation.map_fd("bounds")

    def close(self) -> None:
        os.close(self._fd)
        for fd in (self._lanes_fd, self._bounds_fd):
            if fd >= 0:
                os.close(fd)

    def open_accounts(self, ifindex: int) -> None:
        """Make the accounts of an interface; those that are there keep their counts."""
        for key in self._keys(ifindex, range(2)):
            self._open(self._fd, key, np.zeros(self._cpus, self._value))
        if self._lane is not None:
            for key in self._keys(ifindex, self._lane_numbers):
                self._open(self._lanes_fd, key, np.zeros(1, self._lane))
        if self._bound is not None:
            self._open(self._bounds_fd, _ifindex(ifindex), np.zeros(1, self._bound))

    def _open(self, fd: int, key: NDArray[np.generic], nothing: NDArray[np.void]) -> None:
        try:
            _create(fd, key, nothing)
        except OSError as error:
            if error.errno == errno.E2BIG:
                raise PodtallyError(
                    f"more than {self._room // 2} interfaces to watch",
                    "narrow --interfaces",
                ) from None
            if error.errno != errno.EEXIST:
                raise

    def close_accounts(self, ifindex: int) -> None:
        for key in self._keys(ifindex, range(2)):
            bpf.delete(self._fd, key)
        if self._lane is not None:
            for key in self._keys(ifindex, self._lane_numbers):
                bpf.delete(self._lanes_fd, key)
        if self._bound is not None:
            bpf.delete(self._bounds_fd, _ifindex(ifindex))

    def lost_pieces(self, ifindexes: Iterable[int]) -> dict[int, int]:
        """Return how many captured pieces of interfaces were dropped since they were attached."""
        found = {}
        if self._bound is not None:
            value = np.zeros(1, self._bound)
            for ifindex in ifindexes:
                with suppress(FileNotFoundError):  # not attached any more
                    bpf.lookup(self._bounds_fd, _ifindex(ifindex), value)
                    found[ifindex] = int(value["lost"][0])
        return found

    def read(self) -> AccountReading:
        keys, values = bpf.lookup_all(self._fd, self._key, self._value, self._cpus, self._room)
        return AccountReading(
            keys["ifindex"].astype(np.int64),
            keys["direction"].astype(np.int64),
            values["bytes"].sum(axis=1).astype(np.int64),
            values["packets"].sum(axis=1).astype(np.int64),
            values["tagged"].sum(axis=1).astype(np.int64),
        )

    def _keys(self, ifindex: int, numbers: range) -> list[NDArray[np.void]]:
        return [np.array([(ifindex, number)], self._key) for number in numbers]


def _create(fd: int, key: NDArray[np.generic], value: NDArray[np.void]) -> None:
    """Make an element of a map that is not preallocated.

    Its memory comes from a small reserve, which the kernel refills a moment later
    (``unit_alloc()`` in kernel/bpf/memalloc.c): ENOMEM until then.
    """
    for pause in _PAUSES:
        time.sleep(pause)
        try:
            return bpf.update(fd, key, value, bpf.NOEXIST)
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            lacking = error
    raise lacking


def _ifindex(ifindex: int) -> NDArray[np.uint32]:
    return np.array([ifindex], np.uint32)
