# SPDX-License-Identifier: Apache-2.0
"""Owners of addresses by time: collects claims, makes an immutable table for look-ups.

``claims`` resolves contradicting claims.
"""

import os
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.identity.claims import Interval, resolve
from podtally.identity.model import FOREVER, Claim, Owner

_WORD = (1 << 64) - 1
_SPARE_OWNERS = 128  # former owners, before those still in the table are renumbered
_ROWS_A_BUCKET = 0.25

# Multiply-shift hashing of two words (Dietzfelbinger et al. 1997). The multipliers are
# secret, so that no one can choose addresses that all fall into one bucket.
_MULTIPLIERS = np.frombuffer(os.urandom(16), np.uint64) | np.uint64(1)


class AddressRows(NamedTuple):
    """Intervals; index i of every array is the same one."""

    high: NDArray[np.uint64]  # the upper half of the address
    low: NDArray[np.uint64]
    from_ns: NDArray[np.int64]
    until_ns: NDArray[np.int64]
    owner: NDArray[np.int64]

    def take(self, index: NDArray[np.bool_] | NDArray[np.int64] | slice) -> "AddressRows":
        return AddressRows._make(column[index] for column in self)


# After the last row, for buckets that start there: never begun, so never found.
_SENTINEL = AddressRows._make(
    np.array([value], dtype)
    for value, dtype in zip((0, 0, FOREVER, 0, -1), (np.uint64,) * 2 + (np.int64,) * 3, strict=True)
)


