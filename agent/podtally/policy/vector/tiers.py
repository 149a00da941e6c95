# SPDX-License-Identifier: Apache-2.0
"""Judges many connections by tiers: branch for branch what the reference engine does for one."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
    Policy,
    Rule,
)
from podtally.policy.reference import engine
from podtally.policy.vector.cache import Numbers
from podtally.policy.vector.classes import UNKNOWN_CLASS, EndpointClasses
from podtally.policy.vector.endpoints import ConnectionBatch, has_ports
from podtally.policy.vector.matching import (
    DECIDES,
    DOUBT,
    MATCH_KINDS,
    SELECTION,
    UNKNOWN_END,
    PairPlan,
    Pairs,
    Plan,
    Plans,
    matching_pairs,
)
from podtally.policy.vector.outcomes import (
    OPEN,
    PASS_CODE,
    OutcomeTable,
    TierDoubts,
    TierResults,
    concat_doubts,
    mask_of,
    resolve_all,
)
from podtally.policy.vector.ragged import Indices, first_of_runs, sum_before
from podtally.policy.vector.rule_table import RuleTable
from podtally.policy.vector.rules import CompiledPolicy

__all__ = ["OPEN", "TierInput", "Tiers"]


_VERDICT_OF = {ALLOW: ALLOWED, DENY: DENIED, PASS: PASS}


_CAUSE_OF = {SELECTION: engine.SELECTION, UNKNOWN_END: engine.UNKNOWN_END}


_ALLOWED, _DENIED = mask_of([ALLOWED]), mask_of([DENIED])


_EITHER, _ANYTHING = _ALLOWED | _DENIED, mask_of([ALLOWED, DENIED, PASS])


_NO_ENTRY = -1  # instead of an entry


_COMPARED = 256  # rules


class TierInput(NamedTuple):
    """Connections of one direction; index i of every array is the same one."""

    batch: ConnectionBatch
    undeniable: (
        Numbers  # an outcome that NetworkPolicy cannot change, see engine._spared; OPEN: none
    )
    peer_may_be_self: bool  # an unknown peer may be the endpoint itself


class _Planned(NamedTuple):
    plans: list[Plan]
    of_row: Indices  # the plan of each row
    is_pod: NDArray[np.bool_]  # (plans,)
    network_policies: NDArray[np.int64]  # (plans,): how many NetworkPolicies may select it
    isolating: NDArray[np.bool_]  # (plans,): one of them certainly selects it


class Tiers:
    """One direction's policies, which are in ``engine.order``."""

    def __init__(
        self,
        policies: Sequence[CompiledPolicy],
        is_egress: bool,
        classes: EndpointClasses,
        outcomes: OutcomeTable,
    ) -> None:
        self._classes, self._outcomes = classes, outcomes
        self._policies = [one.policy for one in policies]
        self._place = {id(policy): place for place, policy in enumerate(self._policies)}
        self._table = RuleTable(policies, is_egress, classes)
        self._plans = Plans(policies, self._table, is_egress, classes)
        self._tiers = {policy.tier for policy in self._policies}
        levels = [(policy.tier, policy.priority) for policy in self._policies]
        numbers = {level: number for number, level in enumerate(dict.fromkeys(levels))}
        self._level = np.array([numbers[level] for level in levels], np.int64)
        says = [self._says(entry) for entry in range(len(self._table.entries))]
        self._mask = np.array(
            [_ANYTHING if verdict == UNKNOWN else mask_of([verdict]) for verdict in says], np.uint8
        )
        self._made = np.full(len(self._table.entries) * MATCH_KINDS, OPEN, np.int32)

    def judge(self, asked: TierInput) -> Numbers:
        planned = self._planned(asked.batch.local)
        rows = np.arange(len(asked.batch.local))
        stages = []
        for tier in (ADMIN_TIER, NETWORK_TIER, BASELINE_TIER):
            if not len(rows) or tier not in self._tiers:
                continue
            stage = (
                self._network_tier(planned, asked, rows)
                if tier == NETWORK_TIER
                else self._admin_tier(tier, planned, asked, rows)
            )
            stages.append(stage)
            rows = rows[stage.unsettled()[rows]]
        last = asked.undeniable.copy()
        last[last == OPEN] = self._outcomes.number(UNDECLARED, engine.OPEN)
        return resolve_all(stages, last, self._outcomes)

    def nearest(
        self, policies: Sequence[Policy], batch: ConnectionBatch
    ) -> tuple[list[tuple[Policy, Rule]], int]:
        """Return the rules nearest to the one connection, at most ``_COMPARED``, and how many of
        their halves (peers, ports) do not match.
        """
        places = np.array([self._place[id(policy)] for policy in policies], np.int64)
        entries = self._table.of_policy.of(places).members()[1]
        if not len(entries):
            return [], 0
        failing = self._table.failing(entries, batch)
        least = int(failing.min())
        found = []
        for entry in entries[failing == least][:_COMPARED].tolist():
            rule = self._table.entries[entry]
            assert rule is not None
            found.append((self._policies[self._table.policy[entry]], rule.rule))
        return found, least

    def _planned(self, local: NDArray[np.int32]) -> _Planned:
        classes, of_row = np.unique(local, return_inverse=True)
        plans = [self._plans.of(int(number)) for number in classes]
        return _Planned(
            plans,
            of_row.ravel(),
            np.array([self._classes.endpoints[number].kind == POD for number in classes], np.bool_),
            np.array([len(plan.network_policies) for plan in plans], np.int64),
            np.array([bool(plan.isolating) for plan in plans], np.bool_),
        )

    def _admin_tier(
        self, tier: int, planned: _Planned, asked: TierInput, rows: Indices
    ) -> TierResults:
        """Evaluate an admin tier, as the engine's ``_in_order`` does."""
        decided = np.full(len(asked.batch.local), OPEN, np.int32)
        doubts = []
        for matches in self._matching(tier, planned, rows, asked):
            pairs = self._until_decided(matches)
            certain = pairs.match_kind == DECIDES
            certain |= pairs.match_kind == UNKNOWN_END
            rules = pairs.take(certain)
            firsts = rules.take(first_of_runs(rules.row))
            firsts = firsts.take(self._mask[firsts.entry] != 1 << PASS_CODE)
            firsts = firsts._replace(match_kind=np.full(len(firsts.row), DECIDES))
            decided[firsts.row] = self._outcomes_of(firsts)
            open_ = pairs.take(pairs.match_kind != DECIDES)
            mask = np.where(open_.match_kind == UNKNOWN_END, _ALLOWED, self._mask[open_.entry])
            found = TierDoubts(open_.row, mask, self._outcomes_of(open_))
            doubts += [found, self._disagreeing(rules)]
        return TierResults(decided, concat_doubts(doubts))

    def _until_decided(self, matches: Pairs) -> Pairs:
        """Drop pairs behind one that decides: those of its policy, and, if it is certain that the
        policy selects the endpoint, those of later priorities.
        """
        row, policy = matches.row, self._table.policy[matches.entry]
        takes = (matches.match_kind != DOUBT).astype(np.int64)
        pairs = matches.take(sum_before(takes, first_of_runs(row, policy)) == 0)
        level = self._level[self._table.policy[pairs.entry]]
        certain = (pairs.match_kind == DECIDES) | (pairs.match_kind == UNKNOWN_END)
        starts = first_of_runs(pairs.row, level)
        # For each run of a row and a level: whether it has a certain pair.
        run = np.cumsum(starts) - 1
        has = np.bincount(run[certain], minlength=int(starts.sum())) > 0
        of_run = first_of_runs(pairs.row[starts])
        kept = sum_before(has.astype(np.int64), of_run) == 0
        return pairs.take(kept[run] if len(run) else np.zeros(0, np.bool_))

    def _disagreeing(self, rules: Pairs) -> TierDoubts:
        """Return doubts where policies of one priority disagree: the engine's SAME_PRIORITY."""
        first = np.flatnonzero(first_of_runs(rules.row))
        of = np.cumsum(first_of_runs(rules.row)) - 1
        mask = self._mask[rules.entry]
        differs = np.bincount(of[mask != mask[first][of]], minlength=len(first)) > 0
        rules, of = rules.take(differs[of]), of[differs[of]]
        if not len(of):
            return TierDoubts(of, mask[:0], np.zeros(0, np.int32))
        first = np.flatnonzero(first_of_runs(of))
        place = np.arange(len(of)) - np.repeat(first, np.diff(np.append(first, len(of))))
        row = np.cumsum(first_of_runs(of)) - 1
        entries = np.full((len(first), int(place.max()) + 1), _NO_ENTRY, np.int64)
        entries[row, place] = rules.entry
        every, kind = np.unique(entries, axis=0, return_inverse=True)
        numbers = np.array([self._disagreement(each) for each in every.tolist()], np.int32)
        masks = np.bitwise_or.reduceat(self._mask[rules.entry], first)
        return TierDoubts(rules.row[first], masks, numbers[kind.ravel()])

    def _disagreement(self, entries: list[int]) -> int:
        named = [entry for entry in entries if entry != _NO_ENTRY]
        policies = [self._policies[self._table.policy[entry]] for entry in named]
        rule = self._table.entries[named[0]]
        assert rule is not None
        return self._outcomes.number(UNKNOWN, engine.SAME_PRIORITY, policies, rule.rule)

    def _network_tier(self, planned: _Planned, asked: TierInput, rows: Indices) -> TierResults:
        """Evaluate the tier of NetworkPolicy and HostPolicy."""
        batch = asked.batch
        decided = np.full(len(batch.local), OPEN, np.int32)
        rows = rows[planned.network_policies[planned.of_row[rows]] > 0]
        is_spared = asked.undeniable[rows] != OPEN
        doubts = [self._judge_undeniable(planned, asked, rows[is_spared], decided)]
        rows = rows[~is_spared]
        undefined = ~has_ports(batch.protocol[rows]) & planned.is_pod[planned.of_row[rows]]
        doubts.append(self._all(engine.PROTOCOL, _EITHER, planned, rows[undefined]))
        rows = rows[~undefined]
        matched = np.zeros(len(batch.local), np.int64)  # policies that allow it
        for pairs in self._matching(NETWORK_TIER, planned, rows, asked):
            sure = pairs.take(pairs.match_kind == DECIDES)
            firsts = sure.take(first_of_runs(sure.row))
            decided[firsts.row] = self._outcomes_of(firsts)
            open_ = pairs.take(decided[pairs.row] == OPEN)
            mask = np.where(self._mask[open_.entry] == _ANYTHING, _EITHER, _ALLOWED)
            doubts.append(TierDoubts(open_.row, mask, self._outcomes_of(open_)))
            matches = open_.take(open_.match_kind == SELECTION)
            once = first_of_runs(matches.row, self._table.policy[matches.entry])
            np.add.at(matched, matches.row[once], 1)
        # No rule certainly matches: the end of the engine's _any_rule.
        rows = rows[decided[rows] == OPEN]
        is_isolated = planned.isolating[planned.of_row[rows]]
        is_stranger = batch.peer[rows] == UNKNOWN_CLASS
        isolated = rows[is_isolated]
        decided[isolated] = self._isolated(engine.ISOLATED, planned, isolated)
        strangers = rows[is_isolated & is_stranger]
        doubts.append(self._all(engine.UNKNOWN_END, _ALLOWED, planned, strangers))
        may_deny = ~is_isolated & (matched[rows] < planned.network_policies[planned.of_row[rows]])
        for chosen, either in (
            (may_deny & is_stranger, _EITHER),
            (may_deny & ~is_stranger, _DENIED),
        ):
            doubts.append(self._all(engine.SELECTION, either, planned, rows[chosen]))
        return TierResults(decided, concat_doubts(doubts))

    def _judge_undeniable(
        self, planned: _Planned, asked: TierInput, rows: Indices, decided: Numbers
    ) -> TierDoubts:
        """Fill in ``decided`` where the tier cannot deny."""
        is_isolated = planned.isolating[planned.of_row[rows]]
        sure = rows[is_isolated]
        decided[sure] = asked.undeniable[sure]
        return self._all(engine.SELECTION, _ALLOWED, planned, rows[~is_isolated])

    def _all(self, cause: str, mask: np.uint8, planned: _Planned, rows: Indices) -> TierDoubts:
        masks = np.full(len(rows), mask, np.uint8)
        return TierDoubts(rows, masks, self._isolated(cause, planned, rows))

    def _matching(
        self, tier: int, planned: _Planned, rows: Indices, asked: TierInput
    ) -> Iterator[Pairs]:
        codes = [plan.tiers[tier] for plan in planned.plans]
        first_only = tier == NETWORK_TIER
        pairing = PairPlan(codes, planned.of_row, rows, asked.peer_may_be_self, first_only)
        return matching_pairs(pairing, self._table, asked.batch)

    def _isolated(self, cause: str, planned: _Planned, rows: Indices) -> Numbers:
        """Return outcomes that name the isolating policies, or the first that may isolate."""
        numbers, inverse = np.unique(planned.of_row[rows], return_inverse=True)
        verdict = DENIED if cause == engine.ISOLATED else UNKNOWN
        outcomes = []
        for plan in map(planned.plans.__getitem__, numbers):
            named = plan.isolating or plan.network_policies[:1]
            why = cause
            if not plan.isolating and cause != engine.PROTOCOL and named[0].unreadable:
                why = engine.cause_of(named[0])
            outcomes.append(self._outcomes.number(verdict, why, named))
        return np.array(outcomes, np.int32)[inverse.ravel()]

    def _outcomes_of(self, pairs: Pairs) -> Numbers:
        """Return outcome numbers; each is made when it first occurs."""
        places = pairs.entry * MATCH_KINDS + pairs.match_kind
        for place in np.unique(places[self._made[places] == OPEN]):
            self._made[place] = self._outcome(*divmod(int(place), MATCH_KINDS))
        found: Numbers = self._made[places]
        return found

    def _outcome(self, entry: int, way: int) -> int:
        policy, rule = self._policies[self._table.policy[entry]], self._table.entries[entry]
        if rule is None:
            return self._outcomes.number(UNKNOWN, engine.cause_of(policy), (policy,))
        if way == DECIDES:
            return self._outcomes.number(self._says(entry), engine.RULE, (policy,), rule.rule)
        cause = _CAUSE_OF.get(way, engine.DOUBT)
        return self._outcomes.number(UNKNOWN, cause, (policy,), rule.rule)

    def _says(self, entry: int) -> str:
        rule = self._table.entries[entry]
        return UNKNOWN if rule is None else _VERDICT_OF[rule.rule.action]
