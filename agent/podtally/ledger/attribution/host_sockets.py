# SPDX-License-Identifier: Apache-2.0
"""On the host's own interfaces: find each connection's socket by its cgroup, and recognise
forwarded traffic.

What the kernel noted in the row decides where it can. For inbound packets that were never
answered it notes only that some socket receives them: then the kernel is queried.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.arrays.packed_fields import PackedFields
from podtally.ledger.attribution.ownership import is_unicast
from podtally.ledger.connections.connections import Flags
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.connections.new_connections import (
    NewConnections,
    reversed_keys,
    tracker_tuples,
)
from podtally.ledger.peers.peers import PeerFinder

CGROUP = PackedFields(high=16, low=32)  # a cgroup's id as a flow's key keeps it
_IGMP = 2  # membership reports of the kernel have no socket, and are never forwarded


class Sockets(NamedTuple):
    """Of connections (n,)."""

    cgroup: NDArray[np.int64]  # of the host's socket; 0: the kernel itself
    forwarded: NDArray[np.bool_]  # between others


def find_sockets(
    flows: NewConnections, context: EpochContext, peers: PeerFinder, flags: Flags
) -> Sockets:
    """Return the sockets of connections on interfaces that endpoints share. (n,)"""
    key = flows.key
    cgroup = CGROUP.pack(high=key["cgroup_high"], low=key["cgroup_low"])
    if not flags.socket:  # programs that do not look for sockets
        return Sockets(cgroup, np.zeros(len(key), np.bool_))
    no_socket = (cgroup == 0) & (flows.seen & np.uint64(flags.socket) == 0)
    silent = (flows.sent == 0) & (key["first_direction"] != 0)
    # What leaves without a socket was not sent by this host.
    forwarded = no_socket & ~silent & (key["protocol"] != _IGMP)
    inbound = np.flatnonzero(no_socket & silent)
    if len(inbound):
        some = flows.take(inbound)
        received = some.seen & np.uint64(flags.socket << flags.shift) != 0
        forwarded[inbound] = ~received & _is_forwarded(some, context, peers)
        keys = some.key[received]
        cgroup[inbound[received]] = context.sockets(tracker_tuples(keys), keys["ifindex"])
    return Sockets(cgroup, forwarded)


def in_other_namespace(
    flows: NewConnections, sockets: Sockets, context: EpochContext, peers: PeerFinder
) -> NDArray[np.bool_]:
    """Return which sockets are in another network namespace on the same link (macvlan, ipvlan):
    their addresses are not the host's. (n,)
    """
    chosen = (sockets.cgroup > 0) & is_unicast(flows.key["local_address"])
    rows = np.flatnonzero(chosen)
    for at_ns in (flows.at_ns, np.full(len(chosen), context.now_ns)):
        own = peers.is_host(context.names, flows.key["local_address"][rows], at_ns[rows])
        rows = rows[~own]
    chosen[:] = False
    chosen[rows] = True
    return chosen


def _is_forwarded(
    flows: NewConnections, context: EpochContext, peers: PeerFinder
) -> NDArray[np.bool_]:
    """Return which inbound packets without a socket are for another address, or for a port that
    is translated to one. (n,)
    """
    key = flows.key
    own = peers.is_host(context.names, key["local_address"], flows.at_ns)
    translated = context.translate(tracker_tuples(reversed_keys(key)))
    is_changed = translated.found & (translated.address != key["local_address"]).any(axis=1)
    forwarded: NDArray[np.bool_] = ~own | is_changed
    return forwarded
