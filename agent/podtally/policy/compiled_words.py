"""Connections as one end sees them, and the four words that each is remembered by."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.policy.compiled_parties import ENDS

Words = NDArray[np.uint64]  # (n, WORDS)

WORDS = 4

_32, _24, _8 = np.uint64(32), np.uint64(24), np.uint64(8)


class Connections(NamedTuple):
    """Index i of every array is the same connection."""

    local: NDArray[np.int32]  # the end that is judged: a party's number
    peer: NDArray[np.int32]  # or ADDRESS_PARTY, UNKNOWN_PARTY
    high: NDArray[np.uint64]  # the peer's address, 128 bits in two words; 0: not known
    low: NDArray[np.uint64]
    protocol: NDArray[np.int32]
    port: NDArray[np.int32]  # the destination's own; 0 to 65535
    is_egress: NDArray[np.bool_]  # whether the local end began it


class Unpacked(NamedTuple):
    """Local and peer are rows of ``Parties``."""

    local: NDArray[np.int64]
    peer: NDArray[np.int64]
    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    protocol: NDArray[np.int32]
    port: NDArray[np.int32]
    is_egress: NDArray[np.bool_]


def packed(connections: Connections) -> Words:
    words = np.empty((len(connections.local), WORDS), np.uint64)
    local = connections.local.astype(np.int64) + ENDS
    words[:, 0] = local << 32 | (connections.peer.astype(np.int64) + ENDS)
    words[:, 1], words[:, 2] = connections.high, connections.low
    protocol = connections.protocol.astype(np.int64)
    words[:, 3] = protocol << 24 | connections.port.astype(np.int64) << 8 | connections.is_egress
    return words


def unpacked(words: Words) -> Unpacked:
    ends, how = words[:, 0], words[:, 3]
    return Unpacked(
        (ends >> _32).astype(np.int64),
        (ends & np.uint64(0xFFFFFFFF)).astype(np.int64),
        words[:, 1],
        words[:, 2],
        (how >> _24).astype(np.int32),
        (how >> _8 & np.uint64(0xFFFF)).astype(np.int32),
        (how & np.uint64(1)).astype(np.bool_),
    )


def different(words: Words) -> tuple[Words, NDArray[np.int64]]:
    """Each once, and which of those every row is."""
    keys = np.ascontiguousarray(words).view(np.dtype((np.void, WORDS * 8))).ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return words[first], inverse.ravel()
