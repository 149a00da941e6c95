# SPDX-License-Identifier: Apache-2.0
"""Longest-prefix match of many addresses at once, for IPv4 and IPv6.

Prefixes are flattened into disjoint ranges when the table is built, so that a
look-up is three binary searches over sorted 64-bit words, whatever the prefixes.
"""

import ipaddress
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ADDRESS_BITS = 128
_WORD = (1 << 64) - 1
_MAPPED = 0xFFFF << 32  # ::ffff:0:0/96, RFC 4291 2.5.5.2


class Prefix(NamedTuple):
    first: int  # the lowest address, 128 bits
    bits: int  # of the prefix
    value: int


def parse_prefix(text: str, value: int) -> Prefix:
    """Parse a network or an address; IPv4 becomes ::ffff:a.b.c.d. ValueError if it is neither."""
    network = ipaddress.ip_network(text)
    first = int(network.network_address)
    if network.version == 4:
        return Prefix(_MAPPED | first, network.prefixlen + 96, value)
    return Prefix(first, network.prefixlen, value)


class PrefixTable:
    """Finds the value of the longest prefix of an address; ``default`` if there is none."""

    def __init__(self, prefixes: Iterable[Prefix], default: int = 0) -> None:
        starts, values = _flatten(prefixes, default)
        high = np.array([start >> 64 for start in starts], np.uint64)
        low = np.array([start & _WORD for start in starts], np.uint64)
        self._values = np.array(values, np.int64)
        self._highs = np.unique(high)
        self._lows = np.unique(low)
        # A start as one word: the rank of its upper half, then of its lower half.
        self._ranks = len(self._lows) + 1
        group = np.searchsorted(self._highs, high)
        self._starts = group * self._ranks + np.searchsorted(self._lows, low) + 1

    def look_up(self, high: NDArray[np.uint64], low: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the values for addresses as upper and lower halves of 128 bits, both (n,)."""
        group = np.searchsorted(self._highs, high, side="right") - 1
        inside = self._highs[group] == high
        rank = np.where(inside, np.searchsorted(self._lows, low, side="right"), self._ranks - 1)
        place = np.searchsorted(self._starts, group * self._ranks + rank, side="right") - 1
        return self._values[place]


def _flatten(prefixes: Iterable[Prefix], default: int) -> tuple[list[int], list[int]]:
    """Return disjoint ranges from address 0 on: their starts and values.

    Walks the prefixes in order, wider ones first. Prefixes nest or are disjoint, so those around
    the current address are a stack.
    """
    bounds: dict[int, int] = {0: default}
    around: list[tuple[int, int]] = [(1 << ADDRESS_BITS, default)]  # (first address behind, value)

    def leave(until: int) -> None:
        while around[-1][0] <= until:
            behind, _ = around.pop()
            bounds[behind] = around[-1][1]

    for first, bits, value in sorted(prefixes, key=lambda p: (p.first, p.bits)):
        leave(first)
        bounds[first] = value
        around.append((first + (1 << (ADDRESS_BITS - bits)), value))
    leave((1 << ADDRESS_BITS) - 1)
    starts = sorted(bounds)
    return starts, [bounds[start] for start in starts]
