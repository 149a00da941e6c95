"""The tiers' say on many connections at once: branch for branch what ``engine`` does for one."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.policy import engine
from podtally.policy.compiled_classes import UNKNOWN_CLASS, Classes
from podtally.policy.compiled_joins import Indices, first_of_runs
from podtally.policy.compiled_pairs import (
    DECIDES,
    SELECTION,
    UNKNOWN_END,
    WAYS,
    Pairing,
    Pairs,
    matching,
)
from podtally.policy.compiled_plans import Plan, Plans
from podtally.policy.compiled_rules import Batch, CompiledPolicy, Numbers, has_ports
from podtally.policy.compiled_sides import PASS_CODE, UNKNOWN_CODE, Sides, code
from podtally.policy.compiled_table import RuleTable
from podtally.policy.model import (
    ADMIN_TIER,
    ALLOW,
    ALLOWED,
    BASELINE_TIER,
    DENIED,
    DENY,
    NETWORK_TIER,
    PASS,
    POD,
    UNDECLARED,
    UNKNOWN,
)

OPEN = -1  # instead of the number of a side: not decided

_VERDICT_OF = {ALLOW: ALLOWED, DENY: DENIED, PASS: PASS}
_CAUSE_OF = {SELECTION: engine.SELECTION, UNKNOWN_END: engine.UNKNOWN_END}


class Asked(NamedTuple):
    """Connections of one direction; index i of every array is the same one."""

    batch: Batch
    plain: Callable[[int], int]  # the plain engine's side, for what is not told by arrays


class _Planned(NamedTuple):
    plans: list[Plan]
    of_row: Indices  # which of them
    is_pod: NDArray[np.bool_]  # of each plan, whether it is a pod's


class Tiers:
    """One direction's policies, which are in ``engine.order``."""

    def __init__(
        self, policies: Sequence[CompiledPolicy], is_egress: bool, classes: Classes, sides: Sides
    ) -> None:
        self._classes, self._sides = classes, sides
        self._policies = [one.policy for one in policies]
        self._table = RuleTable(policies, is_egress, classes)
        self._plans = Plans(policies, self._table, is_egress, classes)
        levels = [(policy.tier, policy.priority) for policy in self._policies]
        numbers = {level: number for number, level in enumerate(dict.fromkeys(levels))}
        self._level = np.array([numbers[level] for level in levels], np.int64)
        codes = [code(self._says(entry)) for entry in range(len(self._table.entries))]
        self._code = np.array(codes, np.uint8)
        self._made = np.full(len(self._table.entries) * WAYS, OPEN, np.int32)

    def judge(self, asked: Asked) -> Numbers:
        found = np.full(len(asked.batch.local), OPEN, np.int32)
        classes, of_row = np.unique(asked.batch.local, return_inverse=True)
        planned = _Planned(
            [self._plans.of(int(number)) for number in classes],
            of_row.ravel(),
            np.array([self._classes.parties[number].kind == POD for number in classes]),
        )
        self._in_order(ADMIN_TIER, planned, asked, found)
        self._united(planned, asked.batch, found)
        self._in_order(BASELINE_TIER, planned, asked, found)
        found[found == OPEN] = self._sides.number(UNDECLARED, engine.OPEN)
        return found

    def _in_order(self, tier: int, planned: _Planned, asked: Asked, found: Numbers) -> None:
        """An admin tier; ``found`` is filled in where it decides."""
        rows = np.flatnonzero(found == OPEN)
        for matches in self._matching(tier, planned, rows, asked.batch):
            policy = self._table.policy[matches.entry]
            firsts = np.flatnonzero(first_of_runs(matches.row, policy))  # of each policy
            pairs, level = matches.take(firsts), self._level[policy[firsts]]
            is_first = first_of_runs(pairs.row)
            first = np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
            says = np.where(pairs.way == DECIDES, self._code[pairs.entry], UNKNOWN_CODE)
            decides = is_first & (says != PASS_CODE)
            found[pairs.row[decides]] = self._sides_of(pairs.take(decides))
            # What the engine's _of_one_priority does for policies that do not agree.
            differs = (level == level[first]) & (says != says[first])
            for row in np.unique(pairs.row[differs]):
                found[row] = asked.plain(int(row))

    def _united(self, planned: _Planned, batch: Batch, found: Numbers) -> None:
        """The tier of NetworkPolicy; HostPolicy's too."""
        told = np.array([bool(plan.told) for plan in planned.plans], np.bool_)
        rows = np.flatnonzero((found == OPEN) & told[planned.of_row])
        undefined = ~has_ports(batch.protocol[rows]) & planned.is_pod[planned.of_row[rows]]
        found[rows[undefined]] = self._isolated(engine.PROTOCOL, planned, rows[undefined])
        rows = rows[~undefined]
        for pairs in self._matching(NETWORK_TIER, planned, rows, batch):
            self._decide(pairs.take(pairs.way == DECIDES), found)
            self._decide(pairs.take(found[pairs.row] == OPEN), found)  # by the first doubt
        # No rule has matched: the engine's _isolated.
        rows = rows[found[rows] == OPEN]
        isolating = np.array([bool(plan.isolating) for plan in planned.plans], np.bool_)
        is_isolated = isolating[planned.of_row[rows]]
        is_stranger = batch.peer[rows] == UNKNOWN_CLASS
        for cause, chosen in (
            (engine.SELECTION, ~is_isolated),
            (engine.UNKNOWN_END, is_isolated & is_stranger),
            (engine.ISOLATED, is_isolated & ~is_stranger),
        ):
            found[rows[chosen]] = self._isolated(cause, planned, rows[chosen])

    def _decide(self, pairs: Pairs, found: Numbers) -> None:
        firsts = pairs.take(first_of_runs(pairs.row))
        found[firsts.row] = self._sides_of(firsts)

    def _matching(
        self, tier: int, planned: _Planned, rows: Indices, batch: Batch
    ) -> Iterator[Pairs]:
        codes = [plan.tiers[tier] for plan in planned.plans]
        return matching(Pairing(codes, planned.of_row, rows), self._table, batch)

    def _isolated(self, cause: str, planned: _Planned, rows: Indices) -> Numbers:
        """Sides that name the policies that isolate, or the first of those that may."""
        numbers, inverse = np.unique(planned.of_row[rows], return_inverse=True)
        verdict = DENIED if cause == engine.ISOLATED else UNKNOWN
        sides = []
        for plan in map(planned.plans.__getitem__, numbers):
            named = plan.told[:1] if cause == engine.SELECTION else plan.isolating
            sides.append(self._sides.number(verdict, cause, named))
        return np.array(sides, np.int32)[inverse.ravel()]

    def _sides_of(self, pairs: Pairs) -> Numbers:
        """Each is made when it first occurs, since most never do."""
        places = pairs.entry * WAYS + pairs.way
        for place in np.unique(places[self._made[places] == OPEN]):
            self._made[place] = self._side(*divmod(int(place), WAYS))
        found: Numbers = self._made[places]
        return found

    def _side(self, entry: int, way: int) -> int:
        policy, rule = self._policies[self._table.policy[entry]], self._table.entries[entry]
        if rule is None:
            return self._sides.number(UNKNOWN, engine.UNREADABLE, (policy,))
        if way == DECIDES:
            return self._sides.number(self._says(entry), engine.RULE, (policy,), rule.rule)
        cause = _CAUSE_OF.get(way, engine.DOUBT)
        return self._sides.number(UNKNOWN, cause, (policy,), rule.rule)

    def _says(self, entry: int) -> str:
        rule = self._table.entries[entry]
        return UNKNOWN if rule is None else _VERDICT_OF[rule.rule.action]
