"""NetworkPolicy's say on many connections at once; HostPolicy's too, whose namespace is ""."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.policy import engine
from podtally.policy.compiled_classes import UNKNOWN_CLASS, Classes
from podtally.policy.compiled_labels import NO, YES, Grades
from podtally.policy.compiled_rules import Batch, CompiledPolicy, Indices, Matcher
from podtally.policy.compiled_sides import Sides
from podtally.policy.model import (
    ALLOW,
    ALLOWED,
    DENIED,
    DENY,
    PASS,
    POD,
    SCTP,
    TCP,
    UDP,
    UNKNOWN,
    Policy,
    Rule,
)

OPEN = -1  # instead of the number of a side: not decided

Numbers = NDArray[np.int32]  # of sides
Chosen = NDArray[np.bool_]

_ROWS = 1 << 14  # at a time, which bounds what their grades by all policies take

_VERDICT_OF = {ALLOW: ALLOWED, DENY: DENIED, PASS: PASS}
_VERDICT_OF_CAUSE = {
    engine.PROTOCOL: UNKNOWN,
    engine.UNKNOWN_END: UNKNOWN,
    engine.ISOLATED: DENIED,
}


class _Mine(NamedTuple):
    """Connections that one namespace's policies may be for."""

    batch: Batch
    own_node: Chosen
    is_egress: bool


class Network:
    """Policies in ``engine.order``, and what they say of batches."""

    def __init__(
        self,
        policies: Iterable[CompiledPolicy],
        classes: Classes,
        sides: Sides,
        matcher: Matcher,
    ) -> None:
        self._classes, self._sides, self._matcher = classes, sides, matcher
        self._is_pod = np.array([party.kind == POD for party in classes.parties])
        self._isolating: dict[tuple[int, bool], tuple[Policy, ...]] = {}
        self._policies: dict[str, list[CompiledPolicy]] = {}
        for one in policies:
            self._policies.setdefault(one.policy.namespace, []).append(one)

    def judge(self, batch: Batch, own_node: Chosen, is_egress: bool) -> Numbers:
        """OPEN where no policy is for the end in that direction."""
        found = np.full(len(batch.local), OPEN, np.int32)
        for namespace, rows in self._by_namespace(batch):
            told = self._told(namespace, is_egress)
            for start in range(0, len(rows) if told else 0, _ROWS):
                part = rows[start : start + _ROWS]
                found[part] = self._united(told, _Mine(batch.take(part), own_node[part], is_egress))
        return found

    def _united(self, told: list[CompiledPolicy], mine: _Mine) -> Numbers:
        """Of one namespace: the branches of the engine's ``_united``."""
        found = np.full(len(mine.own_node), OPEN, np.int32)
        chosen = [self._classes.grades(one.subject)[mine.batch.local] for one in told]
        first, isolated = _selected(told, chosen)
        selected = first != OPEN
        found[selected & mine.own_node] = self._sides.number(ALLOWED, engine.OWN_NODE)
        is_defined = np.isin(mine.batch.protocol, (TCP, UDP, SCTP))
        undefined = selected & ~is_defined & self._is_pod[mine.batch.local]
        self._isolated(found, undefined, engine.PROTOCOL, mine)
        self._any_rule(found, zip(told, chosen, strict=True), mine)
        # No rule has matched: the engine's ``_isolated``.
        for place in np.unique(first[selected & ~isolated & (found == OPEN)]):
            side = self._sides.number(UNKNOWN, engine.SELECTION, (told[place].policy,))
            found[~isolated & (first == place) & (found == OPEN)] = side
        strangers = selected & (mine.batch.peer == UNKNOWN_CLASS)
        self._isolated(found, strangers, engine.UNKNOWN_END, mine)
        self._isolated(found, selected, engine.ISOLATED, mine)
        return found

    def _any_rule(
        self, found: Numbers, told: Iterable[tuple[CompiledPolicy, Grades]], mine: _Mine
    ) -> None:
        """Fills in the first rule that allows; where none does, the first that may."""
        doubt = np.full(len(found), OPEN, np.int32)
        for one, grades in told:
            rows = np.flatnonzero((found == OPEN) & (grades != NO))
            if one.policy.unreadable:
                side = self._sides.number(UNKNOWN, engine.UNREADABLE, (one.policy,))
                _fill(doubt, rows, np.full(len(rows), side, np.int32))
                continue
            batch, certain = mine.batch.take(rows), grades[rows] == YES
            for rule in one.rules(mine.is_egress) or ():
                if not len(rows):
                    break
                met = self._matcher.grades(rule, batch)
                if not met.any():
                    continue
                each = decisions(one.policy, rule.rule, self._sides)[ways(met, certain)]
                sure = (met == YES) & certain
                found[rows[sure]] = each[sure]
                perhaps = (met != NO) & ~sure
                _fill(doubt, rows[perhaps], each[perhaps])
                rows, batch, certain = rows[~sure], batch.take(~sure), certain[~sure]
        left = found == OPEN
        found[left] = doubt[left]

    def _isolated(self, found: Numbers, chosen: Chosen, cause: str, mine: _Mine) -> None:
        """Fills in, where nothing stands yet, the side that names the policies that isolate."""
        rows = np.flatnonzero(chosen & (found == OPEN))
        classes, inverse = np.unique(mine.batch.local[rows], return_inverse=True)
        sides = [
            self._sides.number(
                _VERDICT_OF_CAUSE[cause], cause, self._who_isolates(int(number), mine.is_egress)
            )
            for number in classes
        ]
        found[rows] = np.array(sides, np.int32)[inverse]

    def _who_isolates(self, number: int, is_egress: bool) -> tuple[Policy, ...]:
        """The policies that isolate a class for certain."""
        key = (number, is_egress)
        if key not in self._isolating:
            self._isolating[key] = tuple(
                one.policy
                for one in self._told(self._namespace(number), is_egress)
                if not one.policy.unreadable and self._classes.grade(one.subject, number) == YES
            )
        return self._isolating[key]

    def _told(self, namespace: str, is_egress: bool) -> list[CompiledPolicy]:
        """The policies that may say something of that direction."""
        return [
            one
            for one in self._policies[namespace]
            if one.policy.unreadable or one.rules(is_egress) is not None
        ]

    def _namespace(self, number: int) -> str:
        party = self._classes.parties[number]
        return party.namespace if party.kind == POD else ""

    def _by_namespace(self, batch: Batch) -> list[tuple[str, Indices]]:
        """The places of the connections that each namespace's policies may be for."""
        order = np.argsort(batch.local, kind="stable")
        numbers, starts = np.unique(batch.local[order], return_index=True)
        parts: dict[str, list[Indices]] = {}
        for number, part in zip(numbers, np.split(order, starts[1:]), strict=False):
            namespace = self._namespace(int(number))
            if namespace in self._policies:
                parts.setdefault(namespace, []).append(part)
        return [(namespace, np.concatenate(each)) for namespace, each in parts.items()]


