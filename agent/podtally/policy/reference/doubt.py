# SPDX-License-Identifier: Apache-2.0
"""Combines the tiers' results: the verdict that holds whatever the doubts turn out to be.

A verdict is unknown only if it depends on missing knowledge. Each tier gives its decision
without its doubts, and the possible verdicts of each doubt.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from podtally.policy.model import PASS, DirectionVerdict


class Doubt(NamedTuple):
    """A rule or policy that may apply."""

    verdicts: frozenset[str]  # the possible ones; PASS: those of the next tiers
    outcome: DirectionVerdict  # unknown, with the cause


class TierResult(NamedTuple):
    """A tier's decision if none of its doubts applies; None: the next tier decides."""

    decided: DirectionVerdict | None
    doubts: Sequence[Doubt] = ()


class Resolved(NamedTuple):
    outcome: DirectionVerdict  # the answer
    without: DirectionVerdict  # the answer if no doubt applies
    verdicts: frozenset[str]  # all possible ones


def resolve(stages: Sequence[Callable[[], TierResult]], last: DirectionVerdict) -> Resolved:
    """Combine tiers in order; later ones are evaluated only if needed. ``last`` is the default."""
    if not stages:
        return Resolved(last, last, frozenset((last.verdict,)))
    decided, doubts = stages[0]()
    passes = any(PASS in doubt.verdicts for doubt in doubts)
    behind = resolve(stages[1:], last) if decided is None or passes else None
    if decided is not None:
        found = Resolved(decided, decided, frozenset((decided.verdict,)))
    else:
        assert behind is not None
        found = behind
    answer: DirectionVerdict | None = None  # the first doubt that matters
    verdicts = found.verdicts
    for doubt, outcome in doubts:
        possible = doubt
        if PASS in doubt:
            assert behind is not None
            possible = doubt - {PASS} | behind.verdicts
        if answer is None and possible != {found.without.verdict}:
            answer = outcome
        verdicts |= possible
    return Resolved(answer or found.outcome, found.without, verdicts)
