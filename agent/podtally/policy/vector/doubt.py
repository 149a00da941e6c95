# SPDX-License-Identifier: Apache-2.0
"""What tiers come to where something is in doubt, of many connections: as ``outcome`` for one.

Verdicts that a connection may have are bits of one byte, in the order of ``compiled_sides.code``.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.policy.vector.lists import Indices, first_of_runs
from podtally.policy.vector.outcomes import PASS_CODE, OutcomeTable, code
from podtally.policy.vector.rules import Numbers

Masks = NDArray[np.uint8]

OPEN = -1  # instead of the number of a side: not decided
PASSES = np.uint8(1 << PASS_CODE)


class Doubts(NamedTuple):
    """Of connections, each in the order in which they come up; index i is the same one."""

    row: Indices
    mask: Masks  # the verdicts it may come to; PASSES: whatever the next tiers say
    side: Numbers  # unknown, with the cause


class TierResults(NamedTuple):
    """A tier: (n,) what it decides if none of its doubts applies; OPEN: the next one is asked."""

    decided: Numbers
    doubts: Doubts

    def unsettled(self) -> NDArray[np.bool_]:
        """(n,); whether the next tiers matter."""
        found: NDArray[np.bool_] = self.decided == OPEN
        found[self.doubts.row[(self.doubts.mask & PASSES) != 0]] = True
        return found


def mask_of(verdicts: Iterable[str]) -> np.uint8:
    return np.uint8(sum(1 << code(verdict) for verdict in verdicts))


def concat_doubts(parts: Sequence[Doubts]) -> Doubts:
    """In the order of their rows; of one row in that of the parts."""
    parts = [part for part in parts if len(part.row)]
    if not parts:
        return _NONE
    row, mask, side = (np.concatenate(columns) for columns in zip(_NONE, *parts, strict=True))
    order = np.argsort(row, kind="stable")
    return Doubts(row[order], mask[order], side[order])


def resolve_all(stages: Sequence[TierResults], last: Numbers, sides: OutcomeTable) -> Numbers:
    """(n,); tiers in order; ``last`` is said behind them all."""
    without, answer = last.copy(), last.copy()
    masks = _bits(sides, last)
    for stage in reversed(stages):
        decided = np.flatnonzero(stage.decided != OPEN)
        behind = masks.copy()
        without[decided] = answer[decided] = stage.decided[decided]
        masks[decided] = _bits(sides, stage.decided[decided])
        row, mask, side = stage.doubts
        if not len(row):
            continue
        passes = (mask & PASSES) != 0
        possible = np.where(passes, mask & ~PASSES | behind[row], mask)
        matters = np.flatnonzero(possible != _bits(sides, without[row]))
        firsts = matters[first_of_runs(row[matters])]
        answer[row[firsts]] = side[firsts]
        np.bitwise_or.at(masks, row, possible)
    return answer


def _bits(sides: OutcomeTable, numbers: Numbers) -> Masks:
    return np.left_shift(np.uint8(1), sides.codes(numbers))


_NONE = Doubts(np.zeros(0, np.int64), np.zeros(0, np.uint8), np.zeros(0, np.int32))
