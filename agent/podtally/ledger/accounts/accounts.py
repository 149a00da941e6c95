# SPDX-License-Identifier: Apache-2.0
"""Accounts by index, and the series that show their sums.

An epoch's rows are added up by account first, so that each series is touched once.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podtally.identity.name_table import Names
from podtally.ledger.accounts.account_series import AccountSeriesTables
from podtally.ledger.accounts.former_peers import FormerPeers
from podtally.ledger.accounts.outcome_series import OutcomeSeries
from podtally.ledger.checkpoint.saved import EncodedOnce, Saved
from podtally.ledger.connections.account import (
    APART,
    FLOODED_PORT,
    GROUP_PORT,
    MANY_PORT,
    UNKNOWN_PORT,
    WAITING_PORT,
    Account,
    flow_labels,
    overflow_account,
    waiting,
    with_any_peer,
    with_any_port,
)
from podtally.ledger.connections.connections import (
    INITIATOR_ENDPOINT,
    INITIATOR_MASK,
    INITIATOR_PEER,
    INITIATOR_UNKNOWN,
)
from podtally.ledger.metrics.costs import (
    CONTRACT,
    CostSeries,
    SeriesOptions,
    nat_gateway_scope,
    scope_of_price,
)
from podtally.ledger.metrics.families import COSTS, FLOWS, PODS
from podtally.ledger.metrics.family import BYTES, CONNECTIONS, PACKETS, Family
from podtally.ledger.metrics.tables import Tables
from podtally.ledger.series.label_sets import DIRECTIONS, OTHER, UNKNOWN, PodLabels
from podtally.ledger.series.series import NO_SERIES, SeriesTable, padded, used
from podtally.ledger.series.shares import Shares, Taken

FREE = -1  # the slot of an account that is free


class AccountTable:
    """Accounts by index; the arrays are looked up by whole arrays of indexes.

    ``series`` and ``pods`` (n, 2) are NO_SERIES for accounts without series: those that wait
    for a name, and those of traffic that only passes through this host.
    """

    def __init__(self, tables: Tables, limit: int, shown: SeriesOptions = CONTRACT) -> None:
        self._flows, self._pods, self._costs_table = tables[FLOWS], tables[PODS], tables[COSTS]
        self.shares = Shares(limit // len(DIRECTIONS))  # an account has a series each way
        self.version = 0  # changes with the accounts
        self.closed = 0  # how many since the start: their indexes may be in use again
        self.limited = 0  # how often no series could be made since the start
        self._index: dict[Account, int] = {}
        self._by_index: dict[int, Account] = {}
        self._free: list[int] = []
        self.slot = np.full(16, FREE, np.int64)
        self.series = np.full((16, 2), NO_SERIES, np.int64)  # egress, ingress
        self.pods = np.full((16, 2), NO_SERIES, np.int64)
        self._others = AccountSeriesTables(tables, shown)
        self._costs = (
            CostSeries(tables[COSTS], shown.price, scope_of_price),
            CostSeries(tables[COSTS], shown.nat_price, nat_gateway_scope),
        )
        self.outcomes = OutcomeSeries(tables, self.at)
        self._encoded = EncodedOnce()
        self._former = FormerPeers()
        self.waiting = np.zeros(16, np.bool_)
        self.flooded = np.zeros(16, np.bool_)  # of frames for others
        self.silent = np.zeros(16, np.bool_)  # those, and of groups: the endpoint sends nothing
        self.unknown = np.zeros(16, np.bool_)  # the peer has no name yet

    def __len__(self) -> int:
        """The number of indexes that there is room for."""
        return len(self.slot)

    def index_of(self, account: Account, now_ns: int) -> int:
        """Return the index of an account, or of the shared one if its endpoint has no room."""
        index = self._index.get(account)
        if index is not None:
            return index
        if account.port >= UNKNOWN_PORT or account.port in (MANY_PORT, GROUP_PORT):
            fitting = self._fitting(account)
            if fitting != account:
                self.limited += 1
                return self.index_of(fitting, now_ns)
        index = self._place()
        self.version += 1
        self._enter(account, index, now_ns)
        return index

    def _fitting(self, account: Account) -> Account:
        """Return the account, or the one that it shares if its endpoint has used its share.

        An account with existing series takes nothing from the share.
        """
        # Both series of an account exist, or neither.
        if self._flows.find(flow_labels(account, DIRECTIONS[0])) is not None:
            return account
        taken, used = _taken(account), len(self._flows) // len(DIRECTIONS)
        if self.shares.exhausted(used):
            return overflow_account(account)
        if account.port != MANY_PORT and not self.shares.peer_has_room(taken):
            return with_any_port(account)
        if account.peer_kind != OTHER and not self.shares.has_room(taken, used):
            return with_any_peer(account)
        return account

    def add(
        self, account: NDArray[np.int64], direction: int, amounts: NDArray[np.int64], now_ns: int
    ) -> None:
        """Add bytes, packets and connections (n, 3) to the series of accounts (n,), and to
        the totals of pods that share an interface.
        """
        series, pods = self.series[account, direction], self.pods[account, direction]
        shown, shared = series != NO_SERIES, pods != NO_SERIES
        self._flows.add(series[shown], amounts[shown], now_ns)
        if shared.any():
            self._pods.add(pods[shared], amounts[shared][:, [BYTES, PACKETS]], now_ns)
        self._others.add_traffic(account, direction, amounts, now_ns)
        for costs in self._costs:
            costs.add(account, direction, amounts[:, BYTES], now_ns)

    def count_new(
        self, account: NDArray[np.int64], initiator: NDArray[np.uint8], now_ns: int
    ) -> None:
        """Count new connections (n,)."""
        self.count_openings(account, initiator, now_ns)
        self._others.count_openings(account, now_ns)

    def count_openings(
        self, account: NDArray[np.int64], initiator: NDArray[np.uint8], now_ns: int
    ) -> None:
        """Count connections (n,) with an initiator that has just become known."""
        initiator = np.where(self.silent[account], INITIATOR_UNKNOWN, initiator)
        for direction, side in enumerate((INITIATOR_ENDPOINT, INITIATOR_PEER)):
            begun = account[initiator & INITIATOR_MASK == side]
            one = np.zeros((len(begun), 3), np.int64)
            one[:, CONNECTIONS] = 1
            self.add(begun, direction, one, now_ns)

    def count(self, family: Family[Any], account: NDArray[np.int64], now_ns: int) -> None:
        """Count connections (n,) that belong to a family from now on."""
        self._others.count(family, account, now_ns)

    def at(self, indexes: NDArray[np.int64]) -> dict[int, Account]:
        """Return the accounts at indexes."""
        found = ((i, self._by_index.get(i)) for i in set(indexes.tolist()))
        return {i: account for i, account in found if account is not None}

    def close(self, slot: int) -> None:
        """Remove the accounts of an interface's slot, except the one of waiting connections."""
        for account in [a for a in self._index if a.slot == slot and a.port != WAITING_PORT]:
            self._close(account)

    def close_waiting(self, slot: int) -> None:
        account = waiting(slot)
        if account in self._index:
            self._close(account)

    def close_idle(self, idle: NDArray[np.int64], everyones: bool) -> None:
        """Remove ``idle`` accounts: of all endpoints with ``everyones``, else of those that have
        used their share.
        """
        full = self.shares.full()
        for account in self.at(idle).values():
            if everyones or _taken(account).endpoint in full:
                self._close(account)

    def close_former(self, idle: NDArray[np.int64], names: Names) -> None:
        """Remove ``idle`` accounts of peers that are gone."""
        for account in self._former.among(self.at(idle), names):
            self._close(account)

    def idle(self, idle_series: NDArray[np.bool_], in_use: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return the accounts with series that are idle, given by index, and no connections."""
        index = np.flatnonzero((self.slot != FREE) & (self.series[:, 0] != NO_SERIES))
        index = index[idle_series[self.series[index]].all(axis=1)]
        return index[~np.isin(index, in_use)]

    def series_in_use(self) -> NDArray[np.int64]:
        return used(self.series[self.slot != FREE])

    def pods_in_use(self) -> NDArray[np.int64]:
        return used(self.pods[self.slot != FREE])

    def others_in_use(self) -> Iterator[tuple[SeriesTable[Any], NDArray[np.int64]]]:
        """Yield the tables of the other families, with their series in use."""
        yield from self._others.in_use(self.slot != FREE)
        for costs in self._costs:
            yield self._costs_table, costs.in_use(self.slot != FREE)
        yield from self.outcomes.in_use(self.slot != FREE)

    def save(self) -> Saved:
        return Saved(self._encoded.encode(self.version, self.pairs))

    def load(self, saved: Saved, now_ns: int) -> None:
        """Call after the flow series are loaded."""
        self.restore(saved.decode(list[tuple[int, Account]]), now_ns)

    def pairs(self) -> list[tuple[int, Account]]:
        return [(index, account) for account, index in self._index.items()]

    def restore(self, pairs: list[tuple[int, Account]], now_ns: int) -> None:
        """Restore what ``pairs`` returned, after the flow series; every account keeps its index."""
        self._make_room(max((index for index, _ in pairs), default=-1) + 1)
        for index, account in pairs:
            self._enter(account, index, now_ns)
        used = set(self._index.values())
        self._free = [i for i in range(max(used, default=-1) + 1) if i not in used]

    def _enter(self, account: Account, index: int, now_ns: int) -> None:
        self._index[account], self._by_index[index] = index, account
        if account.peer_kind != OTHER:
            self.shares.take(_taken(account), account.port == MANY_PORT)
        self.slot[index] = account.slot
        self.waiting[index] = account.port == WAITING_PORT
        self.flooded[index] = account.port == FLOODED_PORT
        self.silent[index] = account.port in (FLOODED_PORT, GROUP_PORT)
        # An address that is not known to be the endpoint's may be.
        self.unknown[index] = account.peer_kind == UNKNOWN or self.flooded[index]
        self.series[index] = self.pods[index] = NO_SERIES
        self._others.leave(index)
        for costs in self._costs:
            costs.leave(index)
        self.outcomes.leave(index)
        if account.port in APART:
            return
        for place, direction in enumerate(DIRECTIONS):
            labels = flow_labels(account, direction)
            self.series[index, place] = self._flows.index_of(labels, now_ns)
            if account.pod:
                pod = PodLabels(account.namespace, account.pod, direction)
                self.pods[index, place] = self._pods.index_of(pod, now_ns)
        for costs in self._costs:
            costs.enter(account, index, now_ns)
        self._others.enter(account, index, now_ns)
        self.outcomes.enter(account, index)

    def _close(self, account: Account) -> None:
        index = self._index.pop(account)
        del self._by_index[index]
        if account.peer_kind != OTHER:
            self.shares.give_back(_taken(account), account.port == MANY_PORT)
        self.slot[index] = FREE
        self.waiting[index] = self.unknown[index] = False
        self.flooded[index] = self.silent[index] = False
        self._free.append(index)
        self.version += 1
        self.closed += 1

    def _place(self) -> int:
        if self._free:
            return self._free.pop()
        self._make_room(len(self._index) + 1)
        return len(self._index)

    def _make_room(self, size: int) -> None:
        if size <= len(self.slot):
            return
        size = max(size, 2 * len(self.slot))
        self.slot = padded(self.slot, size, FREE)
        self.series = padded(self.series, size, NO_SERIES)
        self.pods = padded(self.pods, size, NO_SERIES)
        self.waiting = padded(self.waiting, size, False)
        self.unknown = padded(self.unknown, size, False)
        self.flooded = padded(self.flooded, size, False)
        self.silent = padded(self.silent, size, False)
        self._others.make_room(size)
        for costs in self._costs:
            costs.make_room(size)
        self.outcomes.make_room(size)


def _taken(account: Account) -> Taken:
    endpoint = (account.slot, account.endpoint_namespace, account.endpoint)
    peer = (account.peer_kind, account.peer_namespace, account.peer_workload, account.peer_domain)
    return Taken(endpoint, peer)
