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
from podtally.ledger.grouping import distinct
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
_PROTOCOL_BITS, _PORT_BITS, _THERE_BITS = 8, 17, 22
_LATE_SHIFT = _PROTOCOL_BITS + _PORT_BITS
_THERE_SHIFT = _LATE_SHIFT + 1
_HERE_SHIFT = _THERE_SHIFT + _THERE_BITS
_LOWEST_PORT = -1  # UNKNOWN_PORT, so that what is packed is never negative
_CGROUP_BITS = 48


class Here(NamedTuple):
    """Who is at our end."""

    who: NDArray[np.int64]  # (n,) places in _Learnt.whos
    final: NDArray[np.bool_]
    passing: NDArray[np.bool_]  # through an uplink, from and to others


class _Learnt:
    """What stays as it is until names change, or an account is closed."""

    def __init__(self) -> None:
        self.whos: list[tuple[int, Endpoint]] = []  # with the slots of their interfaces
        self.final = np.zeros(0, np.bool_)  # of each
        self.places: dict[int, int] = {}  # in ``whos``, by slot and cgroup
        self.groups = np.zeros(0, np.int64)  # ascending
        self.accounts = np.zeros(0, np.int64)  # of each

    def add(self, groups: NDArray[np.int64], accounts: list[int]) -> None:
        every = np.concatenate([self.groups, groups])
        order = np.argsort(every)
        self.groups = every[order]
        self.accounts = np.concatenate([self.accounts, np.array(accounts, np.int64)])[order]


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
        self._learnt = _Learnt()
        self._learnt_of: tuple[Names | None, int] = (None, 0)
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
        if self._learnt_of != (present.names, self._accounts.closed):
            self._learnt, self._learnt_of = _Learnt(), (present.names, self._accounts.closed)
        slot = self._interfaces.slots(flows.key["ifindex"].astype(np.int64))
        here = self._here(slot, flows, present)
        there = self._remotes.find(flows, present)
        account = np.empty(len(slot), np.int64)
        apart = here.passing
        if wait:
            waits = self._waits(here, there, flows, present.now_ns)
            if waits.any():
                account[waits] = self._one_a_slot(slot[waits], waiting, present.now_ns)
                apart = apart | waits
        if here.passing.any():
            passing = slot[here.passing]
            account[here.passing] = self._one_a_slot(passing, forwarded, present.now_ns)
        packed = (
            here.who << _HERE_SHIFT
            | there.kind << _THERE_SHIFT
            | (~there.final).astype(np.int64) << _LATE_SHIFT
            | _port_protocol(flows.began, flows.key)
        )
        rest = np.flatnonzero(~apart) if apart.any() else slice(None)
        groups, place = distinct(packed[rest])
        account[rest] = self._accounts_of_groups(groups, there.kinds, present.now_ns)[place]
        return account

    def _accounts_of_groups(
        self, groups: NDArray[np.int64], kinds: list[Remote], now_ns: int
    ) -> NDArray[np.int64]:
        learnt = self._learnt
        place = np.searchsorted(learnt.groups, groups)
        new = np.ones(len(groups), np.bool_)
        inside = place < len(learnt.groups)
        new[inside] = learnt.groups[place[inside]] != groups[inside]
        if new.any():
            fresh = np.sort(groups[new])
            made = (self._account(each, kinds) for each in fresh.tolist())
            learnt.add(fresh, [self._accounts.index_of(each, now_ns) for each in made])
            place = np.searchsorted(learnt.groups, groups)
        return learnt.accounts[place]

    def _waits(self, here: Here, there: Found, flows: Flows, now_ns: int) -> NDArray[np.bool_]:
        """Whose names may still come. (n,)

        How long an endpoint may go without one is the directory's to say, which then calls
        it final; twice our patience is only the bound of that.
        """
        unnamed = ~(here.final & there.final | here.passing)
        if not unnamed.any():
            return unnamed
        patience = np.where(here.final, self.patience_ns, 2 * self.patience_ns)
        waits: NDArray[np.bool_] = unnamed & (now_ns - flows.at_ns < patience)
        self.came_too_late += int(np.count_nonzero(unnamed & ~waits))
        return waits

    def _here(self, slot: NDArray[np.int64], flows: Flows, present: Present) -> Here:
        """Pods by their interface; on the host's own interfaces, sockets by their cgroup."""
        mixed = slot << _CGROUP_BITS
        passing = np.zeros(len(slot), np.bool_)
        shared = np.flatnonzero(self._interfaces.host[slot])
        if len(shared):
            found = sockets.of(flows.take(shared), present, self._remotes, self._flags)
            # Whoever asks again later finds it in the key.
            flows.key["cgroup_high"][shared] = found.cgroup >> 32
            flows.key["cgroup_low"][shared] = found.cgroup & 0xFFFFFFFF
            passing[shared] = found.passing
            mixed[shared] |= found.cgroup
        different, place = distinct(mixed)
        places = [self._place(each, present.names) for each in different.tolist()]
        who = np.array(places, np.int64)[place]
        return Here(who, self._learnt.final[who], passing)

    def _place(self, mixed: int, names: Names) -> int:
        """In ``whos``: of an interface's endpoint, or of a socket's."""
        learnt = self._learnt
        place = learnt.places.get(mixed)
        if place is None:
            place = learnt.places[mixed] = len(learnt.whos)
            slot, cgroup = mixed >> _CGROUP_BITS, mixed & (1 << _CGROUP_BITS) - 1
            endpoint: Endpoint | None = names.endpoint(int(self._interfaces.ifindex[slot]))
            if cgroup:
                endpoint = names.sockets.get(cgroup)
            if endpoint is None:
                self._unknown_cgroups.add(cgroup)
                endpoint = NOBODY._replace(final=False)
            learnt.whos.append((slot, endpoint))
            learnt.final = np.append(learnt.final, endpoint.final)
        return place

    def _one_a_slot(
        self, slot: NDArray[np.int64], make: Callable[[int], Account], now_ns: int
    ) -> NDArray[np.int64]:
        different, place = distinct(slot)
        found = [self._accounts.index_of(make(s), now_ns) for s in different.tolist()]
        return np.array(found, np.int64)[place]

    def _account(self, packed: int, kinds: list[Remote]) -> Account:
        slot, endpoint = self._learnt.whos[packed >> _HERE_SHIFT]
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
