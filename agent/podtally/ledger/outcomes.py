# SPDX-License-Identifier: Apache-2.0
"""Put together what policy says of a connection that either side may have opened."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.connections import (
    BEGAN_HERE,
    BEGAN_SIDE,
    BEGAN_THERE,
    BEGAN_UNKNOWN,
    CONTESTED,
)
from podtally.ledger.judge_input import JudgeInput
from podtally.policy.model import DENIED, UNKNOWN, VERDICTS, DirectionVerdict
from podtally.policy.reference import engine

NO_OUTCOME = -1  # nobody was asked
# Causes of an `unknown` that is missed where a policy isolates. Of objects that cannot be read, and
# of selectors that cannot be evaluated, there are alerts of their own.
_MISSED = (engine.PROTOCOL, engine.UNKNOWN_END, engine.DOUBT, engine.SAME_PRIORITY)
_UNKNOWN, _DENIED = VERDICTS.index(UNKNOWN), VERDICTS.index(DENIED)


class Outcomes(NamedTuple):
    """Of connections; index i of every array is the same one."""

    verdict: NDArray[np.uint8]  # of both ends
    here: NDArray[np.int32]
    there: NDArray[np.int32]
    own: NDArray[np.uint8]  # the verdict of our end alone
    opened: NDArray[np.uint8]  # BEGAN_*
    port_known: NDArray[np.bool_]
    in_doubt: NDArray[np.bool_]  # our end denies the one opening, and it may have been the other

    def put(self, rows: NDArray[np.int64], part: "Outcomes") -> None:
        for name in Outcomes._fields:
            getattr(self, name)[rows] = getattr(part, name)

    def decisive(self) -> NDArray[np.int64]:
        """The side that makes the verdict what it is; ours, if it is both."""
        return np.where(self.own == self.verdict, self.here, self.there).astype(np.int64)


def no_outcomes(count: int) -> Outcomes:
    """Of connections on which no side could be asked."""
    nobody, unknown = np.full(count, NO_OUTCOME, np.int32), np.full(count, _UNKNOWN, np.uint8)
    no = np.zeros(count, np.bool_)
    opened = np.full(count, BEGAN_UNKNOWN, np.uint8)
    return Outcomes(unknown, nobody, nobody.copy(), unknown.copy(), opened, no, no.copy())


def is_missed(side: DirectionVerdict) -> bool:
    """Whether policies that select our end for certain leave its verdict open."""
    return bool(side.policies) and side.cause in _MISSED


def combine_openings(here: Outcomes, there: Outcomes, ends: JudgeInput) -> Outcomes:
    """Return what holds, given the answers if our end opened them and if the other end did.

    What holds of both openings holds. Where evidence contradicts itself, both are taken to
    have happened, and a denial of one is a denial: so forged evidence hides none.
    """
    contested = ends.began & CONTESTED != 0
    denied_here, denied_there = here.verdict == _DENIED, there.verdict == _DENIED
    one_denied = contested & (denied_here != denied_there)
    decided = one_denied | (here.verdict == there.verdict)
    is_there = np.where(one_denied, denied_there, ends.likely_opener == BEGAN_THERE)
    picked = _where(is_there, there, here)
    port_known = decided & (one_denied | (ends.began & BEGAN_SIDE != 0))
    in_doubt = ~decided & ((here.own == _DENIED) | (there.own == _DENIED))
    found = _where(decided, picked, no_outcomes(len(decided)))
    # Even where it is not known, the direction of a doubt is that of what would be denied.
    opened = np.where(here.own == _DENIED, BEGAN_HERE, BEGAN_THERE)
    opened = np.where(in_doubt, opened, found.opened).astype(np.uint8)
    return found._replace(opened=opened, port_known=port_known, in_doubt=in_doubt)


def _where(condition: NDArray[np.bool_], ones: Outcomes, others: Outcomes) -> Outcomes:
    return Outcomes._make(
        np.where(condition, getattr(ones, name), getattr(others, name)) for name in Outcomes._fields
    )
