# SPDX-License-Identifier: Apache-2.0
"""Adds what accounts count to the families that are declared for accounts."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.connections.account import Account
from podtally.ledger.metrics.costs import SeriesOptions
from podtally.ledger.metrics.families import OF_ACCOUNTS
from podtally.ledger.metrics.family import TRAFFIC, Counts, Family
from podtally.ledger.metrics.tables import Tables
from podtally.ledger.series.series import NO_SERIES, SeriesTable, padded, used


class AccountFamilySeries:
    """The series of accounts in one family, by index of the account; most have none."""

    def __init__(self, family: Family[Any], table: SeriesTable[Any]) -> None:
        assert family.of_accounts is not None
        self._declared = family.of_accounts
        self._columns = [TRAFFIC.index(each) for each in family.sums]
        self.table = table
        self.series = np.full(16, NO_SERIES, np.int64)

    def enter(self, account: Account, index: int, now_ns: int) -> None:
        labels = self._declared.labels(account)
        if labels is not None:
            self.series[index] = self.table.index_of(labels, now_ns)

    def add_traffic(
        self, account: NDArray[np.int64], direction: int, amounts: NDArray[np.int64], now_ns: int
    ) -> None:
        """Add amounts of TRAFFIC (n, 3) of accounts (n,)."""
        if self._declared.direction not in (None, direction):
            return
        series = self.series[account]
        some = series != NO_SERIES
        if some.any():
            self.table.add(series[some], amounts[some][:, self._columns], now_ns)

    def count(self, account: NDArray[np.int64], now_ns: int) -> None:
        """Count one connection for each of the accounts (n,)."""
        series = self.series[account]
        some = series[series != NO_SERIES]
        if len(some):
            self.table.add(some, np.ones((len(some), 1), np.int64), now_ns)


class AccountSeriesTables:
    """The series of accounts in all families that are declared for accounts."""

    def __init__(self, tables: Tables, options: SeriesOptions) -> None:
        self._on = {
            each.name: AccountFamilySeries(each, tables[each])
            for each in OF_ACCOUNTS
            if each.is_on(options)
        }
        self._by_traffic = self._that_count(Counts.TRAFFIC)
        self._by_opening = self._that_count(Counts.OPENED)

    def _that_count(self, what: Counts) -> list[AccountFamilySeries]:
        return [
            self._on[each.name]
            for each in OF_ACCOUNTS
            if each.name in self._on and each.of_accounts and each.of_accounts.counts == what
        ]

    def enter(self, account: Account, index: int, now_ns: int) -> None:
        for each in self._on.values():
            each.enter(account, index, now_ns)

    def leave(self, index: int) -> None:
        for each in self._on.values():
            each.series[index] = NO_SERIES

    def add_traffic(
        self, account: NDArray[np.int64], direction: int, amounts: NDArray[np.int64], now_ns: int
    ) -> None:
        for each in self._by_traffic:
            each.add_traffic(account, direction, amounts, now_ns)

    def count_openings(self, account: NDArray[np.int64], now_ns: int) -> None:
        """Count new connections of accounts (n,)."""
        for each in self._by_opening:
            each.count(account, now_ns)

    def count(self, family: Family[Any], account: NDArray[np.int64], now_ns: int) -> None:
        """Count connections of accounts (n,) in one family."""
        self._on[family.name].count(account, now_ns)

    def in_use(
        self, accounts: NDArray[np.bool_]
    ) -> Iterator[tuple[SeriesTable[Any], NDArray[np.int64]]]:
        """Yield each table with the series of accounts, given as a mask by index."""
        for each in self._on.values():
            yield each.table, used(each.series[accounts])

    def make_room(self, size: int) -> None:
        for each in self._on.values():
            each.series = padded(each.series, size, NO_SERIES)
