# SPDX-License-Identifier: Apache-2.0
"""Decide which connections wait for the names of their endpoints."""

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.attribution.local_endpoints import LocalEndpoints
from podtally.ledger.attribution.ownership import FLOODED, FOREIGN
from podtally.ledger.connections.new_connections import NewConnections
from podtally.ledger.domains.domain_naming import DomainColumns
from podtally.ledger.interfaces.interfaces import Interfaces
from podtally.ledger.series.shares import rank

MAX_WAITING = 4096  # connections of one interface; more are booked without names
_SETTLE_NS = 3_000_000_000  # by then the address of a new pod is known


class NameWaits:
    """``patience_ns``: how long a connection waits for names."""

    def __init__(self, interfaces: Interfaces, patience_ns: int) -> None:
        self.patience_ns = patience_ns
        self.timeouts = 0  # connections booked under `unknown` after their wait
        self._interfaces = interfaces
        self.restart()

    def restart(self) -> None:
        """Count waiting connections from zero; call before all of them are attributed again."""
        self._waiting = np.zeros(0, np.int64)  # by slot

    def waits(
        self,
        local: LocalEndpoints,
        domains: DomainColumns,
        flows: NewConnections,
        slot: NDArray[np.int64],
        now_ns: int,
    ) -> NDArray[np.bool_]:
        """Return which connections are to wait. (n,)

        The directory decides how long an endpoint may be without a name, and then calls it
        final; twice our patience is only the upper bound.
        """
        age_ns = now_ns - flows.at_ns
        unsettled: NDArray[np.bool_] = (local.ownership == FOREIGN) & (age_ns < _SETTLE_NS)
        unnamed: NDArray[np.bool_] = ~(local.final & domains.peers.final | local.forwarded)
        unnamed &= local.ownership != FLOODED
        unsettled |= domains.may_come & (local.ownership != FLOODED) & ~local.forwarded
        if not (unnamed.any() or unsettled.any()):
            return unnamed
        patience = np.where(local.final, self.patience_ns, 2 * self.patience_ns)
        waits: NDArray[np.bool_] = unnamed & (age_ns < patience) | unsettled
        self._limit(waits, slot)
        self.timeouts += int(np.count_nonzero(unnamed & ~waits))
        return waits

    def _limit(self, waits: NDArray[np.bool_], slot: NDArray[np.int64]) -> None:
        """Let at most MAX_WAITING of each interface wait. (n,) each"""
        rows = np.flatnonzero(waits)
        short = max(0, len(self._interfaces) - len(self._waiting))
        self._waiting = np.pad(self._waiting, (0, short))
        over = self._waiting[slot[rows]] + rank(slot[rows]) >= MAX_WAITING
        waits[rows[over]] = False
        np.add.at(self._waiting, slot[rows[~over]], 1)
