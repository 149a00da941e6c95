# SPDX-License-Identifier: Apache-2.0
"""Keeps the embedded store within its limits: the oldest and finest data go first."""

import os
from pathlib import Path
from typing import NamedTuple

from podtally.history.sqlite_schema import DAY, HOUR, MINUTE, Tier
from podtally.history.store import Store

# Below the limit: room for a batch and its log until data are removed.
_SLACK_PART, _MAX_SLACK = 8, 16 << 20
_LOG_BYTES = 1 << 20  # of the write-ahead log, before it is moved into the file to save room


class StoreLimits(NamedTuple):
    max_bytes: int
    min_free_bytes: int


def missing_bytes(directory: Path, limits: StoreLimits) -> int:
    """Return how many bytes the disk lacks of its minimum; negative if it has more. OSError."""
    disk = os.statvfs(directory)
    return limits.min_free_bytes + _LOG_BYTES - disk.f_bavail * disk.f_frsize


class _Step(NamedTuple):
    """Remove the oldest ``chunk`` intervals of a tier, while it retains more than ``least``."""

    tier: Tier
    chunk: int
    least: int


# What goes first: minutes older than a day, hours older than two weeks, days older than a year;
# then whatever is oldest.
_STEPS = (
    _Step(MINUTE, 60, 1440),
    _Step(HOUR, 24, 14 * 24),
    _Step(DAY, 7, 366),
    _Step(MINUTE, 60, 120),
    _Step(HOUR, 24, 48),
    _Step(DAY, 1, 2),
    _Step(MINUTE, 10, 10),
    _Step(HOUR, 1, 0),
    _Step(DAY, 1, 0),
    _Step(MINUTE, 1, 0),
)


class Retention:
    """Of one store; ``enforce`` after each batch."""

    def __init__(self, store: Store, limits: StoreLimits) -> None:
        self._store = store
        self._limits = limits

    def has_room(self) -> bool:
        """Return whether the disk has more than the minimum free, for a batch and its log."""
        return self._missing() < 0

    def enforce(self) -> int:
        """Remove data until the limits hold; return how many rows went."""
        removed = 0
        while self._excess() > 0 and (gone := self._remove_oldest()) is not None:
            removed += gone
        if self._missing() >= 0:
            self._store.shrink()
            while self._missing() >= 0 and (gone := self._remove_oldest()) is not None:
                removed += gone
                self._store.shrink()
        return removed

    def _excess(self) -> int:
        """Return the bytes in use beyond the limit; what is free inside the file is not in use."""
        most = self._limits.max_bytes
        limit = most - min(most // _SLACK_PART, _MAX_SLACK)
        used = self._store.size()
        if used > limit:
            self._store.truncate_log()
            used = self._store.size()
        return used - self._store.free_inside() - limit if used > limit else -1

    def _missing(self) -> int:
        return missing_bytes(self._store.path.parent, self._limits)

    def _remove_oldest(self) -> int | None:
        """Remove one chunk; None if there is nothing left to remove."""
        for step in _STEPS:
            first, last = self._store.bounds(step.tier)
            if last - first >= step.least:
                end = first // step.chunk * step.chunk + step.chunk
                return self._store.remove(step.tier, min(end, last + 1))
        return self._store.remove_block()
