# SPDX-License-Identifier: Apache-2.0
"""What traffic is estimated to cost, and egress by pod in the words of Kubecost's network costs.

Sums of dollars are whole numbers of PARTS of a dollar: they never lose anything to
rounding, and never go down when prices do.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.config import PRICE_STEP
from podtally.ledger.account import LIMITED_PORT, Account
from podtally.ledger.label_sets import DIRECTIONS, OTHER, CostLabels, KubecostLabels
from podtally.ledger.series import SeriesTable

PARTS = 10**13  # of a dollar: a byte at PRICE_STEP dollars for 10^9 of them is one
DOLLARS, REST = 0, 1  # the sums of a series

_TRUE, _FALSE = "true", "false"
# internet, same_region, same_zone. Where zones are not known, and of private networks
# outside, nobody can say what is charged: as if nothing was.
_KUBECOST = {
    "internet": (_TRUE, _FALSE, _FALSE),
    "cross_zone": (_FALSE, _TRUE, _FALSE),
}
_NOT_CHARGED = (_FALSE, _TRUE, _TRUE)

Prices = Mapping[str, int]  # by scope: parts of a dollar for a byte


class SeriesOptions(NamedTuple):
    """What else is shown than the contract's series by workload."""

    by_pod: bool = False  # pods stand in the place of workloads
    egress: Prices = MappingProxyType({})
    ingress: Prices = MappingProxyType({})
    kubecost: bool = False

    def price(self, account: Account, direction: str) -> int:
        prices = self.egress if direction == DIRECTIONS[0] else self.ingress
        return prices.get(account.distance, 0)


CONTRACT = SeriesOptions()


def parts_a_byte(dollars: Iterable[tuple[str, float]]) -> Prices:
    """Of prices for 10^9 bytes, by scope: so many steps are so many parts."""
    return {scope: round(price / PRICE_STEP) for scope, price in dollars}


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


def cost_labels(account: Account, direction: str) -> CostLabels:
    namespace = OTHER if account.port == LIMITED_PORT else account.namespace
    return CostLabels(namespace, account.workload, account.distance, direction)


def kubecost_labels(account: Account) -> KubecostLabels:
    far = _KUBECOST.get(account.distance, _NOT_CHARGED)
    named = far[0] == _TRUE and account.peer_kind != OTHER
    service = account.peer_workload if named else ""
    return KubecostLabels(account.endpoint, account.endpoint_namespace, *far, service)
