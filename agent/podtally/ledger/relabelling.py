# SPDX-License-Identifier: Apache-2.0
"""Has open connections find their labels again when names or policies have changed.

Such a connection is UNNAMED: its next row is booked under the labels of then, what it moved
before stays where it was booked.
"""

import numpy as np

from podtally.identity.name_table import Names
from podtally.ledger.accounts.accounts import AccountTable
from podtally.ledger.attribution.attribution import Attribution
from podtally.ledger.connections.connections import Connections
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.pending import PendingConnections
from podtally.ledger.recording.recorder import Recorder


class Relabelling:
    """Of the connections of one ledger."""

    def __init__(
        self,
        connections: Connections,
        pending: PendingConnections,
        accounts: AccountTable,
        attribution: Attribution,
        recorder: Recorder,
    ) -> None:
        self.settled_ns = 0  # the end of the last epoch
        self._connections = connections
        self._pending = pending
        self._interfaces = attribution.interfaces
        self._accounts = accounts
        self._attribution = attribution
        self._recorder = recorder
        self._names: Names | None = None
        self._policy_changes = 0  # of the verdicts that are in the labels

    def after_epoch(self, context: EpochContext) -> None:
        self._unknown_peers(context.names)
        self._verdicts(context)
        self.settled_ns = context.now_ns

    def of_interfaces(self, ifindexes: list[int]) -> None:
        """Close the accounts of interfaces: another account may get the index of a closed one."""
        columns = self._connections.columns
        booked = np.isin(columns.key["ifindex"], ifindexes) & ~self._pending.among(columns)
        self._recorder.unname(columns, np.flatnonzero(booked))
        for ifindex in ifindexes:
            self._accounts.close(self._interfaces.slot(ifindex))

    def _unknown_peers(self, names: Names) -> None:
        """After a change of names, look unknown peers up again."""
        if names is not self._names and self._accounts.unknown.any():
            columns = self._connections.columns
            account = columns.account
            unknown = (account >= 0) & self._accounts.unknown[np.maximum(account, 0)]
            self._recorder.unname(columns, np.flatnonzero(unknown))
        self._names = names

    def _verdicts(self, context: EpochContext) -> None:
        """After a change of policies or labels, judge later traffic by the new ones.

        After a start, nothing has changed until all policies are known.
        """
        self._attribution.learn(context)
        changes = self._attribution.verdicts.changes
        if self._policy_changes != changes and not context.declared.unsynced:
            columns = self._connections.columns
            before = columns.first_ns <= self.settled_ns  # those of this epoch are judged already
            judged = before & ~self._pending.among(columns)
            self._recorder.unname(columns, np.flatnonzero(judged))
            self._policy_changes = changes