@dataclass(frozen=True, eq=False)
class AddressTable:
    """Intervals in a hash table of flat buckets, so that a look-up is a few gathers.

    Bucket i is the rows from ``starts[i]`` to before ``starts[i + 1]``; of one address the
    latest comes first. Tables with the same list of ``owners``, which only grows, agree
    on what an index means.
    """

    owners: Sequence[Owner]
    rows: AddressRows  # and the sentinel
    starts: NDArray[np.int32]  # (buckets + 1,)

    def look_up(
        self, high: NDArray[np.uint64], low: NDArray[np.uint64], at_ns: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return indexes into ``owners``, -1 where the address has no owner then; all are (n,)."""
        rows = self.rows
        bucket = _buckets(high, low, len(self.starts) - 1)
        place = self.starts[bucket]
        begun = self._begun(place, high, low, at_ns)
        owner = np.where(begun & (at_ns < rows.until_ns[place]), rows.owner[place], -1)
        # Most are found at once. The others are searched row by row to the ends of their buckets.
        index = np.flatnonzero(~begun)
        place, end = place[index] + 1, self.starts[bucket[index] + 1]
        while (inside := place < end).any():
            index, place, end = index[inside], place[inside], end[inside]
            at = at_ns[index]
            begun = self._begun(place, high[index], low[index], at)
            held = begun & (at < rows.until_ns[place])
            owner[index[held]] = rows.owner[place[held]]
            index, place, end = index[~begun], place[~begun] + 1, end[~begun]
        return owner

    def recent(self, since_ns: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Return halves of the addresses that changed their owner at ``since_ns`` or later.

        Both are (n,), sorted as one number, unique.
        """
        rows = self.rows.take(slice(-1))
        ended = (rows.until_ns >= since_ns) & (rows.until_ns != FOREVER)
        changed = (rows.from_ns >= since_ns) | ended
        high, low = rows.high[changed], rows.low[changed]
        order = np.lexsort((low, high))
        high, low = high[order], low[order]
        first = np.ones(len(high), np.bool_)
        first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        return high[first], low[first]

    def without(self, high: NDArray[np.uint64], low: NDArray[np.uint64]) -> AddressRows:
        """Return the rows of all other addresses than these (n,), without the sentinel."""
        rows = self.rows
        bucket = _buckets(high, low, len(self.starts) - 1)
        place, end = self.starts[bucket], self.starts[bucket + 1]
        others = np.ones(len(rows.high) - 1, np.bool_)
        while (inside := place < end).any():
            place, end, high, low = place[inside], end[inside], high[inside], low[inside]
            same = (rows.high[place] == high) & (rows.low[place] == low)
            others[place[same]] = False
            place = place + 1
        return rows.take(slice(-1)).take(others)

    def _begun(
        self,
        place: NDArray[np.int32],
        high: NDArray[np.uint64],
        low: NDArray[np.uint64],
        at_ns: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Return whether rows are of these addresses and have begun by then; all are (n,).

        For an empty bucket the row is of a later bucket, and of another address.
        """
        rows = self.rows
        begun: NDArray[np.bool_] = rows.low[place] == low
        begun &= rows.high[place] == high
        begun &= rows.from_ns[place] <= at_ns
        return begun


def _table(owners: Sequence[Owner], rows: AddressRows) -> AddressTable:
    """Make a table of rows in any order, but with the latest row of each address first."""
    buckets = 1 << max(8, int(len(rows.high) / _ROWS_A_BUCKET).bit_length())
    bucket = _buckets(rows.high, rows.low, buckets)
    starts = np.zeros(buckets + 1, np.int32)
    np.cumsum(np.bincount(bucket, minlength=buckets), out=starts[1:])
    sorted_rows = rows.take(np.argsort(bucket, kind="stable"))
    return AddressTable(owners, _joined(sorted_rows, _SENTINEL), starts)


def _joined(*parts: AddressRows) -> AddressRows:
    return AddressRows._make(np.concatenate(columns) for columns in zip(*parts, strict=True))


def _buckets(high: NDArray[np.uint64], low: NDArray[np.uint64], buckets: int) -> NDArray[np.int64]:
    mixed = high * _MULTIPLIERS[0] + low * _MULTIPLIERS[1]
    bucket: NDArray[np.int64] = (mixed >> np.uint64(65 - buckets.bit_length())).view(np.int64)
    return bucket


class ClaimBook:
    """The present claims, by the key of their source; for one thread.

    ``first`` are owners that get the first indexes: those of networks.
    """

    def __init__(self, first: Sequence[Owner] = ()) -> None:
        self._first = tuple(first)
        self._claimed: dict[Hashable, tuple[Claim, ...]] = {}
        self._claims: dict[int, tuple[tuple[Hashable, Claim], ...]] = {}  # by address
        self._ended: set[Hashable] = set()  # keys of claims some of which have an end
        self._changed: set[int] = set()  # addresses, since the table was made
        self._number(())
        self._table = _table(self._owners, _SENTINEL.take(slice(0)))

    def put(self, key: Hashable, claims: Iterable[Claim]) -> None:
        """Replace the claims of ``key``; an empty list removes them."""
        fresh = tuple(claims)
        before = self._claimed.get(key, ())
        if fresh == before:
            return
        by_address: dict[int, list[tuple[Hashable, Claim]]] = {c.address: [] for c in before}
        for claim in fresh:
            by_address.setdefault(claim.address, []).append((key, claim))
        for address, new in by_address.items():
            others = [each for each in self._claims.get(address, ()) if each[0] != key]
            self._claims[address] = (*others, *new)
            if not self._claims[address]:
                del self._claims[address]
        self._changed.update(by_address)
        self._claimed[key] = fresh
        if not fresh:
            del self._claimed[key]
        self._ended.discard(key)
        if any(claim.until_ns != FOREVER for claim in fresh):
            self._ended.add(key)

    def forget(self, before_ns: int) -> None:
        """Drop the claims that ended by ``before_ns``: no look-ups ask about earlier times."""
        for key in list(self._ended):
            claims = self._claimed[key]
            if any(claim.until_ns <= before_ns for claim in claims):
                self.put(key, [claim for claim in claims if claim.until_ns > before_ns])

    def claims(self, address: int) -> list[Claim]:
        """Return the resolved claims to an address, oldest first, as look-ups see them."""
        return [Claim(address, i.owner, i.from_ns, i.until_ns) for i in self._resolved(address)]

    def claimed(self, address: int) -> list[Claim]:
        """Return all claims to an address as they were made."""
        return [claim for _, claim in self._claims.get(address, ())]

    def table(self) -> AddressTable:
        """Return the table of present claims; the same object until they change."""
        if self._changed:
            fresh = [
                (address, interval)
                for address in self._changed
                for interval in reversed(self._resolved(address))
            ]
            changed = _halves(self._changed)
            rows = _joined(self._rows(fresh), self._table.without(*changed))
            self._changed = set()
            # What others keep by owner is kept for former ones, too: so not for many.
            if len(self._owners) > len(rows.owner) * 5 // 4 + len(self._first) + _SPARE_OWNERS:
                rows = self._renumbered(rows)
            self._table = _table(self._owners, rows)
        return self._table

    def _resolved(self, address: int) -> list[Interval]:
        return resolve(claim for _, claim in self._claims.get(address, ()))

    def _rows(self, intervals: list[tuple[int, Interval]]) -> AddressRows:
        return AddressRows(
            *_halves([address for address, _ in intervals]),
            np.array([interval.from_ns for _, interval in intervals], np.int64),
            np.array([interval.until_ns for _, interval in intervals], np.int64),
            np.array([self._index_of(interval.owner) for _, interval in intervals], np.int64),
        )

    def _index_of(self, owner: Owner) -> int:
        index = self._index.setdefault(owner, len(self._owners))
        if index == len(self._owners):
            self._owners.append(owner)
        return index

    def _number(self, owners: Iterable[Owner]) -> None:
        """Start a new list of owners, so that former ones are released."""
        self._owners: list[Owner] = []
        self._index: dict[Owner, int] = {}
        for owner in (*self._first, *owners):
            self._index_of(owner)

    def _renumbered(self, rows: AddressRows) -> AddressRows:
        used, place = np.unique(rows.owner, return_inverse=True)
        owners = [self._owners[i] for i in used.tolist()]
        self._number(owners)
        return rows._replace(owner=np.array([self._index[o] for o in owners], np.int64)[place])


def _halves(addresses: Collection[int]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    high = np.array([address >> 64 for address in addresses], np.uint64)
    return high, np.array([address & _WORD for address in addresses], np.uint64)
