# SPDX-License-Identifier: Apache-2.0
"""Tables of series: label sets with 64-bit sums."""

from collections.abc import Hashable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.checkpoint.saved import EncodedOnce, Saved

Labels = TypeVar("Labels", bound=Hashable)
Scalar = TypeVar("Scalar", bound=np.generic)

NO_SERIES = -1  # in arrays of indexes of series


class SeriesView(NamedTuple, Generic[Labels]):
    """A copy for readers: ``values[i]`` are the sums of ``labels[i]``."""

    labels: Sequence[Labels]
    values: NDArray[np.int64]


class SeriesTable(Generic[Labels]):
    """Label sets, each with ``width`` sums that only grow.

    A label set keeps its index until it is removed; then the index may be used again.
    """

    def __init__(self, width: int, labels: Any = Any) -> None:
        """``labels``: the type of the label sets, which ``load`` needs."""
        self._labels_type = labels
        self._encoded = EncodedOnce()
        self.version = 0  # changes with the label sets, not with their sums
        self.forgotten = 0  # label sets removed so far: their indexes may be in use again
        self._labels: list[Labels | None] = []
        self._index: dict[Labels, int] = {}
        self._free: list[int] = []
        self._shown: tuple[int, Sequence[Labels], NDArray[np.int64]] | None = None
        self._sums = np.zeros((16, width), np.int64)
        self._moved_ns = np.zeros(16, np.int64)  # when a sum last grew

    def __len__(self) -> int:
        return len(self._index)

    def index_of(self, labels: Labels, now_ns: int) -> int:
        """Return the index of a label set, which is added if it is new."""
        index = self._index.get(labels)
        if index is None:
            index = self._free.pop() if self._free else len(self._labels)
            if index == len(self._labels):
                self._labels.append(labels)
                self._make_room()
            self._labels[index] = labels
            self._index[labels] = index
            self._moved_ns[index] = now_ns
            self.version += 1
        return index

    def find(self, labels: Labels) -> int | None:
        return self._index.get(labels)

    def labels_at(self, index: int) -> Labels | None:
        return self._labels[index]

    def add(self, index: NDArray[np.int64], amounts: NDArray[np.int64], now_ns: int) -> None:
        """Add ``amounts`` (n, width) to the sets at ``index`` (n,), which may have duplicates."""
        np.add.at(self._sums, index, amounts)
        self._moved_ns[index[amounts.any(axis=1)]] = now_ns

    def carry(self, index: NDArray[np.int64], low: int, high: int, base: int) -> None:
        """Carry multiples of ``base`` from column ``low`` of sets (n,) to column ``high``."""
        whole, rest = np.divmod(self._sums[index, low], base)
        self._sums[index, high] += whole
        self._sums[index, low] = rest

    def idle(self, before_ns: int) -> NDArray[np.bool_]:
        """Return, by index, whether a set's sums have not grown since ``before_ns``."""
        return self._moved_ns[: len(self._labels)] < before_ns

    def expire(self, before_ns: int, in_use: NDArray[np.int64]) -> int:
        """Remove the sets that have not grown since ``before_ns`` and are not ``in_use``."""
        idle = self.idle(before_ns)
        idle[in_use] = False
        forgotten = [i for i in np.flatnonzero(idle).tolist() if self._labels[i] is not None]
        for index in forgotten:
            labels = self._labels[index]
            assert labels is not None
            del self._index[labels]
            self._labels[index] = None
            self._sums[index] = 0
            self._free.append(index)
        self.version += bool(forgotten)
        self.forgotten += len(forgotten)
        return len(forgotten)

    def view(self) -> SeriesView[Labels]:
        """Return a copy; ``labels`` is the same object until the label sets change."""
        if self._shown is None or self._shown[0] != self.version:
            index = np.array(list(self._index.values()), np.int64)
            self._shown = (self.version, list(self._index), index)
        _, labels, index = self._shown
        return SeriesView(labels, self._sums[index])

    def save(self) -> Saved:
        sums, moved_ns = self.sums()
        arrays = {"sums": sums, "moved_ns": moved_ns}
        return Saved(self._encoded.encode(self.version, self.pairs), arrays)

    def load(self, saved: Saved, now_ns: int) -> None:
        pairs = saved.decode(list[tuple[int, self._labels_type]])  # type: ignore[name-defined]
        if pairs or saved.arrays:
            self.restore(pairs, saved.array("sums"), saved.array("moved_ns"))

    def pairs(self) -> list[tuple[int, Labels]]:
        """Return index and labels of each set, for the checkpoint."""
        return [(index, labels) for labels, index in self._index.items()]

    def sums(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return sums by index, and when they last grew, for the checkpoint."""
        size = len(self._labels)
        return self._sums[:size], self._moved_ns[:size]

    def restore(
        self,
        pairs: list[tuple[int, Labels]],
        sums: NDArray[np.int64],
        moved_ns: NDArray[np.int64],
    ) -> None:
        """Restore what ``pairs`` and ``sums`` returned; every set keeps its index."""
        self._labels = [None] * len(sums)
        self._make_room()
        self._sums[: len(sums)] = sums
        self._moved_ns[: len(sums)] = moved_ns
        for index, labels in pairs:
            self._labels[index] = labels
            self._index[labels] = index
        self._free = [i for i, labels in enumerate(self._labels) if labels is None]

    def _make_room(self) -> None:
        short = len(self._labels) - len(self._sums)
        if short > 0:
            more = max(short, len(self._sums))
            self._sums = np.pad(self._sums, ((0, more), (0, 0)))
            self._moved_ns = np.pad(self._moved_ns, (0, more))


def used(series: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indexes among ``series``, each once."""
    return np.unique(series[series != NO_SERIES])


def padded(array: NDArray[Scalar], size: int, value: int | bool) -> NDArray[Scalar]:
    """Return the array with at least ``size`` rows; new ones have ``value``."""
    more = max(0, size - len(array))
    widths = ((0, more), (0, 0))[: array.ndim]
    return np.pad(array, widths, constant_values=value) if more else array
