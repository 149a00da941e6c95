# SPDX-License-Identifier: Apache-2.0
"""Lookup of address and word, many at once: the first value given for both.

Exact, without hashing: each part is numbered by binary search among its few distinct values.
"""

from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from podtally.arrays.packed_fields import PackedFields
from podtally.policy.vector.addresses import Addresses

NOTHING = -1
Word = TypeVar("Word", np.uint64, np.int64)
_PAIR = PackedFields(upper=31, lower=32)  # of positions; more rows than fit in memory


class TableRows(NamedTuple):
    """Index i of every array is the same row."""

    high: NDArray[np.uint64]  # the address in two words, host byte order
    low: NDArray[np.uint64]
    word: NDArray[np.int64]
    value: NDArray[np.int64]

    def take(self, index: NDArray[np.bool_]) -> "TableRows":
        return TableRows._make(column[index] for column in self)


def concat_rows(parts: Iterable[TableRows]) -> TableRows:
    """Concatenate rows."""
    columns = list(zip(*parts, strict=True))
    if not columns:
        address, nothing = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        return TableRows(address, address, nothing, nothing)
    return TableRows._make(np.concatenate(column) for column in columns)


class FirstMatchTable:
    """Immutable. Of rows with the same address and word, the first one wins."""

    def __init__(self, rows: TableRows) -> None:
        # Words and upper halves are few, so only two searches are in long arrays.
        self._highs, high = _numbered(rows.high)
        self._words, word = _numbered(rows.word)
        self._lows, low = _numbered(rows.low)
        self._pairs, pair = _numbered(_PAIR.pack(upper=high, lower=word))
        self._keys, first = np.unique(_PAIR.pack(upper=pair, lower=low), return_index=True)
        self._values = rows.value[first]

    def look_up(self, addresses: Addresses, word: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return values, or NOTHING; all are (n,)."""
        if not len(self._keys):
            return np.full(len(word), NOTHING, np.int64)
        # A missing part gets the number of another; therefore every part must be found.
        high, has_high = _searched(self._highs, addresses.high)
        word, has_word = _searched(self._words, word)
        low, has_low = _searched(self._lows, addresses.low)
        pair, has_pair = _searched(self._pairs, _PAIR.pack(upper=high, lower=word))
        key, has_key = _searched(self._keys, _PAIR.pack(upper=pair, lower=low))
        found = has_high & has_word & has_low & has_pair & has_key
        return np.where(found, self._values[key], NOTHING)


def _numbered(values: NDArray[Word]) -> tuple[NDArray[Word], NDArray[np.int64]]:
    """Return the distinct values in order, and the position of each value."""
    different, place = np.unique(values, return_inverse=True)
    return different, place.astype(np.int64, copy=False)


def _searched(
    known: NDArray[Word], wanted: NDArray[Word]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return positions in ``known``, and whether each is there; both are (n,)."""
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return place, known[place] == wanted
