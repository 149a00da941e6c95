# SPDX-License-Identifier: Apache-2.0
"""Judge connections by the declared policies when they are attributed.

The local endpoint's policies are evaluated, and the peer's too if it is a pod of this host.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.identity.model import Endpoint
from podtally.ledger.connections.connections import INITIATOR_ENDPOINT, INITIATOR_PEER
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.connections.initiator import is_certain
from podtally.ledger.verdicts.judge_input import JudgeInput
from podtally.ledger.verdicts.judgements import JudgementTable
from podtally.ledger.verdicts.policy_endpoints import PolicyEndpointNumbers
from podtally.ledger.verdicts.verdict_columns import (
    NOT_JUDGED,
    VerdictColumns,
    combine_openings,
    no_verdicts,
)
from podtally.policy.explain.domains import expired_words, strict_words
from podtally.policy.load.candidates import has_candidates, with_candidates
from podtally.policy.load.policy_sources import DeclaredPolicies
from podtally.policy.model import DENIED, VERDICTS, PolicyEndpoint
from podtally.policy.vector.evaluator import Evaluator, PackedConnections, combine
from podtally.policy.vector.reasons import ReasonBudget

CHANGED_SINCE = "policies or labels have changed since"
UNSEEN = "unknown initiator, and policies decide differently for the two directions"
FOREIGN_SOURCE = "sent from an address that is not this endpoint's"
_DENIED = VERDICTS.index(DENIED)
_WORK = 3000  # units of work for reasons in an epoch, for events and for the flow log: 0.1 s each


class ConnectionVerdicts(NamedTuple):
    """Of connections; index i of every array is the same one."""

    judgement: NDArray[np.int64]  # index in ``VerdictStage.judgements``
    columns: VerdictColumns

    def take(self, index: NDArray[np.int64]) -> "ConnectionVerdicts":
        columns = VerdictColumns._make(column[index] for column in self.columns)
        return ConnectionVerdicts(self.judgement[index], columns)


class VerdictStage:
    """Policies and endpoints as of the last ``learn``, and the verdicts by them."""

    def __init__(self) -> None:
        self.version = 0  # grows when numbers of endpoints or judgements become invalid
        self.endpoints = PolicyEndpointNumbers()
        self._evaluator = _evaluator()
        self._candidates: Evaluator | None = None  # policies with the candidates
        self._judgements = JudgementTable(self._evaluator, None)
        self._declared: DeclaredPolicies | None = None
        self._policy_changes = 0
        self._of_events, self._of_ended = (ReasonBudget(_WORK, _WORK // 2) for _ in range(2))
        self._at_ns = 0  # of the epoch that the budgets are for

    @property
    def judgements(self) -> JudgementTable:
        return self._judgements

    @property
    def changes(self) -> int:
        """A number that grows when connections may get other verdicts than before."""
        return self._policy_changes + self.endpoints.changes

    # -- what is known ----------------------------------------------------------------

    def learn(self, context: EpochContext) -> None:
        """Update policies and endpoints; costs nothing if they are unchanged."""
        if context.now_ns != self._at_ns:
            self._at_ns = context.now_ns
            self._of_events.begin()
            self._of_ended.begin()
        if context.declared is not self._declared:
            self._declare(context.declared)
        owners, labels = context.names.owners, context.cluster_labels
        if not self.endpoints.is_table(owners, labels):
            if self.endpoints.is_full(owners):
                self._restart(context.declared)
            self._forget()
        self.endpoints.learn(owners, labels)
        self._add_endpoints()

    def endpoint_number(self, endpoint: Endpoint) -> int:
        """Return the number of an endpoint of this host, for ``JudgeInput.endpoint``."""
        number = self.endpoints.number(endpoint)
        self._add_endpoints()
        return number

    def _add_endpoints(self) -> None:
        new = self.endpoints.take_new()
        if new:
            self._evaluator.add_endpoints(new)
            if self._candidates is not None:
                self._candidates.add_endpoints(new)

    def _declare(self, declared: DeclaredPolicies) -> None:
        self._declared = declared
        self._evaluator.set_policies(declared.policies)
        if has_candidates(declared):
            if self._candidates is None:
                self._candidates = _evaluator(self.endpoints.numbers)
            self._candidates.set_policies(with_candidates(declared))
        else:
            self._candidates = None
        self._forget()
        self._policy_changes += 1

    def _restart(self, declared: DeclaredPolicies) -> None:
        """Number endpoints from zero, without those that are gone."""
        self.endpoints.restart()
        self._evaluator, self._candidates = _evaluator(), None
        self._declare(declared)

    def _forget(self) -> None:
        self.version += 1
        self._judgements = JudgementTable(self._evaluator, self._candidates)

    # -- verdicts ----------------------------------------------------------------------

    def judge(self, given: JudgeInput) -> ConnectionVerdicts:
        columns = self._judge(self._evaluator, given)
        others = None
        if self._candidates is not None:
            others = self._judge(self._candidates, given)
        return ConnectionVerdicts(self._judgements.of(given, columns, others), columns)

    def _judge(self, evaluator: Evaluator, given: JudgeInput) -> VerdictColumns:
        columns = self._of_sources(evaluator, given)
        # From a foreign address only a denial is certain.
        doubted = given.foreign & (columns.verdict != _DENIED)
        if doubted.any():
            columns.put(np.flatnonzero(doubted), no_verdicts(int(doubted.sum())))
        return columns

    def _of_sources(self, evaluator: Evaluator, given: JudgeInput) -> VerdictColumns:
        """Judge connections as if each were sent from the endpoint's own address."""
        certain = is_certain(given.initiator)
        if certain.all():
            return self._of_openings(evaluator, given)
        found = no_verdicts(len(given.endpoint))
        known, others = np.flatnonzero(certain), np.flatnonzero(~certain)
        found.put(known, self._of_openings(evaluator, given.take(known)))
        some = given.take(others)
        local = self._of_openings(evaluator, some.opened_by(INITIATOR_ENDPOINT))
        peer = self._of_openings(evaluator, some.opened_by(INITIATOR_PEER))
        found.put(others, combine_openings(local, peer, some))
        return found

    def _of_openings(self, evaluator: Evaluator, given: JudgeInput) -> VerdictColumns:
        """Judge connections with a known opener."""
        n = len(given.endpoint)
        peer, is_egress = (
            self.endpoints.of_owners(given.owner),
            given.initiator == INITIATOR_ENDPOINT,
        )
        local = evaluator.judge(_local(given, peer, is_egress))
        verdict, peer_outcome = local.verdict.copy(), np.full(n, NOT_JUDGED, np.int32)
        both = np.flatnonzero(self.endpoints.are_local(given.owner) & (peer >= 0))
        if len(both):
            theirs = evaluator.judge(_reverse(given.take(both), peer[both], is_egress[both]))
            peer_outcome[both] = theirs.outcome
            verdict[both] = combine(local.verdict[both], theirs.verdict)
        return VerdictColumns(
            verdict=verdict,
            local=local.outcome,
            peer=peer_outcome,
            local_verdict=local.verdict,
            opened=given.initiator.copy(),
            port_known=np.ones(n, np.bool_),
            local_strict=local.strict,
            in_doubt=np.zeros(n, np.bool_),
        )

    # -- reasons -----------------------------------------------------------------------

    def reasons(
        self, given: JudgeInput, verdicts: ConnectionVerdicts, earlier: Sequence[str]
    ) -> list[str]:
        """Return the reasons of verdicts, of which ``earlier`` (n,) were given at the time."""
        keys = np.column_stack(
            [
                given.endpoint.astype(np.int64),
                given.owner,
                given.peer_address.astype(np.int64),
                given.protocol,
                given.server_port,
                given.initiator,
                given.names.apart(len(given.owner)),
            ]
        )
        _, first, place = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        texts = self._texts(given.take(first), verdicts.take(first), self._of_ended)
        return [
            texts[at] if VERDICTS[code] == verdict else CHANGED_SINCE
            for at, code, verdict in zip(
                place.ravel().tolist(), verdicts.columns.verdict.tolist(), earlier, strict=True
            )
        ]

    def expired_reason(self, given: JudgeInput, index: int, verdicts: ConnectionVerdicts) -> str:
        """Return which rule allows a connection by an expired answer, without times."""
        some = given.take(np.array([index])).opened_by(INITIATOR_ENDPOINT)
        packed = _local(some, self.endpoints.of_owners(some.owner), np.ones(1, np.bool_))
        conn = self._evaluator.rule_input(packed, 0)
        return expired_words(self._evaluator.outcome(int(verdicts.columns.local[index])), conn)

    def local_reason(self, given: JudgeInput, index: int, verdicts: ConnectionVerdicts) -> str:
        """Return the reason of one connection's local verdict, for an event."""
        row = np.array([index])
        verdict = verdicts.take(row)
        local = verdict.columns._replace(peer=np.full(1, NOT_JUDGED, np.int32))
        return self._texts(given.take(row), verdict._replace(columns=local), self._of_events)[0]

    def _texts(
        self, given: JudgeInput, verdicts: ConnectionVerdicts, budget: ReasonBudget
    ) -> list[str]:
        """Return the reasons of the local endpoint, and of the peer where that decides too. (n,)"""
        columns = verdicts.columns
        given = given.opened_as(columns.opened)
        peer, is_egress = (
            self.endpoints.of_owners(given.owner),
            given.initiator == INITIATOR_ENDPOINT,
        )
        texts: list[list[str]] = [[] for _ in range(len(given.endpoint))]
        for numbers, packed in (
            (columns.local, _local(given, peer, is_egress)),
            (columns.peer, _reverse(given, peer, is_egress)),
        ):
            decides = self._evaluator.verdicts(numbers) == columns.verdict
            rows = np.flatnonzero((numbers != NOT_JUDGED) & decides)
            some = PackedConnections._make(column[rows] for column in packed)
            found = self._evaluator.reasons(some, numbers[rows], budget)
            for row, text in zip(rows.tolist(), found, strict=True):
                texts[row].append(text)
        for row in np.flatnonzero(columns.local == NOT_JUDGED).tolist():
            texts[row] = [FOREIGN_SOURCE if given.foreign[row] else UNSEEN]
        for row in np.flatnonzero(columns.local_strict != columns.local_verdict).tolist():
            strict = VERDICTS[int(columns.local_strict[row])]
            texts[row].append(strict_words(strict))
        return ["; ".join(dict.fromkeys(each)) for each in texts]


def _evaluator(endpoints: Iterable[PolicyEndpoint] = ()) -> Evaluator:
    # What a pod sends to its own address stays within it: what is seen came through a Service.
    return Evaluator((), endpoints, by_service=True)


def _local(
    given: JudgeInput, peer: NDArray[np.int32], is_egress: NDArray[np.bool_]
) -> PackedConnections:
    """Return connections as the local endpoint's policies see them."""
    return PackedConnections(
        local=given.endpoint,
        peer=peer,
        high=given.peer_address[:, 0],
        low=given.peer_address[:, 1],
        protocol=given.protocol.astype(np.int32),
        port=given.server_port.astype(np.int32),
        is_egress=is_egress,
        names=given.names,
    )


def _reverse(
    given: JudgeInput, peer: NDArray[np.int32], is_egress: NDArray[np.bool_]
) -> PackedConnections:
    """Return connections as the peer's policies see them."""
    swapped = given._replace(
        endpoint=peer, peer_address=given.local_address, names=given.peer_names
    )
    return _local(swapped, given.endpoint, ~is_egress)
