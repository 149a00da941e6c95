# SPDX-License-Identifier: Apache-2.0
"""Keeps connections that wait for a name: their traffic is booked when they are named.

A waiting connection's own totals are what is pending, so nothing else is stored, and the wait
survives a restart with the connections.
"""

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.accounts.accounts import AccountTable
from podtally.ledger.attribution.attribution import AttributedConnections, Attribution
from podtally.ledger.checkpoint.saved import Saved
from podtally.ledger.connections.connections import (
    ConnectionColumns,
    Connections,
    join,
    loaded_connections,
    no_connections,
)
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.connections.new_connections import new_connections
from podtally.ledger.events.events import Events
from podtally.ledger.metrics.family import BYTES, PACKETS
from podtally.ledger.recording.recorder import Recorder


class PendingConnections:
    """Open connections that wait, and in ``held`` closed ones that wait."""

    def __init__(
        self,
        connections: Connections,
        accounts: AccountTable,
        events: Events,
        attribution: Attribution,
        recorder: Recorder,
    ) -> None:
        self._connections = connections
        self._accounts = accounts
        self._events = events
        self._attribution = attribution
        self._recorder = recorder
        self.held = no_connections()

    def __len__(self) -> int:
        if not self._accounts.waiting.any():
            return 0
        return len(self.held.account) + int(self.among(self._connections.columns).sum())

    def save(self) -> Saved:
        return self.held.save()

    def load(self, saved: Saved, now_ns: int) -> None:
        self.held = loaded_connections(saved)

    def among(self, columns: ConnectionColumns) -> NDArray[np.bool_]:
        account = columns.account
        waiting: NDArray[np.bool_] = (account >= 0) & self._accounts.waiting[np.maximum(account, 0)]
        return waiting

    def on(self, ifindex: int) -> bool:
        """Return whether any connection of this interface waits."""
        columns = self._connections.columns
        own = columns.take(columns.key["ifindex"] == ifindex)
        return bool((self.held.key["ifindex"] == ifindex).any() or self.among(own).any())

    def hold(self, ended: list[ConnectionColumns]) -> list[ConnectionColumns]:
        """Keep closed connections that still wait; return the others."""
        if not self._accounts.waiting.any():
            return ended
        over = []
        for columns in ended:
            waiting = self.among(columns)
            if not waiting.any():
                over.append(columns)
                continue
            self.held = join([self.held, columns.take(waiting)])
            over.append(columns.take(~waiting))
        return over

    def name(self, context: EpochContext) -> ConnectionColumns:
        """Book connections that have their names now, or have waited long enough. Return
        the closed ones among them.
        """
        self._attribution.waits.restart()
        if not self._accounts.waiting.any():
            return no_connections()
        columns = self._connections.columns
        waiting = np.flatnonzero(self.among(columns))
        some = columns.take(waiting)
        columns.account[waiting], columns.event[waiting] = self._settle(some, context)
        columns.domain[waiting] = some.domain
        account, event = self._settle(self.held, context)
        named = ~self._accounts.waiting[account]
        over = self.held._replace(account=account.astype(np.int32), event=event).take(named)
        self.held = self.held.take(~named)
        return over

    def _settle(self, columns: ConnectionColumns, context: EpochContext) -> AttributedConnections:
        """Return what waiting connections are now; book the totals of those with a name."""
        accounts = self._accounts
        flows = new_connections(columns)
        account, event = self._attribution.attribute(flows, context)
        named = np.flatnonzero(~accounts.waiting[account])
        for direction in (0, 1):
            amounts = np.zeros((len(named), 3), np.int64)
            amounts[:, BYTES] = columns.bytes[named, direction]
            amounts[:, PACKETS] = columns.packets[named, direction]
            accounts.add(account[named], direction, amounts, context.now_ns)
        self._recorder.named(columns.take(named), account[named])
        accounts.count_new(account[named], columns.initiator[named], context.now_ns)
        self._events.count(event, context.now_ns)
        self._events.add_bytes(event, columns.bytes, context.now_ns)
        return AttributedConnections(account, event)
