# SPDX-License-Identifier: Apache-2.0
"""Compares decided connections with their verdicts, and counts what the cluster did with them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.accounts.accounts import AccountTable
from podtally.ledger.accounts.outcome_series import Cells, audited_namespace
from podtally.ledger.connections.connections import ConnectionColumns, Connections
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.outcomes.audit_events import AuditEvents
from podtally.ledger.outcomes.forged_answers import are_forged
from podtally.ledger.outcomes.policy_changes import PolicyChanges
from podtally.outcomes import enforcement
from podtally.outcomes.enforcement import AuditInput

_HELD_NS = 3_000_000_000  # policies in files are read every 2 s


class AuditBooking:
    """Over the connections and accounts of one ledger."""

    def __init__(
        self, connections: Connections, accounts: AccountTable, events: AuditEvents
    ) -> None:
        self._connections = connections
        self._accounts = accounts
        self._events = events
        self._changes = PolicyChanges()
        self._closed: Sequence[ConnectionColumns] = ()
        self._now_ns = 0

    def begin_epoch(self, context: EpochContext, closed: Sequence[ConnectionColumns]) -> None:
        """``closed`` are connections that are no longer among the open ones."""
        self._changes.learn(context.declared.policies, context.now_ns)
        self._closed, self._now_ns = closed, context.now_ns

    def are_held(self, columns: ConnectionColumns, outcome: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return which connections (n,) with their outcomes cannot be audited yet: a change of
        policies may be on its way to us that the cluster has enforced already, or what seems to
        answer them comes from an endpoint that waits for the name of that address.
        """
        found = np.zeros(len(outcome), np.bool_)
        stance = self._accounts.outcomes.stance[np.maximum(columns.account, 0)]
        denied = (stance & enforcement.DENIED != 0) & (columns.account >= 0)
        rows = np.flatnonzero(denied & np.isin(outcome, enforcement.GOT_THROUGH))
        if len(rows):
            forged = are_forged(columns.take(rows), self._of(self._accounts.waiting))
            found[rows] = forged | (columns.first_ns[rows] > self._now_ns - _HELD_NS)
        return found

    def book(self, columns: ConnectionColumns, cells: Cells, now_ns: int) -> None:
        """Count connections (n,) that have just been decided; they have their labels."""
        series = self._accounts.outcomes
        stance = series.stance[cells.account]
        audited = np.flatnonzero(stance & _AUDITED != 0)
        if not len(audited):
            return
        columns, cells = columns.take(audited), cells.take(audited)
        key = columns.key
        suspects = self._of(series.spoofs) + self._of(self._accounts.waiting)
        given = AuditInput(
            stance=stance[audited],
            outcome=columns.outcome,
            opener=cells.direction,
            protocol=key["protocol"],
            is_ipv6=key["local_address"][:, 0] != 0,
            progress=columns.progress,
            client_port=np.where(cells.direction == 0, key["local_port"], key["remote_port"]),
            forged=are_forged(columns, suspects),
        )
        result = enforcement.results(given)
        early = (result != enforcement.NO_RESULT) & self._is_early(columns, cells)
        result[early] = enforcement.INCONCLUSIVE
        some = np.flatnonzero(result != enforcement.NO_RESULT)
        if len(some):
            judged = cells._replace(value=result).take(some)
            series.enforcement.add(judged, _ones(some), now_ns)
            series.audit.add(judged, _ones(some), now_ns)
            self._events.report(columns.take(some), judged, self._accounts.at, now_ns)
        some = np.flatnonzero(enforcement.stopped_for_peer(given))
        if len(some):
            at_peer = cells._replace(value=np.full(len(audited), enforcement.ENFORCED))
            series.audit.add(at_peer.take(some), _ones(some), now_ns)

    def _of(self, accounts: NDArray[np.bool_]) -> list[ConnectionColumns]:
        """Return the connections of accounts, given as a mask by index."""
        found = []
        for part in (self._connections.columns, *self._closed):
            rows = np.flatnonzero(accounts[np.maximum(part.account, 0)] & (part.account >= 0))
            if len(rows):
                found.append(part.take(rows))
        return found

    def _is_early(self, columns: ConnectionColumns, cells: Cells) -> NDArray[np.bool_]:
        """Return which began when the cluster may not have enforced its policies of now. (n,)"""
        if not self._changes:
            return np.zeros(len(cells.account), np.bool_)
        different, place = np.unique(cells.account, return_inverse=True)
        found = self._accounts.at(different)
        settled_ns = np.array(
            [self._changes.settled_ns(audited_namespace(found[i])) for i in different.tolist()],
            np.int64,
        )
        early: NDArray[np.bool_] = columns.first_ns < settled_ns[place.ravel()]
        return early


_AUDITED = enforcement.DENIED | enforcement.ALLOWED | enforcement.DENIED_BY_PEER


def _ones(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.ones((len(rows), 1), np.int64)
