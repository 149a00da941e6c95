# SPDX-License-Identifier: Apache-2.0
"""Blocks of rules as disjoint ranges, to match many addresses at once."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.arrays.packed_fields import PackedFields
from podtally.identity.networks import ADDRESS_BITS
from podtally.policy.model import Block, Network

_WORD = (1 << 64) - 1


_MAPPED = 0xFFFF  # the upper 96 bits of an IPv4 address


_V4 = 0xFFFFFFFF


_MAPPED_FIRST, _MAPPED_LAST = _MAPPED << 32, _MAPPED << 32 | _V4


_32 = np.uint64(32)


# The number stands before the address, so that one search is for all.
_RANGE = PackedFields(number=31, address=32)


Range = tuple[int, int]  # the first and the last address


class Addresses(NamedTuple):
    """Index i of every array is the same address; 128 bits in two words."""

    high: NDArray[np.uint64]
    low: NDArray[np.uint64]


class BlockRanges:
    """The union of blocks without their exceptions."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        ranges = [found for block in blocks for found in _ranges(block)]
        v4 = _merged(found for found in ranges if _is_mapped(found))
        # The last 32 bits of each range's ends.
        self.first_v4 = np.array([first & _V4 for first, _ in v4], np.uint32)
        self.last_v4 = np.array([last & _V4 for _, last in v4], np.uint32)
        self.v6 = _merged(found for found in ranges if not _is_mapped(found))

    def hold_v6(self, addresses: Addresses) -> NDArray[np.bool_]:
        """Return which IPv6 addresses are in it. (n,)"""
        found = np.zeros(len(addresses.low), np.bool_)
        for first, last in self.v6:
            found |= _not_before(addresses, first) & ~_not_before(addresses, last + 1)
        return found


class RangeTable:
    """Many BlockRanges by number."""

    def __init__(self, ranges: Sequence[BlockRanges]) -> None:
        self._ranges = ranges
        self._has_v6 = np.array([bool(each.v6) for each in ranges], np.bool_)
        counts = [len(each.first_v4) for each in ranges]
        number = np.repeat(np.arange(len(ranges)), counts)
        none = np.zeros(0, np.uint32)
        first = np.concatenate([none, *(each.first_v4 for each in ranges)])
        last = np.concatenate([none, *(each.last_v4 for each in ranges)])
        self._first = _RANGE.pack(number=number, address=first)
        self._last = _RANGE.pack(number=number, address=last)

    def hold(self, numbers: NDArray[np.int64], addresses: Addresses) -> NDArray[np.bool_]:
        v4 = is_v4(addresses)
        found = np.zeros(len(numbers), np.bool_)
        if len(self._first):
            asked = _RANGE.pack(number=numbers, address=addresses.low.astype(np.uint32))
            place = np.searchsorted(self._first, asked, side="right") - 1
            found = v4 & (place >= 0) & (asked <= self._last[place])
        others = np.flatnonzero(~v4 & self._has_v6[numbers])
        for number in np.unique(numbers[others]):
            rows = others[numbers[others] == number]
            part = Addresses(addresses.high[rows], addresses.low[rows])
            found[rows] = self._ranges[number].hold_v6(part)
        return found


def is_v4(addresses: Addresses) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (addresses.high == 0) & (addresses.low >> _32 == _MAPPED)
    return found


def _not_before(addresses: Addresses, bound: int) -> NDArray[np.bool_]:
    high, low = addresses
    if bound >> ADDRESS_BITS:
        return np.zeros(len(low), np.bool_)
    upper, lower = np.uint64(bound >> 64), np.uint64(bound & _WORD)
    found: NDArray[np.bool_] = (high > upper) | ((high == upper) & (low >= lower))
    return found


def _ranges(block: Block) -> list[Range]:
    """Return a block without its exceptions; an IPv6 one without IPv4-mapped addresses."""
    whole = first, last = _bounds(block.network)
    holes = [] if _is_mapped(whole) else [(_MAPPED_FIRST, _MAPPED_LAST)]
    excepted = [_bounds(network) for network in block.excepted]
    holes += [bounds for bounds in excepted if _is_mapped(bounds) == _is_mapped(whole)]
    found = []
    for hole_first, hole_last in _merged(holes):
        if hole_last < first or hole_first > last:
            continue
        if hole_first > first:
            found.append((first, hole_first - 1))
        first = hole_last + 1
    return [*found, (first, last)] if first <= last else found


def _bounds(network: Network) -> Range:
    return network.first, network.first + (1 << (ADDRESS_BITS - network.bits)) - 1


def _is_mapped(bounds: Range) -> bool:
    return bounds[0] >= _MAPPED_FIRST and bounds[1] <= _MAPPED_LAST


def _merged(ranges: Iterable[Range]) -> list[Range]:
    found: list[Range] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return found
