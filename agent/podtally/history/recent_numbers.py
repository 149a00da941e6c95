# SPDX-License-Identifier: Apache-2.0
"""Remembers the numbers of what was in the last two batches.

A pod that is gone is in no batch, so what is remembered follows what is there.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class RecentNumbers(Generic[Key]):
    """At most ``limit`` numbers of each batch."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._recent: dict[Key, int] = {}
        self._earlier: dict[Key, int] = {}

    def __len__(self) -> int:
        return len(self._recent) + len(self._earlier)

    def find(self, key: Key) -> int | None:
        number = self._recent.get(key)
        if number is None and (number := self._earlier.get(key)) is not None:
            self.put(key, number)
        return number

    def put(self, key: Key, number: int) -> None:
        self._recent[key] = number
        if len(self._recent) > self._limit:
            self.end_batch()

    def end_batch(self) -> None:
        """Forget what was in none of the last two batches."""
        self._earlier, self._recent = self._recent, {}

    def clear(self) -> None:
        self._recent, self._earlier = {}, {}
