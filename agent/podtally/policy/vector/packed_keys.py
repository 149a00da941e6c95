# SPDX-License-Identifier: Apache-2.0
"""Connections as one end sees them, and the four words that each is remembered by."""

import os
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.policy.vector.endpoints import RESERVED_ROWS

Keys = NDArray[np.uint64]  # (n, WORDS)

KEY_WORDS = 4

# Secret, so that nobody can choose connections that all fall into one place.
_SECRETS = np.frombuffer(os.urandom(8 * (KEY_WORDS + 1)), np.uint64) | np.uint64(1)

_32, _24, _8 = np.uint64(32), np.uint64(24), np.uint64(8)


class PackedConnections(NamedTuple):
    """Index i of every array is the same connection."""

    local: NDArray[np.int32]  # the end that is judged: a party's number
    peer: NDArray[np.int32]  # or ADDRESS_INDEX, UNKNOWN_INDEX
    high: NDArray[np.uint64]  # the peer's address, 128 bits in two words; 0: not known
    low: NDArray[np.uint64]
    protocol: NDArray[np.int32]
    port: NDArray[np.int32]  # the destination's own, 0 to 65535; 0: see rules.Asked
    is_egress: NDArray[np.bool_]  # whether the local end began it


class UnpackedKeys(NamedTuple):
    """Local and peer are rows of ``Parties``."""

    local: NDArray[np.int64]
    peer: NDArray[np.int64]
    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    protocol: NDArray[np.int32]
    port: NDArray[np.int32]
    is_egress: NDArray[np.bool_]


def pack_keys(connections: PackedConnections) -> Keys:
    words = np.empty((len(connections.local), KEY_WORDS), np.uint64)
    local = connections.local.astype(np.int64) + RESERVED_ROWS
    words[:, 0] = local << 32 | (connections.peer.astype(np.int64) + RESERVED_ROWS)
    words[:, 1], words[:, 2] = connections.high, connections.low
    protocol = connections.protocol.astype(np.int64)
    words[:, 3] = protocol << 24 | connections.port.astype(np.int64) << 8 | connections.is_egress
    return words


def endpoint_rows(words: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Local and peer, as rows of ``Parties``."""
    both = words[:, 0]
    return (both >> _32).astype(np.int64), (both & np.uint64(0xFFFFFFFF)).astype(np.int64)


def unpack_keys(words: Keys) -> UnpackedKeys:
    how = words[:, 3]
    return UnpackedKeys(
        *endpoint_rows(words),
        words[:, 1],
        words[:, 2],
        (how >> _24).astype(np.int32),
        (how >> _8 & np.uint64(0xFFFF)).astype(np.int32),
        (how & np.uint64(1)).astype(np.bool_),
    )


def unique_rows(words: Keys) -> tuple[Keys, NDArray[np.int64]]:
    """Each once, and which of those every row is."""
    _, first, inverse = np.unique(hashes(words), return_index=True, return_inverse=True)
    unique, inverse = words[first], inverse.ravel()
    if not np.array_equal(unique[inverse], words):  # two have one hash
        unique, inverse = np.unique(words, axis=0, return_inverse=True)
    return unique, inverse.ravel()


def hashes(words: Keys) -> NDArray[np.uint64]:
    """(n,); a chain of multiplications, so that no structure of the words is left."""
    mixed = np.zeros(len(words), np.uint64)
    for column, secret in enumerate(_SECRETS[:KEY_WORDS]):
        mixed ^= words[:, column]
        mixed *= secret
        mixed ^= mixed >> _32
    mixed *= _SECRETS[KEY_WORDS]
    return mixed
