# SPDX-License-Identifier: Apache-2.0
"""Verdict cache: connections packed into keys of four words, each with its outcome number.

Open addressing in flat arrays, so a million lookups are a few gathers.
"""

import os
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.arrays.packed_fields import PackedFields
from podtally.dns.candidates import NO_NAME_COLUMN, NameColumn

RESERVED_ROWS = 2  # rows before the endpoints: unidentified, address only


ADDRESS_INDEX, UNKNOWN_INDEX = -1, -2  # their numbers


Keys = NDArray[np.uint64]  # (n, WORDS)


KEY_WORDS = 4


# Secret, so that connections cannot be chosen to collide.
_SECRETS = np.frombuffer(os.urandom(8 * (KEY_WORDS + 1)), np.uint64) | np.uint64(1)


_ROWS = PackedFields(local=31, peer=32)
_HOW = PackedFields(protocol=8, port=16, is_egress=1, names=20)
_32 = np.uint64(32)


class PackedConnections(NamedTuple):
    """Index i of every array is the same connection."""

    local: NDArray[np.int32]  # number of the endpoint under judgement
    peer: NDArray[np.int32]  # or ADDRESS_INDEX, UNKNOWN_INDEX
    high: NDArray[np.uint64]  # the peer's address, 128 bits in two words; 0: unknown
    low: NDArray[np.uint64]
    protocol: NDArray[np.int32]
    port: NDArray[np.int32]  # the destination's own, 0 to 65535; 0: see rules.Asked
    is_egress: NDArray[np.bool_]  # whether the local endpoint opened it
    names: NameColumn = NO_NAME_COLUMN  # of the peers, as the local endpoint found them


class UnpackedKeys(NamedTuple):
    """As PackedConnections, with local and peer as rows of ``EndpointTable``."""

    local: NDArray[np.int64]
    peer: NDArray[np.int64]
    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    protocol: NDArray[np.int32]
    port: NDArray[np.int32]
    is_egress: NDArray[np.bool_]
    names: NDArray[np.int32]  # a class of ``NameClasses``


def pack_keys(connections: PackedConnections) -> Keys:
    """Pack connections without the names of their peers."""
    words = np.empty((len(connections.local), KEY_WORDS), np.uint64)
    words[:, 0] = _ROWS.pack(
        local=connections.local.astype(np.int64) + RESERVED_ROWS,
        peer=connections.peer.astype(np.int64) + RESERVED_ROWS,
    )
    words[:, 1], words[:, 2] = connections.high, connections.low
    words[:, 3] = _HOW.pack(
        protocol=connections.protocol,
        port=connections.port,
        is_egress=connections.is_egress,
    )
    return words


def with_names(words: Keys, names: NDArray[np.int32]) -> Keys:
    """Return keys from ``pack_keys`` with classes of names, (n,)."""
    found = words.copy()
    found[:, 3] |= _HOW.pack(names=names).astype(np.uint64)
    return found


