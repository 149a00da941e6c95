# SPDX-License-Identifier: Apache-2.0
"""The series of accounts that depend on what became of a connection; made when first counted."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.connections.account import APART, Account, flow_labels, port_name, protocol_of
from podtally.ledger.metrics import outcome_families as families
from podtally.ledger.metrics.family import Family
from podtally.ledger.metrics.tables import Tables
from podtally.ledger.series.label_sets import (
    DIRECTIONS,
    AuditLabels,
    EndingLabels,
    EnforcementLabels,
    FlowLabels,
    HandshakeLabels,
    OutcomeLabels,
    RetransmitLabels,
)
from podtally.ledger.series.series import NO_SERIES, SeriesTable, padded, used
from podtally.outcomes import enforcement
from podtally.outcomes.decision import ENDINGS, OUTCOMES
from podtally.outcomes.enforcement import RESULTS

STEPS = ("answer", "completion")  # of a handshake
_NS = 1_000_000_000
_OUTSIDE = ("external", "unknown")  # kinds of peers
_SERVICE, _POD, _NODE = "service", "pod", "node"

Make = Callable[[Account, str, int], Any]
FindAccounts = Callable[[NDArray[np.int64]], dict[int, Account]]


class Cells(NamedTuple):
    """What connections are counted under; index i of every array is the same one."""

    account: NDArray[np.int64]
    direction: NDArray[np.int64]  # in which they were opened
    value: NDArray[Any]  # an outcome, ending, step or result

    def take(self, index: NDArray[np.int64]) -> "Cells":
        return Cells._make(column[index] for column in self)


class CellSeries:
    """The series of accounts in one family, by account, direction and a third value."""

    def __init__(
        self, table: SeriesTable[Any], values: int, make: Make, accounts: FindAccounts
    ) -> None:
        """``make`` returns the labels of an account, a direction and a value; ``accounts`` the
        accounts at indexes.
        """
        self.table = table
        self._values, self._make, self._accounts = values, make, accounts
        self.series = np.full((16, 2 * values), NO_SERIES, np.int64)

    def add(self, cells: Cells, amounts: NDArray[np.int64], now_ns: int) -> None:
        """Add amounts (n, width) to cells (n,), which may repeat."""
        account, width = cells.account, 2 * self._values
        cell = cells.direction * self._values + cells.value.astype(np.int64)
        missing = np.flatnonzero(self.series[account, cell] == NO_SERIES)
        if len(missing):
            different = np.unique(account[missing] * width + cell[missing])
            found = self._accounts(np.unique(different // width))
            for each in different.tolist():
                index, at = divmod(each, width)
                labels = self._make(found[index], DIRECTIONS[at // self._values], at % self._values)
                self.series[index, at] = self.table.index_of(labels, now_ns)
        self.table.add(self.series[account, cell], amounts, now_ns)

    def make_room(self, size: int) -> None:
        self.series = padded(self.series, size, NO_SERIES)


class OutcomeSeries:
    """All families of outcomes; ``stance`` says what policy says of an account's connections."""

    def __init__(self, tables: Tables, accounts: FindAccounts) -> None:
        def cells(family: Family[Any], values: int, make: Make) -> CellSeries:
            return CellSeries(tables[family], values, make, accounts)

        self.outcomes = cells(families.OUTCOMES, len(OUTCOMES), _outcome_labels)
        self.endings = cells(families.ENDINGS, len(ENDINGS), _ending_labels)
        self.handshakes = cells(families.HANDSHAKES, len(STEPS), _handshake_labels)
        self.retransmits = cells(families.RETRANSMITS, 1, _retransmit_labels)
        self.enforcement = cells(families.ENFORCEMENT, len(RESULTS), _enforcement_labels)
        self.audit = cells(families.AUDIT, len(RESULTS), _audit_labels)
        self._all = (
            *(self.outcomes, self.endings, self.handshakes),
            *(self.retransmits, self.enforcement, self.audit),
        )
        self._flows: SeriesTable[FlowLabels] = tables.by_name["flows"]
        self.stance = np.zeros(16, np.uint8)
        self.spoofs = np.zeros(16, np.bool_)  # the endpoint sends from foreign addresses
        self.counted = np.zeros(16, np.bool_)  # whether the account has series at all

    def enter(self, account: Account, index: int) -> None:
        self.counted[index] = account.port not in APART
        judgement = account.judgement
        stance = enforcement.DENIED if judgement.policy else 0
        if judgement.allowed_by:
            stance = enforcement.ALLOWED
        if judgement.peer_policy:
            stance = enforcement.DENIED_BY_PEER
        if account.peer_kind in _OUTSIDE:
            stance |= enforcement.PEER_OUTSIDE
        if account.peer_kind == _SERVICE:
            stance |= enforcement.PEER_SERVICE
        self.stance[index], self.spoofs[index] = stance, judgement.foreign

    def leave(self, index: int) -> None:
        self.stance[index], self.counted[index], self.spoofs[index] = 0, False, False
        for each in self._all:
            each.series[index] = NO_SERIES

    def in_use(
        self, accounts: NDArray[np.bool_]
    ) -> Iterator[tuple[SeriesTable[Any], NDArray[np.int64]]]:
        """Yield each table with the series of accounts, given as a mask by index."""
        for each in self._all:
            in_use = used(each.series[accounts])
            if each is self.outcomes:  # so that their sums stay those of the flows' series
                in_use = np.union1d(in_use, self._with_flows())
            yield each.table, in_use

    def _with_flows(self) -> NDArray[np.int64]:
        """Return the series of outcomes for flows that have series."""
        table, find = self.outcomes.table, self._flows.find
        shown = [i for i, labels in table.pairs() if find(FlowLabels(*labels[:-1])) is not None]
        return np.array(shown, np.int64)

    def make_room(self, size: int) -> None:
        self.stance = padded(self.stance, size, 0)
        self.counted = padded(self.counted, size, False)
        self.spoofs = padded(self.spoofs, size, False)
        for each in self._all:
            each.make_room(size)


