# SPDX-License-Identifier: Apache-2.0
"""Turns readings of the kernel's cumulative accounts into growth."""

import numpy as np

from podtally.kernel.account_map import AccountReading
from podtally.ledger.checkpoint.saved import Saved

_NONE = np.zeros(0, np.int64)
_NO_PAIRS = np.zeros((0, 2), np.int64)
NOTHING_GROWN = AccountReading(_NONE, _NONE, _NO_PAIRS, _NO_PAIRS, _NONE)


class CounterDeltas:
    """Remembers the last reading of every account; the checkpoint keeps both arrays."""

    def __init__(self) -> None:
        self.key = _NONE  # ifindex * 2 + direction, ascending
        self.sums = np.zeros((0, 5), np.int64)  # bytes, packets: other, overflow; tagged

    def save(self) -> Saved:
        return Saved(arrays={"key": self.key, "sums": self.sums})

    def load(self, saved: Saved, now_ns: int) -> None:
        self.key, self.sums = saved.array("key"), saved.array("sums")

    def grown(self, accounts: AccountReading) -> AccountReading:
        """Return by how much accounts have grown since the last call."""
        key = accounts.ifindex * 2 + accounts.direction
        order = np.argsort(key)
        key = key[order]
        now = np.column_stack([accounts.bytes, accounts.packets, accounts.tagged])[order]
        before = np.zeros_like(now)
        if len(self.key):
            place = np.minimum(np.searchsorted(self.key, key), len(self.key) - 1)
            seen = self.key[place] == key
            before[seen] = self.sums[place[seen]]
        # A sum below the last one: another interface has the ifindex, and counts from zero.
        growth = np.where((now < before).any(axis=1, keepdims=True), now, now - before)
        self.key, self.sums = key, now
        return AccountReading(key >> 1, key & 1, growth[:, :2], growth[:, 2:4], growth[:, 4])

    def forget(self) -> None:
        """Start from zero: other programs count from now on."""
        self.key, self.sums = self.key[:0], self.sums[:0]

    def closed(self, ifindex: int) -> None:
        """Forget an interface with a removed account: the next with its ifindex starts at 0."""
        others = self.key >> 1 != ifindex
        self.key, self.sums = self.key[others], self.sums[others]
