# SPDX-License-Identifier: Apache-2.0
"""On the host's own interfaces: whose socket a connection is, by its cgroup, and what only passes.

What the kernel noted in the row decides where it can. What came in and was never answered
says only whether some socket takes it: then the kernel is asked which.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.connections import Flags
from podtally.ledger.epoch_context import EpochContext
from podtally.ledger.new_connections import NewConnections, reversed_keys, tracker_tuples
from podtally.ledger.ownership import is_one_hosts
from podtally.ledger.peers import PeerFinder

_IGMP = 2  # what the kernel reports of its own groups has no socket, and is never forwarded


class Sockets(NamedTuple):
    """``cgroup`` (n,) of the host's socket, 0: the kernel itself; ``passing`` (n,): not ours."""

    cgroup: NDArray[np.int64]
    passing: NDArray[np.bool_]


def of(flows: NewConnections, present: EpochContext, remotes: PeerFinder, flags: Flags) -> Sockets:
    """Of connections on interfaces that several endpoints share. (n,)"""
    key = flows.key
    cgroup = key["cgroup_high"].astype(np.int64) << 32 | key["cgroup_low"]
    nobody = np.zeros(len(key), np.bool_)
    if not flags.socket:  # programs that did not look
        return Sockets(cgroup, nobody)
    unsaid = (cgroup == 0) & (flows.seen & np.uint64(flags.socket) == 0)
    silent = (flows.sent == 0) & (key["first_direction"] != 0)
    # What leaves without a socket was not made here.
    passing = unsaid & ~silent & (key["protocol"] != _IGMP)
    came = np.flatnonzero(unsaid & silent)
    if len(came):
        some = flows.take(came)
        taken = some.seen & np.uint64(flags.socket << flags.shift) != 0
        passing[came] = ~taken & _sent_on(some, present, remotes)
        asked = some.key[taken]
        cgroup[came[taken]] = present.sockets(tracker_tuples(asked), asked["ifindex"])
    return Sockets(cgroup, passing)


def elsewhere(
    flows: NewConnections, found: Sockets, present: EpochContext, remotes: PeerFinder
) -> NDArray[np.bool_]:
    """Return which sockets are of another network namespace on the same link (macvlan, ipvlan):
    their addresses are none of the host's. (n,)
    """
    chosen = (found.cgroup > 0) & is_one_hosts(flows.key["local_address"])
    rows = np.flatnonzero(chosen)
    for at_ns in (flows.at_ns, np.full(len(chosen), present.now_ns)):
        own = remotes.is_host(present.names, flows.key["local_address"][rows], at_ns[rows])
        rows = rows[~own]
    chosen[:] = False
    chosen[rows] = True
    return chosen


def _sent_on(
    flows: NewConnections, present: EpochContext, remotes: PeerFinder
) -> NDArray[np.bool_]:
    """What no socket takes: it is for another address, or for a port that leads to one."""
    key = flows.key
    own = remotes.is_host(present.names, key["local_address"], flows.at_ns)
    translated = present.translate(tracker_tuples(reversed_keys(key)))
    elsewhere = translated.found & (translated.address != key["local_address"]).any(axis=1)
    sent_on: NDArray[np.bool_] = ~own | elsewhere
    return sent_on