def endpoint_rows(words: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return local and peer as rows of ``EndpointTable``."""
    rows = words[:, 0].astype(np.int64)
    return _ROWS.get("local", rows), _ROWS.get("peer", rows)


def unpack_keys(words: Keys) -> UnpackedKeys:
    how = words[:, 3].astype(np.int64)
    return UnpackedKeys(
        *endpoint_rows(words),
        words[:, 1],
        words[:, 2],
        _HOW.get("protocol", how).astype(np.int32),
        _HOW.get("port", how).astype(np.int32),
        _HOW.get("is_egress", how).astype(np.bool_),
        _HOW.get("names", how).astype(np.int32),
    )


def unique_rows(words: Keys) -> tuple[Keys, NDArray[np.int64]]:
    """Return the distinct rows, and the index of each row among them."""
    _, first, inverse = np.unique(hashes(words), return_index=True, return_inverse=True)
    unique, inverse = words[first], inverse.ravel()
    if not np.array_equal(unique[inverse], words):  # hash collision
        unique, inverse = np.unique(words, axis=0, return_inverse=True)
    return unique, inverse.ravel()


def hashes(words: Keys) -> NDArray[np.uint64]:
    """Return hashes, (n,): a chain of multiplications that leaves no structure of the words."""
    mixed = np.zeros(len(words), np.uint64)
    for column, secret in enumerate(_SECRETS[:KEY_WORDS]):
        mixed ^= words[:, column]
        mixed *= secret
        mixed ^= mixed >> _32
    mixed *= _SECRETS[KEY_WORDS]
    return mixed


Numbers = NDArray[np.int32]


MISSING = -1


_MAX_SLOTS = 1 << 19  # 19 MiB; a table that would grow beyond is emptied first


_FIRST_SLOTS = 1 << 12


_CHUNK = 1 << 15  # rows, so that what is done with them stays in the second-level cache


class VerdictCache:
    def __init__(self) -> None:
        self._empty(_FIRST_SLOTS)

    def __len__(self) -> int:
        return self._used

    def find(self, words: Keys) -> Numbers:
        """Return outcome numbers, (n,); MISSING if not cached."""
        found = np.empty(len(words), np.int32)
        for start in range(0, len(words), _CHUNK):
            part = words[start : start + _CHUNK]
            slots = self._slots(part, _places(part))
            found[start : start + _CHUNK] = np.where(slots < 0, MISSING, self._numbers[slots])
        return found

    def put(self, words: Keys, numbers: Numbers) -> None:
        """Store outcomes of distinct connections, replacing older ones."""
        self._make_room(len(words))
        places = _places(words)
        slots = self._slots(words, places)
        known = slots >= 0
        self._numbers[slots[known]] = numbers[known]
        self._insert(words[~known], places[~known], numbers[~known])

    def known(self) -> NDArray[np.int64]:
        """Return the slots in use, for ``words`` and ``forget``."""
        return np.flatnonzero(self._numbers != MISSING)

    def words(self, slots: NDArray[np.int64]) -> Keys:
        return self._words[slots]

    def forget(self, slots: NDArray[np.int64]) -> None:
        """Forget outcomes; the slots stay reserved for the same connections."""
        self._numbers[slots] = MISSING

    def clear(self) -> None:
        self._empty(_FIRST_SLOTS)

    def _empty(self, slots: int) -> None:
        self._used = 0
        self._mask = slots - 1
        self._taken = np.zeros(slots, np.bool_)
        self._words = np.zeros((slots, KEY_WORDS), np.uint64)
        self._numbers = np.full(slots, MISSING, np.int32)

    def _slots(self, words: Keys, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the slots; -1 if not cached."""
        places = wanted & self._mask
        found = np.where(self._taken[places], places, -1)
        open_ = np.flatnonzero((self._words[places] != words).any(axis=1) & (found >= 0))
        while len(open_):
            places[open_] = (places[open_] + 1) & self._mask
            at = places[open_]
            taken, equal = self._taken[at], (self._words[at] == words[open_]).all(axis=1)
            found[open_] = np.where(taken & equal, at, -1)
            open_ = open_[taken & ~equal]
        return found

    def _insert(self, words: Keys, wanted: NDArray[np.int64], numbers: Numbers) -> None:
        places, left = wanted & self._mask, np.arange(len(words))
        self._used += len(words)
        while len(left):
            at = places[left]
            free = ~self._taken[at]
            # Of those that want the same free slot the first gets it.
            _, first = np.unique(at[free], return_index=True)
            winners = np.flatnonzero(free)[first]
            slots, rows = at[winners], left[winners]
            self._taken[slots] = True
            self._words[slots], self._numbers[slots] = words[rows], numbers[rows]
            left = np.delete(left, winners)
            places[left] = np.where(
                self._taken[places[left]], (places[left] + 1) & self._mask, places[left]
            )

    def _make_room(self, more: int) -> None:
        """Grow so that at most half of the slots are in use."""
        if 2 * (self._used + more) <= self._mask + 1:
            return
        kept = self._taken & (self._numbers != MISSING)
        count = int(np.count_nonzero(kept)) + more
        if 2 * count > _MAX_SLOTS:
            kept[:] = False
            count = more
        words, numbers = self._words[kept], self._numbers[kept]
        self._empty(max(_FIRST_SLOTS, 1 << (2 * count - 1).bit_length()))
        self._insert(words, _places(words), numbers)


def _places(words: Keys) -> NDArray[np.int64]:
    """The upper bits of the hashes, which every bit of the words has reached."""
    return (hashes(words) >> np.uint64(20)).view(np.int64)
