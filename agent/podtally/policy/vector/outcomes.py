# SPDX-License-Identifier: Apache-2.0
"""Outcomes by number, and how outcomes in doubt combine over tiers."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.policy.model import PASS, VERDICTS, DirectionVerdict, Policy, Rule
from podtally.policy.vector.cache import Numbers
from podtally.policy.vector.ragged import Indices, first_of_runs

_WORDS = (*VERDICTS, PASS)  # in the order of their codes


_KEY = tuple[str, str, tuple[int, ...], int]


class OutcomeTable:
    """Numbers outcomes; a number never changes its meaning."""

    def __init__(self) -> None:
        self._outcomes: list[DirectionVerdict] = []
        self._numbers: dict[_KEY, int] = {}
        self._codes = np.zeros(1024, np.uint8)

    def __len__(self) -> int:
        return len(self._outcomes)

    def __getitem__(self, number: int) -> DirectionVerdict:
        return self._outcomes[number]

    def number(
        self, verdict: str, cause: str, policies: Sequence[Policy] = (), rule: Rule | None = None
    ) -> int:
        # By identity, kept alive by the outcome: hashing policies is slow.
        key = (verdict, cause, tuple(map(id, policies)), id(rule))
        number = self._numbers.setdefault(key, len(self._outcomes))
        if number == len(self._outcomes):
            self._outcomes.append(DirectionVerdict(verdict, cause, tuple(policies), rule))
            if number == len(self._codes):
                self._codes = np.concatenate((self._codes, np.zeros_like(self._codes)))
            self._codes[number] = _WORDS.index(verdict)
        return number

    def of(self, outcome: DirectionVerdict) -> int:
        return self.number(*outcome)

    def codes(self, numbers: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Return their verdicts, as positions in ``model.VERDICTS``."""
        return self._codes[numbers]


def code(verdict: str) -> int:
    return _WORDS.index(verdict)


PASS_CODE = code(PASS)


Masks = NDArray[np.uint8]


OPEN = -1  # instead of an outcome number: undecided


PASSES = np.uint8(1 << PASS_CODE)


class TierDoubts(NamedTuple):
    """Doubts of connections, in order of evaluation; index i is the same one."""

    row: Indices
    mask: Masks  # possible verdicts; PASSES: that of the next tiers
    outcome: Numbers  # unknown, with the cause


class TierResults(NamedTuple):
    """A tier's decisions (n,) without its doubts; OPEN: the next tier decides."""

    decided: Numbers
    doubts: TierDoubts

    def unsettled(self) -> NDArray[np.bool_]:
        """Return where the next tiers matter. (n,)"""
        found: NDArray[np.bool_] = self.decided == OPEN
        found[self.doubts.row[(self.doubts.mask & PASSES) != 0]] = True
        return found


def mask_of(verdicts: Iterable[str]) -> np.uint8:
    return np.uint8(sum(1 << code(verdict) for verdict in verdicts))


def concat_doubts(parts: Sequence[TierDoubts]) -> TierDoubts:
    """Concatenate by row, within a row in the order of the parts."""
    parts = [part for part in parts if len(part.row)]
    if not parts:
        return _NONE
    row, mask, outcome = (np.concatenate(columns) for columns in zip(_NONE, *parts, strict=True))
    order = np.argsort(row, kind="stable")
    return TierDoubts(row[order], mask[order], outcome[order])


def resolve_all(stages: Sequence[TierResults], last: Numbers, outcomes: OutcomeTable) -> Numbers:
    """Return outcomes, (n,), of tiers in order; ``last`` applies after all of them."""
    without, answer = last.copy(), last.copy()
    masks = _bits(outcomes, last)
    for stage in reversed(stages):
        decided = np.flatnonzero(stage.decided != OPEN)
        behind = masks.copy()
        without[decided] = answer[decided] = stage.decided[decided]
        masks[decided] = _bits(outcomes, stage.decided[decided])
        row, mask, outcome = stage.doubts
        if not len(row):
            continue
        passes = (mask & PASSES) != 0
        possible = np.where(passes, mask & ~PASSES | behind[row], mask)
        matters = np.flatnonzero(possible != _bits(outcomes, without[row]))
        firsts = matters[first_of_runs(row[matters])]
        answer[row[firsts]] = outcome[firsts]
        np.bitwise_or.at(masks, row, possible)
    return answer


def _bits(outcomes: OutcomeTable, numbers: Numbers) -> Masks:
    return np.left_shift(np.uint8(1), outcomes.codes(numbers))


_NONE = TierDoubts(np.zeros(0, np.int64), np.zeros(0, np.uint8), np.zeros(0, np.int32))
