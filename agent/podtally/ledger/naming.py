"""Finds the accounts of many connections at once: who is at both ends, whose port it is.

Where a name may still come, a connection waits under its interface's waiting account;
once patience has run out, it is booked under `unknown`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.identity.model import NOBODY, Endpoint
from podtally.identity.table import Names
from podtally.ledger import sockets
from podtally.ledger.accounts import Account, Accounts, forwarded, server_port, waiting
from podtally.ledger.connections import Flags
from podtally.ledger.interfaces import Interfaces
from podtally.ledger.remotes import (
    UNKNOWN_PEER,
    Flows,
    Found,
    Present,
    Remote,
    Remotes,
)

# Connections that differ in no label, as one number: who is here (his place among those
# of the batch), who is there, whether their names came too late, port and protocol.
_PROTOCOL_BITS, _PORT_BITS, _THERE_BITS = 8, 17, 24
_LATE_SHIFT = _PROTOCOL_BITS + _PORT_BITS
_THERE_SHIFT = _LATE_SHIFT + 1
_HERE_SHIFT = _THERE_SHIFT + _THERE_BITS
_LOWEST_PORT = -1  # UNKNOWN_PORT, so that what is packed is never negative
_CGROUP_BITS = 48


class Here(NamedTuple):
    """Who is at our end: ``who`` (n,) are places in ``whos``, each with its interface's slot."""

    whos: list[tuple[int, Endpoint]]
    who: NDArray[np.int64]
    final: NDArray[np.bool_]
    passing: NDArray[np.bool_]  # through an uplink, from and to others


class Naming:
    """Over the interfaces and accounts of one ledger."""

    def __init__(
        self, interfaces: Interfaces, accounts: Accounts, flags: Flags, patience_ns: int
    ) -> None:
        self._interfaces = interfaces
        self._accounts = accounts
        self._flags = flags
        self.patience_ns = patience_ns
        self._remotes = Remotes()
        self._unknown_cgroups: set[int] = set()
        self.came_too_late = 0  # connections booked under `unknown` after their wait

    def take_unknown_cgroups(self) -> set[int]:
        """Cgroups that were met since this was last asked and are not in the table of names."""
        taken, self._unknown_cgroups = self._unknown_cgroups, set()
        return taken

    def accounts_of(self, flows: Flows, present: Present, wait: bool = True) -> NDArray[np.int64]:
        """Accounts of connections; the loop is over what differs in a label. (n,)

        ``wait`` is False for those that are booked already, and cannot wait any more.
        """
        slot = self._interfaces.slots(flows.key["ifindex"].astype(np.int64))
        here = self._here(slot, flows, present)
        there = self._remotes.find(flows, present)
        waits = np.zeros(len(slot), np.bool_)
        if wait:
            waits = self._waits(here, there, flows, present.now_ns)
        account = np.empty(len(slot), np.int64)
        for rows, make in ((waits, waiting), (here.passing, forwarded)):
            if rows.any():
                account[rows] = self._one_a_slot(slot[rows], make, present.now_ns)
        rest = np.flatnonzero(~(waits | here.passing))
        packed = (
            here.who[rest] << _HERE_SHIFT
            | there.kind[rest] << _THERE_SHIFT
            | (~there.final[rest]).astype(np.int64) << _LATE_SHIFT
            | _port_protocol(flows.began[rest], flows.key[rest])
        )
        different, index = np.unique(packed, return_inverse=True)
        accounts = [
            self._accounts.index_of(self._account(each, here, there.kinds), present.now_ns)
            for each in different.tolist()
        ]
        account[rest] = np.array(accounts, np.int64)[index]
        return account

    def _waits(self, here: Here, there: Found, flows: Flows, now_ns: int) -> NDArray[np.bool_]:
        """Whose names may still come. (n,)

        How long an endpoint may go without one is the directory's to say, which then calls
        it final; twice our patience is only the bound of that.
        """
        patience = np.where(here.final, self.patience_ns, 2 * self.patience_ns)
        unnamed = ~(here.final & there.final | here.passing)
        waits: NDArray[np.bool_] = unnamed & (now_ns - flows.at_ns < patience)
        self.came_too_late += int(np.count_nonzero(unnamed & ~waits))
        return waits

    def _here(self, slot: NDArray[np.int64], flows: Flows, present: Present) -> Here:
        """Pods by their interface; on the host's own interfaces, sockets by their cgroup."""
        names, interfaces = present.names, self._interfaces
        different, who = np.unique(slot, return_inverse=True)
        whos = [(s, names.endpoint(int(interfaces.ifindex[s]))) for s in different.tolist()]
        passing = np.zeros(len(slot), np.bool_)
        final = np.array([endpoint.final for _, endpoint in whos], np.bool_)
        final = final[who]
        shared = np.flatnonzero(interfaces.host[slot])
        if len(shared):
            found = sockets.of(flows.take(shared), present, self._remotes, self._flags)
            # Whoever asks again later finds it in the key.
            flows.key["cgroup_high"][shared] = found.cgroup >> 32
            flows.key["cgroup_low"][shared] = found.cgroup & 0xFFFFFFFF
            passing[shared] = found.passing
            mixed = slot[shared] << _CGROUP_BITS | found.cgroup
            different, place = np.unique(mixed, return_inverse=True)
            owners = [self._socket(each, names) for each in different.tolist()]
            who[shared] = len(whos) + place
            final[shared] = np.array([endpoint.final for _, endpoint in owners], np.bool_)[place]
            whos += owners
        return Here(whos, who, final, passing)

    def _socket(self, mixed: int, names: Names) -> tuple[int, Endpoint]:
        slot, cgroup = mixed >> _CGROUP_BITS, mixed & (1 << _CGROUP_BITS) - 1
        host = names.endpoint(int(self._interfaces.ifindex[slot]))
        if not cgroup:
            return slot, host
        endpoint = names.sockets.get(cgroup)
        if endpoint is None:
            self._unknown_cgroups.add(cgroup)
            return slot, NOBODY._replace(final=False)
        return slot, endpoint

    def _one_a_slot(
        self, slot: NDArray[np.int64], make: Callable[[int], Account], now_ns: int
    ) -> NDArray[np.int64]:
        different, place = np.unique(slot, return_inverse=True)
        found = [self._accounts.index_of(make(s), now_ns) for s in different.tolist()]
        return np.array(found, np.int64)[place]

    def _account(self, packed: int, here: Here, kinds: list[Remote]) -> Account:
        slot, endpoint = here.whos[packed >> _HERE_SHIFT]
        if not endpoint.final:
            endpoint = NOBODY
        remote = kinds[packed >> _THERE_SHIFT & (1 << _THERE_BITS) - 1]
        late = packed >> _LATE_SHIFT & 1
        return Account(
            slot,
            endpoint.namespace,
            endpoint.workload,
            endpoint.workload_kind,
            *(UNKNOWN_PEER if late else remote.peer),
            packed & (1 << _PROTOCOL_BITS) - 1,
            (packed >> _PROTOCOL_BITS & (1 << _PORT_BITS) - 1) + _LOWEST_PORT,
            endpoint.name if self._interfaces.host[slot] else "",
            remote.backend,
        )


def _port_protocol(began: NDArray[np.uint8], key: NDArray[np.void]) -> NDArray[np.int64]:
    port = server_port(began, key["local_port"], key["remote_port"])
    packed: NDArray[np.int64] = (port - _LOWEST_PORT) << _PROTOCOL_BITS | key["protocol"]
    return packed