def bucket_amounts(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the sums of ``families.HANDSHAKES`` for one observation each. (n, width)"""
    bounds = np.array(families.HANDSHAKE_BOUNDS)
    amounts = np.zeros((len(seconds), len(bounds) + 2), np.int64)
    amounts[np.arange(len(seconds)), np.searchsorted(bounds, seconds)] = 1
    amounts[:, -1] = np.rint(seconds * _NS)
    return amounts


def _outcome_labels(account: Account, direction: str, value: int) -> OutcomeLabels:
    return OutcomeLabels(**flow_labels(account, direction)._asdict(), outcome=OUTCOMES[value])


def _ending_labels(account: Account, direction: str, value: int) -> EndingLabels:
    flow = flow_labels(account, direction)
    return EndingLabels(
        namespace=flow.namespace,
        workload=flow.workload,
        direction=direction,
        peer_kind=flow.peer_kind,
        scope=flow.scope,
        ending=ENDINGS[value],
    )


def _handshake_labels(account: Account, direction: str, value: int) -> HandshakeLabels:
    flow = flow_labels(account, direction)
    return HandshakeLabels(
        namespace=flow.namespace,
        workload=flow.workload,
        direction=direction,
        peer_kind=flow.peer_kind,
        scope=flow.scope,
        protocol=flow.protocol,
        step=STEPS[value],
    )


def _retransmit_labels(account: Account, direction: str, value: int) -> RetransmitLabels:
    flow = flow_labels(account, direction)
    return RetransmitLabels(
        namespace=flow.namespace,
        workload=flow.workload,
        workload_kind=flow.workload_kind,
        peer_kind=flow.peer_kind,
        peer_namespace=flow.peer_namespace,
        peer_workload=flow.peer_workload,
        scope=flow.scope,
        port=flow.port,
        peer_domain=flow.peer_domain,
    )


def _enforcement_labels(account: Account, direction: str, value: int) -> EnforcementLabels:
    flow = flow_labels(account, direction)
    return EnforcementLabels(
        namespace=flow.namespace,
        workload=flow.workload,
        direction=direction,
        peer_kind=account.peer_kind,
        peer_namespace=account.peer_namespace,
        peer_workload=account.peer_workload,
        protocol=protocol_of(account),
        port=port_name(account.port),
        verdict=account.verdict,
        result=RESULTS[value],
    )


def _audit_labels(account: Account, direction: str, value: int) -> AuditLabels:
    judgement = account.judgement
    at_peer = bool(judgement.peer_policy)  # what its policy does is seen at the client
    return AuditLabels(
        policy=judgement.peer_policy or judgement.policy or judgement.allowed_by,
        namespace=account.peer_namespace if at_peer else audited_namespace(account),
        direction=DIRECTIONS[1] if at_peer else direction,
        verdict="denied" if at_peer or judgement.policy else "allowed",
        result=RESULTS[value],
        ends="both" if account.peer_kind == _POD and account.distance == _NODE else "one",
    )


def audited_namespace(account: Account) -> str:
    """Return the namespace of the endpoint under audit."""
    return account.endpoint_namespace or account.namespace
