# SPDX-License-Identifier: Apache-2.0
"""Find the rules to try on each connection, and which of them match."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.policy.model import BASELINE_TIER, NETWORK_TIER, POD, Policy
from podtally.policy.vector.classes import UNKNOWN_CLASS, EndpointClasses
from podtally.policy.vector.endpoints import ConnectionBatch
from podtally.policy.vector.ragged import (
    Indices,
    RaggedLists,
    first_of_runs,
    ragged_lists,
    sum_before,
)
from podtally.policy.vector.rule_table import RuleTable
from podtally.policy.vector.rules import CompiledPolicy, group_connections
from podtally.policy.vector.selectors import NO, YES


class Plan(NamedTuple):
    """The rules to try for one class, in one direction."""

    tiers: tuple[
        Indices, Indices, Indices
    ]  # codes: entry * 2, plus 1 if the policy certainly selects
    network_policies: tuple[Policy, ...] = ()  # NetworkPolicies that may select it
    isolating: tuple[Policy, ...] = ()  # those of them that certainly do


class Plans:
    """Plans by class, made on first use; ``policies`` are in ``engine.evaluation_order``."""

    def __init__(
        self,
        policies: Sequence[CompiledPolicy],
        table: RuleTable,
        is_egress: bool,
        classes: EndpointClasses,
    ) -> None:
        self._policies, self._table, self._classes = policies, table, classes
        self._subjects = np.array([one.subject for one in policies], np.int64)
        saying = [place for place, one in enumerate(policies) if one.applies_in(is_egress)]
        tiers = [policies[place].policy.tier for place in saying]
        first, last = np.searchsorted(tiers, (NETWORK_TIER, BASELINE_TIER))
        self._before, self._after = saying[:first], saying[last:]
        self._bounds = np.searchsorted(
            [one.policy.tier for one in policies], (NETWORK_TIER, BASELINE_TIER)
        )
        self._network: dict[str, list[int]] = {}
        for place in saying[first:last]:
            self._network.setdefault(policies[place].policy.namespace, []).append(place)
        self._asked: dict[str, Indices] = {}  # by namespace: places of policies
        self._plans: dict[int, Plan] = {}
        self._alike: dict[bytes, Plan] = {}

    def of(self, number: int) -> Plan:
        if number not in self._plans:
            places = self._of_namespace(number)
            matches = self._classes.table.at(self._subjects[places], number)
            chosen = np.flatnonzero(matches != NO)
            places, certain = places[chosen], (matches[chosen] == YES).astype(np.int64)
            # Most classes differ only in what no policy selects by.
            key = (places << 1 | certain).tobytes()
            if key not in self._alike:
                self._alike[key] = self._plan(places, certain)
            self._plans[number] = self._alike[key]
        return self._plans[number]

    def _of_namespace(self, number: int) -> Indices:
        endpoint = self._classes.endpoints[number]
        namespace = endpoint.namespace if endpoint.kind == POD else ""
        if namespace not in self._network:
            namespace = _NO_NAMESPACE
        if namespace not in self._asked:
            own = self._network.get(namespace, [])
            self._asked[namespace] = np.array([*self._before, *own, *self._after], np.int64)
        return self._asked[namespace]

    def _plan(self, places: Indices, certain: Indices) -> Plan:
        first, last = np.searchsorted(places, self._bounds)
        network_policies = [self._policies[place].policy for place in places[first:last]]
        sure = zip(network_policies, certain[first:last], strict=True)
        return Plan(
            (
                self._codes(places[:first], certain[:first]),
                self._codes(places[first:last], certain[first:last]),
                self._codes(places[last:], certain[last:]),
            ),
            tuple(network_policies),
            tuple(policy for policy, one in sure if one and not policy.unreadable),
        )

    def _codes(self, places: Indices, certain: Indices) -> Indices:
        entries: RaggedLists = self._table.of_policy.of(places)
        owner, entry = entries.members()
        return entry << 1 | certain[owner]


_NO_NAMESPACE = "/"  # stands for all namespaces without policies


_LONG = 256  # rules in a list from which an index finds candidates


_PAIRS = 1 << 16  # in one batch, which stays in the second-level cache


# Kinds of match.
DECIDES, SELECTION, DOUBT, UNKNOWN_END = range(4)


MATCH_KINDS = 4


class Pairs(NamedTuple):
    """Rules that match or may match, by connection, in the order of evaluation."""

    row: Indices  # of the batch
    entry: Indices
    match_kind: NDArray[np.int64]

    def take(self, index: Indices | NDArray[np.bool_]) -> "Pairs":
        return Pairs._make(column[index] for column in self)


class PairPlan(NamedTuple):
    """``codes``: lists of entry * 2, plus 1 if the policy certainly selects."""

    codes: Sequence[Indices]
    of_row: Indices  # (batch,): the list of each connection
    rows: Indices  # of the batch, to evaluate
    peer_may_be_self: bool  # whether who is not known may be the other end itself
    first_only: bool  # the first deciding rule is enough

    def parts(self) -> Iterator[tuple[Indices, Indices]]:
        """Yield rows of the batch with a code each, of the short lists, in batches."""
        each = ragged_lists([len(codes) if len(codes) <= _LONG else 0 for codes in self.codes])
        short = [codes for codes in self.codes if len(codes) <= _LONG]
        codes = np.concatenate([np.zeros(0, np.int64), *short])
        ends = np.cumsum(each.counts[self.of_row[self.rows]])
        last = int(ends[-1]) if len(ends) else 0
        cuts = np.searchsorted(ends, np.arange(_PAIRS, last, _PAIRS), side="right")
        for rows in np.split(self.rows, np.unique(cuts)):
            owner, place = each.of(self.of_row[rows]).members()
            yield rows[owner], codes[place]

    def long(self) -> Iterator[tuple[Indices, Indices]]:
        """Yield the long lists and the rows for each."""
        long = [number for number, codes in enumerate(self.codes) if len(codes) > _LONG]
        for number in long:
            rows = self.rows[self.of_row[self.rows] == number]
            if len(rows):
                yield self.codes[number], rows


def matching_pairs(pairing: PairPlan, table: RuleTable, batch: ConnectionBatch) -> Iterator[Pairs]:
    """Yield the matching pairs, all of a connection together."""
    for asked, codes in pairing.parts():
        yield _hits(pairing, table, batch, asked, codes)
    for codes, rows in pairing.long():
        one, kind = group_connections(batch, rows, table.bounds())
        ones, order = batch.take(one), np.argsort(kind, kind="stable")
        of_kind = ragged_lists(np.bincount(kind, minlength=len(one)).tolist())
        for index, places in table.sparse(codes).parts(ones):
            hits = _hits(pairing, table, ones, index, codes[places])
            if pairing.first_only:
                decides = (hits.match_kind == DECIDES).astype(np.int64)
                hits = hits.take(sum_before(decides, first_of_runs(hits.row)) == 0)
            # From one row of each kind to all rows of it.
            owner, place = of_kind.of(hits.row).members()
            every = hits.take(owner)._replace(row=rows[order[place]])
            yield every.take(np.lexsort((every.entry, every.row)))


def _hits(
    pairing: PairPlan, table: RuleTable, batch: ConnectionBatch, asked: Indices, codes: Indices
) -> Pairs:
    met = table.matches(codes >> 1, batch, asked)
    hit = np.flatnonzero(met)
    rows, entries, certain = asked[hit], codes[hit] >> 1, codes[hit] & 1
    way = np.where(met[hit] == YES, np.where(certain, DECIDES, SELECTION), DOUBT)
    if pairing.peer_may_be_self:
        denied = (way == DECIDES) & table.denies[entries]
        way[denied & (batch.peer[rows] == UNKNOWN_CLASS)] = UNKNOWN_END
    return Pairs(rows, entries, way)
