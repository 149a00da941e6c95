# SPDX-License-Identifier: Apache-2.0
"""Counts different ports and addresses of scans, in bounded memory.

Ports exactly, by one bit each. Addresses by the smallest of their hashes (Bar-Yossef et
al. 2002): exactly up to ``KEPT``, beyond that within about 3 %.
"""

import os
import sys
from collections.abc import Collection
from ipaddress import IPv6Address
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.arrays.distinct import distinct_rows
from podtally.ledger.checkpoint.saved import Saved

PORTS = 1 << 16
KEPT = 1024  # hashes of each event, 8 KiB
LARGEST = 3  # peers of an event that are named
_WEIGHED = 64  # peers of an event with bytes of their own: those with most
_NONE = np.uint64(2**64 - 1)

_SECRETS = np.frombuffer(os.urandom(16), np.uint64) | np.uint64(1)
_ARRAYS = ("events", "ports", "hashes")


class Scan(NamedTuple):
    """Different ports and addresses since the event's first connection."""

    ports: int
    addresses: int
    exact: bool  # whether ``addresses`` is exact, not an estimate
    largest: tuple[tuple[str, int], ...] = ()  # the peers with most bytes, since the start


class Scans:
    """Ports and addresses by index of the event; 16 KiB each."""

    def __init__(self) -> None:
        self._ports: dict[int, NDArray[np.uint8]] = {}
        self._hashes: dict[int, NDArray[np.uint64]] = {}
        self._weights: dict[int, dict[tuple[int, int], int]] = {}  # bytes by address

    def __len__(self) -> int:
        return len(self._ports)

    def observe(
        self, event: NDArray[np.int32], port: NDArray[np.int64], address: NDArray[np.uint64]
    ) -> None:
        """Add connections to ports (n,) of addresses (n, 2) to events (n,)."""
        hashes = _mixed(_mixed(address[:, 0]) ^ address[:, 1])
        for number in np.unique(event).tolist():
            own = event == number
            seen = np.zeros(PORTS, np.bool_)
            seen[port[own]] = True
            bits = self._ports.setdefault(number, np.zeros(PORTS // 8, np.uint8))
            bits |= np.packbits(seen)
            before = self._hashes.get(number, np.zeros(0, np.uint64))
            self._hashes[number] = np.union1d(before, hashes[own])[:KEPT]

    def weigh(
        self, event: NDArray[np.int32], address: NDArray[np.uint64], bytes_: NDArray[np.int64]
    ) -> None:
        """Add the bytes (n,) of peers (n, 2) to scans (n,), so that a large one among many stays
        visible; of each scan the peers with most bytes are kept.
        """
        for number in np.unique(event).tolist():
            own = np.flatnonzero(event == number)
            row, place = distinct_rows(_keyed(address[own]))
            each = address[own[row]]
            sums = np.bincount(place, bytes_[own], len(each)).astype(np.int64)
            top = np.argsort(sums)[-_WEIGHED:]
            known = self._weights.setdefault(number, {})
            for (high, low), amount in zip(each[top].tolist(), sums[top].tolist(), strict=True):
                known[high, low] = known.get((high, low), 0) + amount
            if len(known) > _WEIGHED:
                kept = sorted(known.items(), key=lambda item: -item[1])[:_WEIGHED]
                self._weights[number] = dict(kept)

    def _largest(self, event: int) -> tuple[tuple[str, int], ...]:
        weights = self._weights.get(event, {})
        ordered = sorted(weights.items(), key=lambda item: -item[1])[:LARGEST]
        return tuple((_text(address), amount) for address, amount in ordered)

    def of(self, event: int) -> Scan | None:
        """Return the counts of an event; None if it is not a scan."""
        bits = self._ports.get(event)
        if bits is None:
            return None
        ports, hashes = int(np.bitwise_count(bits).sum()), self._hashes[event]
        if len(hashes) < KEPT:
            return Scan(ports, len(hashes), True, self._largest(event))
        about = round((KEPT - 1) * 2.0**64 / float(hashes[-1]))
        return Scan(ports, about, False, self._largest(event))

    def keep(self, events: Collection[int]) -> None:
        """Remove all other events."""
        for number in self._ports.keys() - set(events):
            del self._ports[number], self._hashes[number]
            self._weights.pop(number, None)

    def save(self) -> Saved:
        return Saved(arrays=dict(zip(_ARRAYS, self.dump(), strict=True)))

    def load(self, saved: Saved, now_ns: int) -> None:
        self.restore(*(saved.array(name) for name in _ARRAYS))

    def dump(self) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.uint64]]:
        """Return events (n,), ports (n, PORTS / 8) and hashes (n, KEPT), for the checkpoint."""
        hashes = np.full((len(self._hashes), KEPT), _NONE)
        for row, own in zip(hashes, self._hashes.values(), strict=True):
            row[: len(own)] = own
        ports = list(self._ports.values())
        return (
            np.array(list(self._ports), np.int64),
            np.array(ports, np.uint8).reshape(len(ports), PORTS // 8),
            hashes,
        )

    def restore(
        self, events: NDArray[np.int64], ports: NDArray[np.uint8], hashes: NDArray[np.uint64]
    ) -> None:
        """Restore what ``dump`` returned."""
        for row, number in enumerate(events.tolist()):
            self._ports[number] = ports[row].copy()
            self._hashes[number] = hashes[row][hashes[row] != _NONE]


def _keyed(address: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return a number for each address (n, 2); no one can choose addresses with the same."""
    words: NDArray[np.uint64] = address[:, 0] * _SECRETS[0] + address[:, 1] * _SECRETS[1]
    return words.view(np.int64)


def _text(address: tuple[int, int]) -> str:
    """An address in network order, as rows have it."""
    parsed = IPv6Address(b"".join(word.to_bytes(8, sys.byteorder) for word in address))
    return str(parsed.ipv4_mapped or parsed)


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of splitmix64 (Steele et al. 2014); the same after a restart."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ words >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ words >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = words ^ words >> np.uint64(31)
    return mixed
