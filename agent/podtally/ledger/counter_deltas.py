# SPDX-License-Identifier: Apache-2.0
"""Up to where the kernel's own cumulative accounts have been booked."""

import numpy as np

from podtally.kernel.account_map import AccountReading

_NOBODY = np.zeros(0, np.int64)
_NO_PAIRS = np.zeros((0, 2), np.int64)
NOTHING_GROWN = AccountReading(_NOBODY, _NOBODY, _NO_PAIRS, _NO_PAIRS, _NOBODY)


class CounterDeltas:
    """The last reading of every account; goes into the checkpoint as its two arrays."""

    def __init__(self) -> None:
        self.key = _NOBODY  # ifindex * 2 + direction, ascending
        self.sums = np.zeros((0, 5), np.int64)  # bytes, packets: other, overflow; tagged

    def grown(self, accounts: AccountReading) -> AccountReading:
        """By how much accounts have grown since they were last read."""
        key = accounts.ifindex * 2 + accounts.direction
        order = np.argsort(key)
        key = key[order]
        now = np.column_stack([accounts.bytes, accounts.packets, accounts.tagged])[order]
        before = np.zeros_like(now)
        if len(self.key):
            place = np.minimum(np.searchsorted(self.key, key), len(self.key) - 1)
            seen = self.key[place] == key
            before[seen] = self.sums[place[seen]]
        # A sum below the one read before is that of an interface with a number used again.
        growth = np.where((now < before).any(axis=1, keepdims=True), now, now - before)
        self.key, self.sums = key, now
        return AccountReading(key >> 1, key & 1, growth[:, :2], growth[:, 2:4], growth[:, 4])

    def forget(self) -> None:
        """Other programs count from now on, and from nothing."""
        self.key, self.sums = self.key[:0], self.sums[:0]

    def closed(self, ifindex: int) -> None:
        """The kernel's account of an interface is removed: the next of its number starts at 0."""
        others = self.key >> 1 != ifindex
        self.key, self.sums = self.key[others], self.sums[others]
