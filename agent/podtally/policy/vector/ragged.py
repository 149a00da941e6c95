# SPDX-License-Identifier: Apache-2.0
"""Lists of different lengths, one after another in one array."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


class RaggedLists(NamedTuple):
    """List i is that of ``starts[i]`` and the ``counts[i] - 1`` places after it."""

    starts: Indices
    counts: Indices

    def of(self, index: Indices) -> "RaggedLists":
        return RaggedLists(self.starts[index], self.counts[index])

    def members(self) -> tuple[Indices, Indices]:
        """Which list each of all their members is in, and its place; in the order of the lists."""
        owner = np.repeat(np.arange(len(self.counts)), self.counts)
        before = np.cumsum(self.counts) - self.counts
        return owner, np.arange(len(owner)) + (self.starts - before)[owner]


def ragged_lists(lengths: list[int]) -> RaggedLists:
    """One right after the other."""
    counts = np.array(lengths, np.int64)
    return RaggedLists(np.cumsum(counts) - counts, counts)


def first_of_runs(*columns: Indices) -> NDArray[np.bool_]:
    """(n,); whether any column has another value than in the row before."""
    found = np.zeros(len(columns[0]), np.bool_)
    found[:1] = True
    for column in columns:
        found[1:] |= column[1:] != column[:-1]
    return found


def sum_before(amounts: Indices, starts: NDArray[np.bool_]) -> Indices:
    """(n,); the sum of the amounts before each place within its run."""
    total = np.cumsum(amounts) - amounts
    first = np.flatnonzero(starts)
    found: Indices = total - total[first][np.cumsum(starts) - 1]
    return found
