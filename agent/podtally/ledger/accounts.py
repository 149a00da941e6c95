# SPDX-License-Identifier: Apache-2.0
"""Accounts by number, and the series that their sums are shown under.

An epoch's rows are added up by account first, so that series are touched once each.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.account import (
    APART,
    FLOODED_PORT,
    GROUP_PORT,
    MANY_PORT,
    UNKNOWN_PORT,
    WAITING_PORT,
    Account,
    candidate_labels,
    denied_labels,
    exposed_labels,
    flow_labels,
    missed_labels,
    overflow_account,
    waiting,
    with_any_peer,
    with_any_port,
)
from podtally.ledger.connections import BEGAN_HERE, BEGAN_SIDE, BEGAN_THERE, BEGAN_UNKNOWN
from podtally.ledger.costs import CONTRACT, SeriesOptions, add_cost, cost_labels, kubecost_labels
from podtally.ledger.label_sets import (
    DIRECTIONS,
    OTHER,
    UNKNOWN,
    CandidateLabels,
    CostLabels,
    DeniedLabels,
    ExposedLabels,
    FlowLabels,
    KubecostLabels,
    MissedLabels,
    PodLabels,
    SpoofedLabels,
    UnjudgedLabels,
)
from podtally.ledger.series import Labels, SeriesTable
from podtally.ledger.shares import Shares, Taken

BYTES, PACKETS, CONNECTIONS = 0, 1, 2  # the sums of a flow series
NOBODYS = -1  # the slot of an account that is free
NO_SERIES = -1
# Tables that few accounts have a series in: one, or one for each direction.
_FEW = ("denied", "unjudged", "exposed", "candidate", "kubecost", "costs", "missed", "spoofed")


class Tables(NamedTuple):
    """Where the sums of accounts go."""

    flows: SeriesTable[FlowLabels]  # bytes, packets, connections
    pods: SeriesTable[PodLabels]  # bytes, packets
    denied: SeriesTable[DeniedLabels]  # connections, as the next two
    unjudged: SeriesTable[UnjudgedLabels]
    exposed: SeriesTable[ExposedLabels]
    candidate: SeriesTable[CandidateLabels]  # bytes, packets, connections
    kubecost: SeriesTable[KubecostLabels]  # bytes
    costs: SeriesTable[CostLabels]  # dollars, and parts of one
    missed: SeriesTable[MissedLabels]  # connections
    spoofed: SeriesTable[SpoofedLabels]  # packets


def make_tables() -> Tables:
    return Tables(
        SeriesTable(3), SeriesTable(2), SeriesTable(1), SeriesTable(1), SeriesTable(1),
        SeriesTable(3), SeriesTable(1), SeriesTable(2), SeriesTable(1), SeriesTable(1),
    )  # fmt: skip


class AccountTable:
    """Accounts by index; the arrays are looked up by whole arrays of indexes.

    ``series`` and ``pods`` (n, 2) are NO_SERIES where an account's sums are shown under
    none: those that wait for a name, and those that only pass through this host.
    """

    def __init__(self, tables: Tables, limit: int, shown: SeriesOptions = CONTRACT) -> None:
        self._tables = tables
        self._flows, self._pods = tables.flows, tables.pods
        self.shares = Shares(limit // len(DIRECTIONS))  # an account has a series each way
        self._shown = shown
        self.version = 0  # changes with the accounts
        self.closed = 0  # how many were, since the start: their indexes may be others'
        self._index: dict[Account, int] = {}
        self._free: list[int] = []
        self.slot = np.full(16, NOBODYS, np.int64)
        self.series = np.full((16, 2), NO_SERIES, np.int64)  # egress, ingress
        self.pods = np.full((16, 2), NO_SERIES, np.int64)
        # Series that few accounts have: what is denied, unjudged, exposed, of candidates.
        self.denied = np.full(16, NO_SERIES, np.int64)
        self.unjudged = np.full(16, NO_SERIES, np.int64)
        self.exposed = np.full(16, NO_SERIES, np.int64)
        self.candidate = np.full(16, NO_SERIES, np.int64)
        self.kubecost = np.full(16, NO_SERIES, np.int64)
        self.costs = np.full((16, 2), NO_SERIES, np.int64)
        self.missed = np.full(16, NO_SERIES, np.int64)
        self.spoofed = np.full(16, NO_SERIES, np.int64)
        self._prices = np.zeros((16, 2), np.int64)
        self.waiting = np.zeros(16, np.bool_)
        self.flooded = np.zeros(16, np.bool_)  # of frames for others
        self.silent = np.zeros(16, np.bool_)  # those, and of groups: the endpoint sends nothing
        self.unknown = np.zeros(16, np.bool_)  # whose other end has no name yet
        self.limited = 0  # how often no series could be made, since the start

    def __len__(self) -> int:
        """One more than the highest index there has been room for."""
        return len(self.slot)

    def index_of(self, account: Account, now_ns: int) -> int:
        """The index of an account, which is made if it is new and there is room for its series."""
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
        """The same account, or the one that it shares with others where its endpoint has taken
        its share of the series. What has its series already costs none.
        """
        # The series of an account come and go in pairs, so one of them tells of both.
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
        candidate = self.candidate[account]
        differing = candidate != NO_SERIES
        if differing.any():
            self._tables.candidate.add(candidate[differing], amounts[differing], now_ns)
        spoofed = self.spoofed[account]
        forged = spoofed != NO_SERIES
        if direction == 0 and forged.any():
            self._tables.spoofed.add(spoofed[forged], amounts[forged][:, [PACKETS]], now_ns)
        self._add_costs(account, direction, amounts[:, BYTES], now_ns)

    def _add_costs(
        self, account: NDArray[np.int64], direction: int, moved: NDArray[np.int64], now_ns: int
    ) -> None:
        costs = self.costs[account, direction]
        priced = costs != NO_SERIES
        if priced.any():
            parts = moved[priced] * self._prices[account[priced], direction]
            add_cost(self._tables.costs, costs[priced], parts, now_ns)
        kubecost = self.kubecost[account]
        named = kubecost != NO_SERIES
        if direction == 0 and named.any():
            self._tables.kubecost.add(kubecost[named], moved[named, None], now_ns)

    def count_beginnings(
        self, account: NDArray[np.int64], began: NDArray[np.uint8], now_ns: int
    ) -> None:
        self.count_openings(account, began, now_ns)
        self._count(self._tables.unjudged, self.unjudged[account], now_ns)
        self._count(self._tables.exposed, self.exposed[account], now_ns)
        self.count_missed(account, now_ns)
        self.count_denied(account, now_ns)

    def count_openings(
        self, account: NDArray[np.int64], began: NDArray[np.uint8], now_ns: int
    ) -> None:
        """Connections (n,) of which it is known from now on who opened them."""
        began = np.where(self.silent[account], BEGAN_UNKNOWN, began)
        for direction, side in enumerate((BEGAN_HERE, BEGAN_THERE)):
            begun = account[began & BEGAN_SIDE == side]
            one = np.zeros((len(begun), 3), np.int64)
            one[:, CONNECTIONS] = 1
            self.add(begun, direction, one, now_ns)

    def count_denied(self, account: NDArray[np.int64], now_ns: int) -> None:
        """Connections that policy denies from now on."""
        self._count(self._tables.denied, self.denied[account], now_ns)

    def count_missed(self, account: NDArray[np.int64], now_ns: int) -> None:
        """Connections of isolated endpoints whose verdict is unknown from now on."""
        self._count(self._tables.missed, self.missed[account], now_ns)

    def _count(self, table: SeriesTable[Labels], series: NDArray[np.int64], now_ns: int) -> None:
        some = series[series != NO_SERIES]
        if len(some):
            table.add(some, np.ones((len(some), 1), np.int64), now_ns)

    def at(self, indexes: NDArray[np.int64]) -> dict[int, Account]:
        """The accounts behind indexes."""
        wanted = set(indexes.tolist())
        return {i: account for account, i in self._index.items() if i in wanted}

    def close(self, slot: int) -> None:
        """Forget the accounts of an interface's slot, but for the one that waits for a name."""
        for account in [a for a in self._index if a.slot == slot and a.port != WAITING_PORT]:
            self._close(account)

    def close_waiting(self, slot: int) -> None:
        account = waiting(slot)
        if account in self._index:
            self._close(account)

    def close_idle(
        self, idle_series: NDArray[np.bool_], in_use: NDArray[np.int32], everyones: bool
    ) -> None:
        """Forget accounts both series of which are idle and no connection is booked under:
        ``everyones``, or those of endpoints that have taken all they may.
        """
        used, full = set(np.unique(in_use).tolist()), self.shares.full()
        for account, index in list(self._index.items()):
            if not everyones and _taken(account).endpoint not in full:
                continue
            shown = self.series[index, 0] != NO_SERIES
            if shown and index not in used and idle_series[self.series[index]].all():
                self._close(account)

    def series_in_use(self) -> NDArray[np.int64]:
        return _used(self.series[self.slot != NOBODYS])

    def pods_in_use(self) -> NDArray[np.int64]:
        return _used(self.pods[self.slot != NOBODYS])

    def others_in_use(self) -> Iterator[tuple[SeriesTable[Any], NDArray[np.int64]]]:
        """The tables that few accounts are in, and which of their series are used."""
        for name in _FEW:
            series: NDArray[np.int64] = getattr(self, name)
            yield getattr(self._tables, name), _used(series[self.slot != NOBODYS])

    def pairs(self) -> list[tuple[int, Account]]:
        return [(index, account) for account, index in self._index.items()]

    def restore(self, pairs: list[tuple[int, Account]], now_ns: int) -> None:
        """Take back what ``pairs`` gave, after the flow series; every account keeps its index."""
        self._make_room(max((index for index, _ in pairs), default=-1) + 1)
        for index, account in pairs:
            self._enter(account, index, now_ns)
        used = set(self._index.values())
        self._free = [i for i in range(max(used, default=-1) + 1) if i not in used]

    def _enter(self, account: Account, index: int, now_ns: int) -> None:
        self._index[account] = index
        if account.peer_kind != OTHER:
            self.shares.take(_taken(account), account.port == MANY_PORT)
        self.slot[index] = account.slot
        self.waiting[index] = account.port == WAITING_PORT
        self.flooded[index] = account.port == FLOODED_PORT
        self.silent[index] = account.port in (FLOODED_PORT, GROUP_PORT)
        # An address that is not the endpoint's may turn out to be.
        self.unknown[index] = account.peer_kind == UNKNOWN or self.flooded[index]
        self.series[index] = self.pods[index] = NO_SERIES
        for name in _FEW:
            getattr(self, name)[index] = NO_SERIES
        if account.port in APART:
            return
        for place, direction in enumerate(DIRECTIONS):
            labels = flow_labels(account, direction)
            self.series[index, place] = self._flows.index_of(labels, now_ns)
            price = self._prices[index, place] = self._shown.price(account, direction)
            if price:
                cost = cost_labels(account, direction)
                self.costs[index, place] = self._tables.costs.index_of(cost, now_ns)
            if account.pod:
                pod = PodLabels(account.namespace, account.pod, direction)
                self.pods[index, place] = self._pods.index_of(pod, now_ns)
        if self._shown.kubecost and account.endpoint:
            labels_of_kubecost = kubecost_labels(account)
            self.kubecost[index] = self._tables.kubecost.index_of(labels_of_kubecost, now_ns)
        self._enter_judged(account, index, now_ns)

    def _enter_judged(self, account: Account, index: int, now_ns: int) -> None:
        tables, judgement = self._tables, account.judgement
        if judgement.policy:
            self.denied[index] = tables.denied.index_of(denied_labels(account), now_ns)
        if judgement.cause:
            cause = UnjudgedLabels(judgement.cause)
            self.unjudged[index] = tables.unjudged.index_of(cause, now_ns)
        if judgement.missed:
            self.missed[index] = tables.missed.index_of(missed_labels(account), now_ns)
        if judgement.foreign:
            spoofed = SpoofedLabels(account.namespace, account.workload)
            self.spoofed[index] = tables.spoofed.index_of(spoofed, now_ns)
        if judgement.exposed:
            self.exposed[index] = tables.exposed.index_of(exposed_labels(account), now_ns)
        if judgement.candidate:
            labels = candidate_labels(account)
            self.candidate[index] = tables.candidate.index_of(labels, now_ns)

    def _close(self, account: Account) -> None:
        index = self._index.pop(account)
        if account.peer_kind != OTHER:
            self.shares.give_back(_taken(account), account.port == MANY_PORT)
        self.slot[index] = NOBODYS
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
        more = max(0, size - len(self.slot))
        if more:
            more = max(more, len(self.slot))
            self.slot = np.pad(self.slot, (0, more), constant_values=NOBODYS)
            self.waiting = np.pad(self.waiting, (0, more))
            self.unknown = np.pad(self.unknown, (0, more))
            self.flooded = np.pad(self.flooded, (0, more))
            self.silent = np.pad(self.silent, (0, more))
            self._prices = np.pad(self._prices, ((0, more), (0, 0)))
            for name in ("series", "pods", *_FEW):
                old = getattr(self, name)
                wider = ((0, more), (0, 0))[: old.ndim]
                setattr(self, name, np.pad(old, wider, constant_values=NO_SERIES))


def _taken(account: Account) -> Taken:
    endpoint = (account.slot, account.endpoint_namespace, account.endpoint)
    return Taken(endpoint, (account.peer_kind, account.peer_namespace, account.peer_workload))


def _used(series: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.unique(series[series != NO_SERIES])
