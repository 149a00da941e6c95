# SPDX-License-Identifier: Apache-2.0
"""Number the judgements of connections, so that accounts can be told apart by them."""

import numpy as np
from numpy.typing import NDArray

from podtally.arrays.distinct import distinct
from podtally.arrays.packed_fields import PackedFields
from podtally.ledger.connections.account import Judgement
from podtally.ledger.connections.connections import INITIATOR_UNKNOWN
from podtally.ledger.series.label_sets import DIRECTIONS
from podtally.ledger.verdicts.judge_input import JudgeInput
from podtally.ledger.verdicts.verdict_columns import (
    NOT_JUDGED,
    VerdictColumns,
    cause_label,
    is_undecided,
)
from podtally.policy.explain.reasons import deciding_policies
from podtally.policy.model import ALLOWED, DENIED, UNKNOWN, VERDICTS
from podtally.policy.vector.evaluator import Evaluator

UNKNOWN_INITIATOR = "unknown initiator"  # a cause: the opening was not seen
FOREIGN_SENDER = "foreign source"  # a cause: sent from an address that is not the endpoint's
_UNKNOWN, _DENIED = VERDICTS.index(UNKNOWN), VERDICTS.index(DENIED)
_ALLOWED = VERDICTS.index(ALLOWED)

# Outcomes, the candidates' verdict and the strict one are stored plus 1: 0 is none.
_PARTS = PackedFields(
    candidate_outcome=24,
    candidate_verdict=3,
    foreign=1,
    undecided=1,
    exposed=1,
    opened=2,
    outcome=24,
    verdict=3,
    strict=3,
    by_peer=1,
)


class JudgementTable:
    """Judgements by number; valid until policies change.

    ``candidates`` evaluates policies together with the candidates, if there are any.
    """

    def __init__(self, evaluator: Evaluator, candidates: Evaluator | None) -> None:
        self.values: list[Judgement] = []
        self._evaluator = evaluator
        self._candidates = candidates
        self._numbers: dict[Judgement, int] = {}
        self._by_parts: dict[int, int] = {}
        self._undecided = np.zeros(0, np.bool_)  # by number

    def of(
        self, given: JudgeInput, columns: VerdictColumns, with_candidates: VerdictColumns | None
    ) -> NDArray[np.int64]:
        """Return the numbers of connections' judgements. (n,)"""
        denied = (columns.verdict == _DENIED) & (columns.local_verdict == _DENIED)
        unknown = columns.verdict == _UNKNOWN
        undecided = unknown & (columns.local_verdict == _UNKNOWN)
        undecided &= ~given.may_be_unknown & ~given.foreign
        undecided &= columns.in_doubt | (columns.local != NOT_JUDGED)
        shows_direction, opened = denied | undecided, columns.opened
        parts = {
            "verdict": columns.verdict,
            "outcome": np.where(denied | unknown, columns.decisive() + 1, 0),
            "exposed": given.exposed,
            "undecided": undecided,
            "foreign": given.foreign,
        }
        by_peer = (columns.verdict == _DENIED) & ~denied & (columns.peer != NOT_JUDGED)
        if by_peer.any():
            parts["by_peer"] = by_peer
            parts["outcome"] = np.where(by_peer, columns.peer + 1, parts["outcome"])
        by_rule = (columns.verdict == _ALLOWED) & (columns.local_verdict == _ALLOWED)
        parts["outcome"] = np.where(by_rule, columns.local + 1, parts["outcome"])
        expired = columns.local_strict != columns.local_verdict
        if expired.any():
            parts["strict"] = np.where(expired, columns.local_strict + 1, 0)
            allowed = columns.are_by_expired()
            parts["outcome"] = np.where(allowed, columns.local + 1, parts["outcome"])
        if with_candidates is not None:
            others = with_candidates
            differs = (others.verdict != columns.verdict) & (
                others.local_verdict != columns.local_verdict
            )
            shows_direction = shows_direction | differs
            opened = np.where(opened == INITIATOR_UNKNOWN, others.opened, opened)
            denies = differs & (others.local_verdict == _DENIED)
            parts["candidate_verdict"] = np.where(differs, others.verdict + 1, 0)
            parts["candidate_outcome"] = np.where(denies, others.local + 1, 0)
        parts["opened"] = np.where(shows_direction, opened, 0)
        different, place = distinct(_PARTS.pack(**parts))
        numbers = [self._number(each) for each in different.tolist()]
        return np.array(numbers, np.int64)[place]

    def undecided(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which verdicts are unknown although policies isolate the endpoint. (n,)"""
        if len(self._undecided) < len(self.values):
            self._undecided = np.array([each.undecided for each in self.values], np.bool_)
        return self._undecided[numbers]

    def _number(self, packed: int) -> int:
        number = self._by_parts.get(packed)
        if number is None:
            judgement = self._judgement(packed)
            number = self._numbers.setdefault(judgement, len(self.values))
            if number == len(self.values):
                self.values.append(judgement)
            self._by_parts[packed] = number
        return number

    def _judgement(self, packed: int) -> Judgement:
        parts = _PARTS.unpack(packed)
        verdict, outcome = VERDICTS[parts["verdict"]], parts["outcome"] - 1
        candidate, candidate_outcome = parts["candidate_verdict"], parts["candidate_outcome"] - 1
        undecided, opened = bool(parts["undecided"]), parts["opened"]
        policy = cause = candidate_policy = by_expired = allowed_by = peer_policy = ""
        strict = VERDICTS[parts["strict"] - 1] if parts["strict"] else ""
        if verdict == UNKNOWN:
            cause = FOREIGN_SENDER if parts["foreign"] else UNKNOWN_INITIATOR
            if outcome != NOT_JUDGED:
                result = self._evaluator.outcome(outcome)
                cause, undecided = cause_label(result), undecided and is_undecided(result)
        elif parts["by_peer"]:
            peer_policy = deciding_policies(self._evaluator.outcome(outcome))
        elif outcome != NOT_JUDGED and verdict == ALLOWED and not strict:
            allowed_by = deciding_policies(self._evaluator.outcome(outcome))
        elif outcome != NOT_JUDGED and strict == DENIED:
            by_expired = deciding_policies(self._evaluator.outcome(outcome))
        elif outcome != NOT_JUDGED:
            policy = deciding_policies(self._evaluator.outcome(outcome))
        if candidate_outcome != NOT_JUDGED and self._candidates is not None:
            candidate_policy = deciding_policies(self._candidates.outcome(candidate_outcome))
        return Judgement(
            verdict=verdict,
            direction=DIRECTIONS[opened - 1] if opened else "",
            policy=policy,
            cause=cause,
            exposed=bool(parts["exposed"]),
            candidate=VERDICTS[candidate - 1] if candidate else "",
            candidate_policy=candidate_policy,
            undecided=undecided,
            foreign=bool(parts["foreign"]),
            strict=strict,
            by_expired=by_expired,
            allowed_by=allowed_by,
            peer_policy=peer_policy,
        )
