# SPDX-License-Identifier: Apache-2.0
"""Connections that are to be attributed, and what the connection tracker knows of them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.connections import ConnectionColumns
from podtally.ledger.epoch_context import EpochContext, no_translations
from podtally.ledger.shares import rank
from podtally.netlink.conntrack import Translations, Tuples

MAX_TRACKED = 2048  # connections of one interface, in one batch, that the tracker is asked about
_BARE_SEGMENT = 120  # bytes: Ethernet, IPv6, TCP and its options


class NewConnections(NamedTuple):
    """Connections to be attributed; index i of every array is the same one."""

    key: NDArray[np.void]  # KEY
    began: NDArray[np.uint8]
    at_ns: NDArray[np.int64]  # their first packet
    seen: NDArray[np.uint64]  # as in ConnectionColumns
    sent: NDArray[np.int64]  # packets from the endpoint
    has_data: NDArray[np.bool_]  # more than headers

    def take(self, index: NDArray[np.bool_] | NDArray[np.int64] | slice) -> "NewConnections":
        return NewConnections._make(column[index] for column in self)


def new_connections(columns: ConnectionColumns) -> NewConnections:
    return NewConnections(
        key=columns.key,
        began=columns.began,
        at_ns=columns.first_ns,
        seen=columns.seen,
        sent=columns.packets[:, 0],
        has_data=carries_data(columns.bytes, columns.packets),
    )


def carries_data(bytes_: NDArray[np.int64], packets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether packets (n, 2) are larger, on average, than TCP's headers. (n,)"""
    larger: NDArray[np.bool_] = bytes_.sum(axis=1) > _BARE_SEGMENT * packets.sum(axis=1)
    return larger


def tracked(key: NDArray[np.void], context: EpochContext) -> Translations:
    """Return what the connection tracker knows of connections (n,). It is asked about at most
    MAX_TRACKED of each interface; the others count as not found.
    """
    rows = np.flatnonzero(rank(key["ifindex"].astype(np.int64)) < MAX_TRACKED)
    if len(rows) == len(key):
        return context.translate(tracker_tuples(key))
    some, found = context.translate(tracker_tuples(key[rows])), no_translations(tracker_tuples(key))
    found.found[rows], found.address[rows], found.port[rows] = some
    return found


def tracker_tuples(key: NDArray[np.void]) -> Tuples:
    """Return what the endpoints sent, as the connection tracker's tuples."""
    return Tuples(
        key["local_address"],
        key["remote_address"],
        key["local_port"],
        key["remote_port"],
        key["protocol"],
    )


def reversed_keys(key: NDArray[np.void]) -> NDArray[np.void]:
    """Return the keys of the same connections with local and remote exchanged."""
    other = key.copy()
    for one, two in (("local_address", "remote_address"), ("local_port", "remote_port")):
        other[one], other[two] = key[two], key[one]
    return other
