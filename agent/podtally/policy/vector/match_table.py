# SPDX-License-Identifier: Apache-2.0
"""What each selector says of each class of parties, as two bits, for those in the thousands."""

import numpy as np
from numpy.typing import NDArray

from podtally.policy.vector.label_sets import MAYBE, YES, Matches

Indices = NDArray[np.int64]

_SPARE = 256  # rows and columns, before both planes are made anew


class MatchTable:
    """A row a selector, a column a class; both only come to it."""

    def __init__(self) -> None:
        self.rows, self.columns = 0, 0
        # A bit is set in ``sure`` for YES, in ``possible`` for PERHAPS and YES.
        self._sure = np.zeros((0, 0), np.uint8)
        self._possible = np.zeros((0, 0), np.uint8)

    def add_row(self, grades: Matches) -> None:
        """(columns,)"""
        self._make_room(self.rows + 1, self.columns)
        for plane, least in ((self._sure, YES), (self._possible, MAYBE)):
            bits = np.packbits(grades >= least)
            plane[self.rows, : len(bits)] = bits
        self.rows += 1

    def add_column(self, grades: Matches) -> None:
        """(rows,)"""
        self._make_room(self.rows, self.columns + 1)
        byte, bit = self.columns >> 3, np.uint8(0x80 >> (self.columns & 7))
        self._sure[: self.rows, byte] |= (grades == YES) * bit
        self._possible[: self.rows, byte] |= (grades >= MAYBE) * bit
        self.columns += 1

    def of_row(self, row: int) -> Matches:
        """(columns,)"""
        found = np.unpackbits(self._sure[row], count=self.columns)
        found += np.unpackbits(self._possible[row], count=self.columns)
        return found

    def at(self, rows: Indices, columns: Indices | int) -> Matches:
        """(n,); of each row in its column, or of all in one."""
        byte, bit = columns >> 3, np.uint8(7) - np.bitwise_and(columns, 7).astype(np.uint8)
        found: Matches = self._sure[rows, byte] >> bit & np.uint8(1)
        found += self._possible[rows, byte] >> bit & np.uint8(1)
        return found

    def _make_room(self, rows: int, columns: int) -> None:
        rooms, bytes_ = self._sure.shape
        if rows <= rooms and columns <= bytes_ << 3:
            return
        if rows > rooms:
            rooms = rows + rows // 4 + _SPARE
        if columns > bytes_ << 3:
            bytes_ = (columns + columns // 4 + _SPARE) >> 3
        self._sure = _larger(self._sure, rooms, bytes_)
        self._possible = _larger(self._possible, rooms, bytes_)


def _larger(plane: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    found = np.zeros((rows, columns), np.uint8)
    found[: plane.shape[0], : plane.shape[1]] = plane
    return found
