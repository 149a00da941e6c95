# SPDX-License-Identifier: Apache-2.0
"""Connections without labels yet, and what the connection tracker knows of them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.connections.connections import ConnectionColumns
from podtally.ledger.connections.epoch_context import EpochContext, no_translations
from podtally.ledger.series.shares import rank
from podtally.netlink.conntrack import Translations, Tuples

MAX_TRACKED = 2048  # connections of one interface, in one batch, that are looked up in the tracker
_BARE_IPV4, _BARE_IPV6 = 14 + 20 + 20, 14 + 40 + 20  # bytes: Ethernet, IP, TCP without options
_OPTIONS = 200  # bytes: those of a few segments; timestamps are 12 in each


class NewConnections(NamedTuple):
    """Connections to be attributed; index i of every array is the same one."""

    key: NDArray[np.void]  # KEY
    initiator: NDArray[np.uint8]
    at_ns: NDArray[np.int64]  # their first packet
    seen: NDArray[np.uint64]  # as in ConnectionColumns
    sent: NDArray[np.int64]  # packets from the endpoint
    has_data: NDArray[np.bool_]  # more than headers
    domain: NDArray[np.int32]  # number in PeerDomains, or NOT_LOOKED_UP: then it is written

    def take(self, index: NDArray[np.bool_] | NDArray[np.int64] | slice) -> "NewConnections":
        return NewConnections._make(column[index] for column in self)


def new_connections(columns: ConnectionColumns) -> NewConnections:
    return NewConnections(
        key=columns.key,
        initiator=columns.initiator,
        at_ns=columns.first_ns,
        seen=columns.seen,
        sent=columns.packets[:, 0],
        has_data=carries_data(columns.key, columns.bytes, columns.packets),
        domain=columns.domain,
    )


def carries_data(
    key: NDArray[np.void], bytes_: NDArray[np.int64], packets: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return whether either side sent more than TCP's headers: bytes and packets are (n, 2). (n,)

    What is beyond the smallest headers is summed by side, so no number of bare segments, and
    none of the other side, makes up for data. A few segments may have options.
    """
    is_ipv4 = key["local_address"][:, 0] == 0
    headers = np.where(is_ipv4, _BARE_IPV4, _BARE_IPV6)[:, None]
    beyond: NDArray[np.bool_] = np.logical_or.reduce(bytes_ - headers * packets > _OPTIONS, axis=1)
    return beyond


def may_carry_data(bytes_: NDArray[np.int64], packets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return where ``carries_data`` may be true, without looking at keys. (n,)"""
    beyond = bytes_ - _BARE_IPV4 * packets > _OPTIONS
    may: NDArray[np.bool_] = beyond[:, 0] | beyond[:, 1]
    return may


def tracked(key: NDArray[np.void], context: EpochContext) -> Translations:
    """Return what the connection tracker knows of connections (n,). It is queried for at most
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
