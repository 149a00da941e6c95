# SPDX-License-Identifier: Apache-2.0
"""Which values there are among many, without sorting them; and numbers for them that stay."""

import os

import numpy as np
from numpy.typing import NDArray

_BUCKET_BITS = 16  # of the kernel table's batches, 16384 rows, most are alone in their bucket
# Multiply-shift hashing (Dietzfelbinger et al. 1997); the multiplier is secret, because who
# sends chooses ports.
_ODD = np.frombuffer(os.urandom(8), np.uint64)[0] | np.uint64(1)


def distinct(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The different values (m,), in no order, and for each of (n,) its place among them."""
    row, place = distinct_rows(values)
    return values[row], place


def distinct_rows(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return one row of each different value (m,), ascending, and for each of (n,) its place
    among them.

    Each round, one row stands for its bucket; those of its value are done, the others go
    on with another hash.
    """
    n = len(values)
    order = np.arange(n)
    stands_for = np.empty(n, np.int64)  # the row that stands for each
    table = np.empty(1 << _BUCKET_BITS, np.int64)
    todo, left, odd = order, values, _ODD
    while len(todo):
        bucket = (left.view(np.uint64) * odd >> np.uint64(64 - _BUCKET_BITS)).view(np.int64)
        table[bucket] = todo
        chosen = table[bucket]
        same = values[chosen] == left
        stands_for[todo[same]] = chosen[same]
        todo, left = todo[~same], left[~same]
        with np.errstate(over="ignore"):  # of one word, numpy warns
            odd = odd * odd * _ODD
    first = np.flatnonzero(stands_for == order)
    place = np.empty(n, np.int64)
    place[first] = np.arange(len(first))
    return first, place[stands_for]


class Numbered:
    """Values by number, in the order in which they were first met."""

    def __init__(self) -> None:
        self.values: list[int] = []
        self._sorted = np.zeros(0, np.int64)
        self._numbers = np.zeros(0, np.int64)  # of each

    def of(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers of values (n,); new ones get the next numbers."""
        different, place = distinct(values)
        at = np.searchsorted(self._sorted, different)
        new = np.ones(len(different), np.bool_)
        inside = at < len(self._sorted)
        new[inside] = self._sorted[at[inside]] != different[inside]
        if new.any():
            fresh = different[new]
            numbers = np.arange(len(self.values), len(self.values) + len(fresh))
            self.values += fresh.tolist()
            every = np.concatenate([self._sorted, fresh])
            order = np.argsort(every)
            self._sorted = every[order]
            self._numbers = np.concatenate([self._numbers, numbers])[order]
            at = np.searchsorted(self._sorted, different)
        return self._numbers[at][place]
