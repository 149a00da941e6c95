# SPDX-License-Identifier: Apache-2.0
"""Pack named bit fields into one integer each, refusing values that do not fit."""

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

_BITS = 63  # so that what is packed is never negative
Packed = TypeVar("Packed", int, NDArray[np.int64])
Column = NDArray[np.integer] | NDArray[np.bool_]


class _Field(NamedTuple):
    shift: int
    width: int

    def check(self, name: str, bits: int) -> None:
        if bits >> self.width:  # a negative one keeps its sign
            raise OverflowError(f"field {name!r} of {self.width} bits cannot hold {bits:#x}")


class PackedFields:
    """The layout of one packed integer: unsigned fields by name, the highest first.

    >>> FLOW = PackedFields(port=16, protocol=8)
    >>> FLOW.unpack(FLOW.pack_one(port=53, protocol=17))
    {'port': 53, 'protocol': 17}
    """

    def __init__(self, **widths: int) -> None:
        shift = sum(widths.values())
        if shift > _BITS:
            raise ValueError(f"{shift} bits do not fit into {_BITS}")
        self._fields: dict[str, _Field] = {}
        for name, width in widths.items():
            shift -= width
            self._fields[name] = _Field(shift, width)

    def capacity(self, name: str) -> int:
        """Return how many values a field can hold: one more than its greatest."""
        return 1 << self._fields[name].width

    def pack(self, **columns: Column) -> NDArray[np.int64]:
        """Return arrays (n,) packed row by row; fields left out are 0.

        Raises OverflowError if a value is negative or too large for its field.
        """
        packed: NDArray[np.int64] | None = None
        for name, column in columns.items():
            field = self._fields[name]
            unsigned = column.dtype.kind in "bu" and _width(column.dtype) <= field.width
            if not unsigned:
                field.check(name, int(np.bitwise_or.reduce(column)))
            part = column.astype(np.int64)
            if field.shift:
                part <<= field.shift
            if packed is None:
                packed = part
            else:
                packed |= part
        if packed is None:
            raise TypeError("no columns to pack")
        return packed

    def pack_one(self, **values: int) -> int:
        """Return one set of values packed; as ``pack``."""
        packed = 0
        for name, value in values.items():
            field = self._fields[name]
            field.check(name, value)
            packed |= value << field.shift
        return packed

    def get(self, name: str, packed: Packed) -> Packed:
        """Return the values of one field. (n,)"""
        field = self._fields[name]
        return packed >> field.shift & (1 << field.width) - 1

    def prefix(self, name: str, packed: Packed) -> Packed:
        """Return a field with all those above it, to compare them at once. (n,)"""
        return packed >> self._fields[name].shift

    def replace(self, packed: NDArray[np.int64], **values: int) -> NDArray[np.int64]:
        """Return what is packed with some fields set to one value each. (n,)"""
        for name in values:
            field = self._fields[name]
            packed = packed & ~((1 << field.width) - 1 << field.shift)
        return packed | self.pack_one(**values)

    def unpack(self, packed: int) -> dict[str, int]:
        """Return all fields of one packed integer, by name."""
        return {name: self.get(name, packed) for name in self._fields}


def _width(dtype: np.dtype[np.generic]) -> int:
    return 1 if dtype.kind == "b" else 8 * dtype.itemsize
