"""The tiers' say on many connections at once: branch for branch what ``engine`` does for one.

The tier of NetworkPolicy is in ``compiled_network``.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.policy import engine
from podtally.policy.compiled_classes import Classes
from podtally.policy.compiled_labels import NO, YES, Grades
from podtally.policy.compiled_network import OPEN, Network, Numbers, decisions, ways
from podtally.policy.compiled_rules import Batch, CompiledPolicy, Indices, Matcher
from podtally.policy.compiled_sides import PASS_CODE, Sides
from podtally.policy.model import (
    ADMIN_TIER,
    ALLOWED,
    BASELINE_TIER,
    NETWORK_TIER,
    UNDECLARED,
    UNKNOWN,
)


class Asked(NamedTuple):
    """Connections of one direction; index i of every array is the same one."""

    batch: Batch
    is_egress: bool
    own_node: NDArray[np.bool_]
    plain: Callable[[int], int]  # the plain engine's side, for what is not told by arrays


class Tiers:
    """Judges by compiled policies, which are in ``engine.order``."""

    def __init__(self, policies: Sequence[CompiledPolicy], classes: Classes, sides: Sides) -> None:
        self._classes, self._sides = classes, sides
        self._matcher = Matcher(classes)
        self._cluster = [p for p in policies if p.policy.tier != NETWORK_TIER]
        network = [p for p in policies if p.policy.tier == NETWORK_TIER]
        self._network = Network(network, classes, sides, self._matcher)

    def judge(self, asked: Asked) -> Numbers:
        found = np.full(len(asked.batch.local), OPEN, np.int32)
        self._in_order(ADMIN_TIER, asked, found)
        rows = np.flatnonzero(found == OPEN)
        batch, own_node = asked.batch.take(rows), asked.own_node[rows]
        found[rows] = self._network.judge(batch, own_node, asked.is_egress)
        self._in_order(BASELINE_TIER, asked, found)
        number = self._sides.number
        found[(found == OPEN) & asked.own_node] = number(ALLOWED, engine.OWN_NODE)
        found[found == OPEN] = number(UNDECLARED, engine.OPEN)
        return found

    def _in_order(self, tier: int, asked: Asked, found: Numbers) -> None:
        """An admin tier; ``found`` is filled in where it decides."""
        rows = np.flatnonzero(found == OPEN)
        policies = [one for one in self._cluster if one.policy.tier == tier]
        for _, group in groupby(policies, key=lambda one: one.policy.priority):
            first = self._of_one_priority(list(group), rows, asked)
            matched = first != OPEN
            decided = matched & (self._sides.codes(first) != PASS_CODE)
            found[rows[decided]] = first[decided]
            rows = rows[~matched]

    def _of_one_priority(self, group: list[CompiledPolicy], rows: Indices, asked: Asked) -> Numbers:
        first = self._first_match(group[0], rows, asked)
        differing = np.zeros(len(rows), np.bool_)
        for one in group[1:]:
            other = self._first_match(one, rows, asked)
            codes = self._sides.codes
            both = (first != OPEN) & (other != OPEN)
            differing |= both & (codes(first) != codes(other))
            first = np.where(first == OPEN, other, first)
        for place in np.flatnonzero(differing):
            first[place] = asked.plain(int(rows[place]))
        return first

    def _first_match(self, one: CompiledPolicy, rows: Indices, asked: Asked) -> Numbers:
        found = np.full(len(rows), OPEN, np.int32)
        grades: Grades = self._classes.grades(one.subject)[asked.batch.local[rows]]
        chosen = np.flatnonzero(grades)
        if one.policy.unreadable:
            found[chosen] = self._sides.number(UNKNOWN, engine.UNREADABLE, (one.policy,))
            return found
        batch, certain = asked.batch.take(rows[chosen]), grades[chosen] == YES
        for rule in one.rules(asked.is_egress) or ():
            if not len(chosen):
                break
            met = self._matcher.grades(rule, batch)
            if not met.any():
                continue
            hit = met != NO
            each = decisions(one.policy, rule.rule, self._sides)
            found[chosen[hit]] = each[ways(met[hit], certain[hit])]
            chosen, batch, certain = chosen[~hit], batch.take(~hit), certain[~hit]
        return found