def _selected(told: list[CompiledPolicy], chosen: list[Grades]) -> tuple[Numbers, Chosen]:
    """The place of the first policy that may be for the end; whether one is for certain."""
    first = np.full(len(chosen[0]), OPEN, np.int32)
    isolated = np.zeros(len(first), np.bool_)
    for place, (one, grades) in enumerate(zip(told, chosen, strict=True)):
        first[(first == OPEN) & (grades != NO)] = place
        if not one.policy.unreadable:
            isolated |= grades == YES
    return first, isolated


def decisions(policy: Policy, rule: Rule, sides: Sides) -> Numbers:
    """What the rule comes to, in the order of ``ways``."""
    found = (
        sides.number(_VERDICT_OF[rule.action], engine.RULE, (policy,), rule),
        sides.number(UNKNOWN, engine.SELECTION, (policy,), rule),
        sides.number(UNKNOWN, engine.DOUBT, (policy,), rule),
    )
    return np.array(found, np.int32)


def ways(met: Grades, certain: Chosen) -> NDArray[np.int64]:
    """0: met, and the policy is for the end; 1: met, if the policy is; 2: perhaps met."""
    return np.where(met == YES, np.where(certain, 0, 1), 2)


def _fill(into: Numbers, rows: Indices, values: Numbers) -> None:
    """Where nothing stands yet."""
    free = into[rows] == OPEN
    into[rows[free]] = values[free]
