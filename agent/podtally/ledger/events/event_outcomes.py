# SPDX-License-Identifier: Apache-2.0
"""Counts what became of the connections of events."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.checkpoint.saved import Array, Saved
from podtally.ledger.series.series import padded
from podtally.outcomes.decision import OUTCOMES

_ARRAYS = ("outcomes", "outcomes_reported")


class EventOutcomes:
    """Connections by index of the event and number of the outcome; reported: in total."""

    def __init__(self) -> None:
        self._counts = np.zeros((16, len(OUTCOMES)), np.int64)
        self._reported = np.zeros(16, np.int64)

    def add(self, event: NDArray[np.int32], outcome: NDArray[np.uint8]) -> None:
        """Count decided connections (n,) of events; negative indexes are none."""
        some = np.flatnonzero(event >= 0)
        if len(some):
            self.make_room(int(event[some].max()) + 1)
            np.add.at(self._counts, (event[some], outcome[some].astype(np.int64)), 1)

    def of(self, event: int) -> dict[str, int]:
        """Return connections by outcome, without those that are not decided yet."""
        counts = self._counts[event].tolist() if event < len(self._counts) else ()
        return {name: n for name, n in zip(OUTCOMES, counts, strict=False) if n}

    def have_news(self, events: int) -> NDArray[np.bool_]:
        """Return which events have outcomes that were not reported. (events,)"""
        self.make_room(events)
        news: NDArray[np.bool_] = self._counts[:events].sum(axis=1) > self._reported[:events]
        return news

    def mark_reported(self, events: Collection[int]) -> None:
        at = np.array(list(events), np.int64)
        if len(at):
            self.make_room(int(at.max()) + 1)
            self._reported[at] = self._counts[at].sum(axis=1)

    def clear(self, event: int) -> None:
        """Forget an index that another event takes."""
        self.make_room(event + 1)
        self._counts[event], self._reported[event] = 0, 0

    def save(self, events: int) -> dict[str, Array]:
        both = (self._counts[:events], self._reported[:events])
        return dict(zip(_ARRAYS, both, strict=True))

    def load(self, saved: Saved) -> None:
        """Load what ``save`` returned; an older checkpoint lacks it."""
        if all(name in saved.arrays for name in _ARRAYS):
            self._counts, self._reported = (saved.array(name) for name in _ARRAYS)

    def make_room(self, events: int) -> None:
        if events > len(self._counts):
            size = max(events, 2 * len(self._counts))
            self._counts = padded(self._counts, size, 0)
            self._reported = padded(self._reported, size, 0)
