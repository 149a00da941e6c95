# SPDX-License-Identifier: Apache-2.0
"""Estimates the cost of traffic, and labels egress by pod as Kubecost's network costs do.

Sums of dollars are whole numbers of PARTS of a dollar: rounding loses nothing, and sums
do not go down when prices do.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.config import PRICE_STEP
from podtally.ledger.connections.account import LIMITED_PORT, Account
from podtally.ledger.peers.nat_rules import NatRules
from podtally.ledger.series.label_sets import DIRECTIONS, OTHER, CostLabels, KubecostLabels
from podtally.ledger.series.series import NO_SERIES, SeriesTable, padded, used

PARTS = 10**13  # per dollar: a byte at PRICE_STEP dollars per 10^9 bytes costs one
DOLLARS, REST = 0, 1  # the sums of a series
NAT_GATEWAY = "nat_gateway"  # in the place of a scope

_TRUE, _FALSE = "true", "false"
# internet, same_region, same_zone. The charge for private networks outside, and where zones
# are not known, is unknown: they are labelled as free.
_KUBECOST = {
    "internet": (_TRUE, _FALSE, _FALSE),
    "cross_zone": (_FALSE, _TRUE, _FALSE),
}
_NOT_CHARGED = (_FALSE, _TRUE, _TRUE)

Prices = Mapping[str, int]  # by scope: parts of a dollar per byte


class NatPrices(NamedTuple):
    """Of what passes a NAT gateway, beside the prices of scopes: parts of a dollar per byte."""

    egress: int = 0
    ingress: int = 0


NO_NAT_PRICES = NatPrices()


class SeriesOptions(NamedTuple):
    """What is shown besides, or instead of, the series by workload."""

    by_pod: bool = False  # the label workload is the pod
    egress: Prices = MappingProxyType({})
    ingress: Prices = MappingProxyType({})
    kubecost: bool = False
    nat: NatPrices = NO_NAT_PRICES
    nat_rules: NatRules | None = None  # None: nothing passes a NAT gateway

    def price(self, account: Account, direction: str) -> int:
        prices = self.egress if direction == DIRECTIONS[0] else self.ingress
        return prices.get(account.distance, 0)

    def nat_price(self, account: Account, direction: str) -> int:
        if not account.nat:
            return 0
        return self.nat.egress if direction == DIRECTIONS[0] else self.nat.ingress


CONTRACT = SeriesOptions()


def parts_per_byte(dollars: Iterable[tuple[str, float]]) -> Prices:
    """Return prices in parts per byte, from dollars per 10^9 bytes, by scope."""
    return {scope: round(price / PRICE_STEP) for scope, price in dollars}


class CostSeries:
    """The cost series of accounts, by account and direction, and the prices of their bytes.

    ``price`` and ``scope`` are of an account: in its direction, and as its series is labelled.
    """

    def __init__(
        self,
        table: SeriesTable[CostLabels],
        price: Callable[[Account, str], int],
        scope: Callable[[Account], str],
    ) -> None:
        self._table, self._price, self._scope = table, price, scope
        self._series = np.full((16, 2), NO_SERIES, np.int64)
        self._prices = np.zeros((16, 2), np.int64)

    def enter(self, account: Account, index: int, now_ns: int) -> None:
        for place, direction in enumerate(DIRECTIONS):
            price = self._prices[index, place] = self._price(account, direction)
            if price:
                labels = cost_labels(account, direction, self._scope(account))
                self._series[index, place] = self._table.index_of(labels, now_ns)

    def leave(self, index: int) -> None:
        self._series[index] = NO_SERIES

    def add(
        self, account: NDArray[np.int64], direction: int, bytes_: NDArray[np.int64], now_ns: int
    ) -> None:
        """Add the cost of bytes (n,) of accounts (n,)."""
        series = self._series[account, direction]
        priced = series != NO_SERIES
        if priced.any():
            parts = bytes_[priced] * self._prices[account[priced], direction]
            add_cost(self._table, series[priced], parts, now_ns)

    def in_use(self, accounts: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return the series of accounts, given as a mask by index."""
        return used(self._series[accounts])

    def make_room(self, size: int) -> None:
        self._series = padded(self._series, size, NO_SERIES)
        self._prices = padded(self._prices, size, 0)


def add_cost(
    table: SeriesTable[CostLabels],
    series: NDArray[np.int64],
    parts: NDArray[np.int64],
    now_ns: int,
) -> None:
    """Add parts of dollars (n,) to series (n,), which may repeat."""
    amounts = np.zeros((len(series), 2), np.int64)
    amounts[:, DOLLARS], amounts[:, REST] = np.divmod(parts, PARTS)
    table.add(series, amounts, now_ns)
    table.carry(np.unique(series), REST, DOLLARS, PARTS)


def cost_labels(account: Account, direction: str, scope: str) -> CostLabels:
    namespace = OTHER if account.port == LIMITED_PORT else account.namespace
    return CostLabels(namespace, account.workload, scope, direction)


def scope_of_price(account: Account) -> str:
    return account.distance


def nat_gateway_scope(_: Account) -> str:
    """Return the scope under which the NAT gateway's part of the cost is shown."""
    return NAT_GATEWAY


def kubecost_labels(account: Account) -> KubecostLabels | None:
    if not account.endpoint:
        return None
    far = _KUBECOST.get(account.distance, _NOT_CHARGED)
    named = far[0] == _TRUE and account.peer_kind != OTHER
    service = account.peer_workload if named else ""
    nat = _TRUE if account.nat else _FALSE
    return KubecostLabels(account.endpoint, account.endpoint_namespace, *far, service, nat)
