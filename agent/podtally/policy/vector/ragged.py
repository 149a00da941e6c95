# SPDX-License-Identifier: Apache-2.0
"""Lists of different lengths, concatenated in one array."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


class RaggedLists(NamedTuple):
    """List i has ``counts[i]`` members, from position ``starts[i]``."""

    starts: Indices
    counts: Indices

    def of(self, index: Indices) -> "RaggedLists":
        return RaggedLists(self.starts[index], self.counts[index])

    def members(self) -> tuple[Indices, Indices]:
        """Return the list and the position of every member, in the order of the lists."""
        owner = np.repeat(np.arange(len(self.counts)), self.counts)
        before = np.cumsum(self.counts) - self.counts
        return owner, np.arange(len(owner)) + (self.starts - before)[owner]


def ragged_lists(lengths: list[int]) -> RaggedLists:
    """Return consecutive lists of these lengths."""
    counts = np.array(lengths, np.int64)
    return RaggedLists(np.cumsum(counts) - counts, counts)


def first_of_runs(*columns: Indices) -> NDArray[np.bool_]:
    """Return whether each row differs from the one before in any column, (n,)."""
    found = np.zeros(len(columns[0]), np.bool_)
    found[:1] = True
    for column in columns:
        found[1:] |= column[1:] != column[:-1]
    return found


def sum_before(amounts: Indices, starts: NDArray[np.bool_]) -> Indices:
    """Return the sum of the amounts before each position within its run, (n,)."""
    total = np.cumsum(amounts) - amounts
    first = np.flatnonzero(starts)
    found: Indices = total - total[first][np.cumsum(starts) - 1]
    return found
