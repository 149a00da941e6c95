# SPDX-License-Identifier: Apache-2.0
"""Find events by fixed-size keys.

Keys are compared by a secret 64-bit hash, so that arrays can
handle a flood of new ones; beyond an endpoint's share one key stands for many.
"""

import os

import numpy as np
from numpy.typing import NDArray

from podtally.arrays.distinct import distinct_rows
from podtally.arrays.packed_fields import PackedFields
from podtally.ledger.series.shares import Shares, beyond

ANY_PORT, ANY_PEER = 1, 2  # of a key that stands for many

KEY = np.dtype(
    [
        ("address", "u8", (2,)),
        ("endpoint", "i4"),
        ("owner", "i4"),
        ("judgement", "i4"),
        ("outcome", "i4"),
        ("port", "i4"),
        ("domain", "i4"),  # of the peer: number in PeerDomains
        ("pad", "i4"),
        ("protocol", "u1"),
        ("opened", "u1"),
        ("foreign", "u1"),  # sent from an address that is not the endpoint's
        ("many", "u1"),
    ]
)
_ENDPOINT = PackedFields(endpoint=29, judgement=32, opened=2)  # what has a share of its own
_WORDS = KEY.itemsize // 8
_SECRET = np.frombuffer(os.urandom(8 * _WORDS), np.uint64) | np.uint64(1)

Keys = NDArray[np.void]  # KEY
Hashes = NDArray[np.uint64]


def hashed(keys: Keys) -> Hashes:
    """Return a hash of each key. (n,)"""
    words = np.ascontiguousarray(keys).view(np.uint64).reshape(-1, _WORDS)
    mixed = np.zeros(len(words), np.uint64)
    for word, secret in zip(words.T, _SECRET, strict=True):
        mixed = (mixed ^ word) * secret
        mixed ^= mixed >> np.uint64(32)
        mixed *= secret
        mixed ^= mixed >> np.uint64(29)
    return mixed


class KnownKeys:
    """Keys with the numbers of their events; valid until names or judgements change."""

    def __init__(self) -> None:
        self._hashes = np.zeros(0, np.uint64)  # ascending
        self._numbers = np.zeros(0, np.int64)  # of each
        # Ascending as well, one for each key: its endpoint, and its peer.
        self._endpoints = np.zeros(0, np.int64)
        self._peers = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, hashes: Hashes) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the events of keys, and which of them are known. (n,) each"""
        place = np.searchsorted(self._hashes, hashes)
        inside = np.flatnonzero(place < len(self._hashes))
        known = np.zeros(len(hashes), np.bool_)
        known[inside] = self._hashes[place[inside]] == hashes[inside]
        number = np.zeros(len(hashes), np.int64)
        number[known] = self._numbers[place[known]]
        return number, known

    def add(self, hashes: Hashes, keys: Keys, numbers: NDArray[np.int64]) -> None:
        every = np.concatenate([self._hashes, hashes])
        order = np.argsort(every)
        self._hashes = every[order]
        self._numbers = np.concatenate([self._numbers, numbers])[order]
        self._endpoints = np.sort(np.concatenate([self._endpoints, _endpoints(keys)]))
        self._peers = np.sort(np.concatenate([self._peers, _peers(keys)]))

    def shared(self, keys: Keys, shares: Shares) -> Keys:
        """Return new keys; those beyond their endpoint's share become keys that stand for many."""
        if len(keys) <= min(shares.most, shares.by_peer):
            return keys
        keys = keys.copy()
        many = beyond(_peers(keys), self._peers, shares.by_peer)
        for name in ("port", "protocol", "outcome"):
            keys[name][many] = 0
        keys["many"][many] = ANY_PORT
        hashes = hashed(keys)
        row, place = distinct_rows(hashes.view(np.int64))
        keys = keys[row]
        new = np.flatnonzero(~self.find(hashes[row])[1])
        rows = new[beyond(_endpoints(keys[new]), self._endpoints, shares.most)]
        for name in ("port", "protocol", "outcome", "owner", "address", "domain"):
            keys[name][rows] = 0
        keys["many"][rows] = ANY_PEER
        return keys[place]


def _endpoints(keys: Keys) -> NDArray[np.int64]:
    return _ENDPOINT.pack(
        endpoint=keys["endpoint"], judgement=keys["judgement"], opened=keys["opened"]
    )


def _peers(keys: Keys) -> NDArray[np.int64]:
    only = np.zeros(len(keys), KEY)
    for name in ("endpoint", "judgement", "opened", "owner", "address", "domain"):
        only[name] = keys[name]
    return hashed(only).view(np.int64)
