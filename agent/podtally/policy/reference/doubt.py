# SPDX-License-Identifier: Apache-2.0
"""Combines tiers where something is in doubt: the verdict that holds whatever turns out, or none.

A verdict is unknown only if it depends on what is not known. Each tier tells what it decides
without its doubts, and what each of these could make of it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from podtally.policy.model import PASS, DirectionVerdict


class Doubt(NamedTuple):
    """A rule, or a policy, of which it is not known whether it applies."""

    verdicts: frozenset[str]  # that it may come to; PASS: whatever the next tiers say
    outcome: DirectionVerdict  # unknown, with the cause


class TierResult(NamedTuple):
    """A tier: what it decides, if none of its doubts applies; None: the next one is asked."""

    decided: DirectionVerdict | None
    doubts: Sequence[Doubt] = ()


class Resolved(NamedTuple):
    outcome: DirectionVerdict  # the answer
    without: DirectionVerdict  # the answer if no doubt applies
    verdicts: frozenset[str]  # all that it may be


def resolve(stages: Sequence[Callable[[], TierResult]], last: DirectionVerdict) -> Resolved:
    """Ask tiers in order, those behind only if they matter; ``last`` is said behind them all."""
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
