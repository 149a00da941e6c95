"""What a connection is booked under: an interface, and a flow series for each direction.

Connections share an account if they differ in nothing that a label shows, so that
an epoch's rows are added up by account first, and series are touched once each.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.connections import BEGAN_HERE, BEGAN_THERE
from podtally.ledger.labels import (
    DIRECTIONS,
    OTHER,
    UNKNOWN,
    FlowLabels,
    protocol_name,
)
from podtally.ledger.series import SeriesTable

BYTES, PACKETS, CONNECTIONS = 0, 1, 2  # the sums of a flow series
NO_PORT = 0
UNKNOWN_PORT = -1  # who began the connection is not known, so neither is whose port is whose
NOBODYS = -1  # the slot of an account that is free
LIMITED_PORT = -2


class Account(NamedTuple):
    """What makes an account: an interface's slot, and the labels that its flows have."""

    slot: int
    namespace: str
    workload: str
    workload_kind: str
    peer_kind: str
    peer_namespace: str
    peer_workload: str
    scope: str
    protocol: int
    port: int  # the server's; NO_PORT, UNKNOWN_PORT


class Accounts:
    """Accounts by index; ``slot`` and ``series`` are looked up by whole arrays of indexes."""

    def __init__(self, flows: SeriesTable[FlowLabels], limit: int) -> None:
        self._flows = flows
        self._limit = limit
        self.version = 0  # changes with the accounts
        self._index: dict[Account, int] = {}
        self._free: list[int] = []
        self.slot = np.full(16, NOBODYS, np.int64)
        self.series = np.zeros((16, 2), np.int64)  # egress, ingress
        self.limited = 0  # how often no series could be made, since the start

    def __len__(self) -> int:
        """One more than the highest index there has been room for."""
        return len(self.slot)

    def index_of(self, account: Account, now_ns: int) -> int:
        """The index of an account, which is made if it is new and there is room for its series."""
        index = self._index.get(account)
        if index is not None:
            return index
        egress = flow_labels(account, DIRECTIONS[0])
        # The series of an account come and go in pairs, so one of them tells of both.
        full = len(self._flows) + len(DIRECTIONS) > self._limit
        if full and account.port != LIMITED_PORT and self._flows.find(egress) is None:
            self.limited += 1
            return self.index_of(beyond_the_limit(account.slot), now_ns)
        labels = (egress, egress._replace(direction=DIRECTIONS[1]))
        index = self._place()
        self.version += 1
        self._index[account] = index
        self.slot[index] = account.slot
        self.series[index] = [self._flows.index_of(each, now_ns) for each in labels]
        return index

    def at(self, indexes: NDArray[np.int64]) -> dict[int, Account]:
        """The accounts behind indexes."""
        wanted = set(indexes.tolist())
        return {i: account for account, i in self._index.items() if i in wanted}

    def close(self, slot: int) -> None:
        """Forget the accounts of an interface's slot."""
        for account in [a for a in self._index if a.slot == slot]:
            self._close(account)

    def close_idle(self, idle_series: NDArray[np.bool_], in_use: NDArray[np.int32]) -> None:
        """Forget the accounts both series of which are idle and no connection is booked under."""
        used = set(np.unique(in_use).tolist())
        for account, index in list(self._index.items()):
            if index not in used and idle_series[self.series[index]].all():
                self._close(account)

    def series_in_use(self) -> NDArray[np.int64]:
        return np.unique(self.series[self.slot != NOBODYS])

    def pairs(self) -> list[tuple[int, Account]]:
        return [(index, account) for account, index in self._index.items()]

    def restore(self, pairs: list[tuple[int, Account]], now_ns: int) -> None:
        """Take back what ``pairs`` gave, after the flow series; every account keeps its index."""
        self._make_room(max((index for index, _ in pairs), default=-1) + 1)
        for index, account in pairs:
            self._index[account] = index
            self.slot[index] = account.slot
            self.series[index] = [
                self._flows.index_of(flow_labels(account, d), now_ns) for d in DIRECTIONS
            ]
        used = set(self._index.values())
        self._free = [i for i in range(max(used, default=-1) + 1) if i not in used]

    def _close(self, account: Account) -> None:
        index = self._index.pop(account)
        self.slot[index] = NOBODYS
        self._free.append(index)
        self.version += 1

    def _place(self) -> int:
        if self._free:
            return self._free.pop()
        self._make_room(len(self._index) + 1)
        return len(self._index)

    def _make_room(self, size: int) -> None:
        more = max(0, size - len(self.slot))
        if more:
            more = max(more, len(self.slot))
            self.slot = np.pad(self.slot, (0, more), constant_values=NOBODYS)
            self.series = np.pad(self.series, ((0, more), (0, 0)))


def beyond_the_limit(slot: int) -> Account:
    return Account(slot, OTHER, OTHER, OTHER, OTHER, OTHER, OTHER, OTHER, 0, LIMITED_PORT)


def flow_labels(account: Account, direction: str) -> FlowLabels:
    port = {UNKNOWN_PORT: UNKNOWN, LIMITED_PORT: OTHER}.get(account.port, str(account.port))
    limited = account.port == LIMITED_PORT
    return FlowLabels(
        account.namespace,
        account.workload,
        account.workload_kind,
        direction,
        account.peer_kind,
        account.peer_namespace,
        account.peer_workload,
        account.scope,
        OTHER if limited else protocol_name(account.protocol),
        port,
        OTHER if limited else UNKNOWN,  # the verdict, until policy is read
    )


def server_port(
    began: NDArray[np.uint8], local_port: NDArray[np.uint16], remote_port: NDArray[np.uint16]
) -> NDArray[np.int64]:
    """The port of whoever was asked, UNKNOWN_PORT if that is not known; never the client's. (n,)"""
    known = [began == BEGAN_HERE, began == BEGAN_THERE]
    return np.select(
        known, [remote_port.astype(np.int64), local_port.astype(np.int64)], UNKNOWN_PORT
    )
