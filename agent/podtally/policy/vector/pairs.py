# SPDX-License-Identifier: Apache-2.0
"""Connections paired with the rules of the policies for their end, and which of those match."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.policy.vector.classes import UNKNOWN_CLASS
from podtally.policy.vector.label_sets import YES
from podtally.policy.vector.lists import Indices, first_of_runs, ragged_lists, sum_before
from podtally.policy.vector.rule_index import group_connections
from podtally.policy.vector.rule_table import RuleTable
from podtally.policy.vector.rules import Batch

_LONG = 256  # rules of one list, beyond which those that may match are looked up
_PAIRS = 1 << 16  # at a time, so that what is done with them stays in the second-level cache

# What a rule comes to that matches, or may.
DECIDES, SELECTION, DOUBT, UNKNOWN_END = range(4)
MATCH_KINDS = 4


class Pairs(NamedTuple):
    """Those that match, or may: by connection, and of each in the order in which they are tried."""

    row: Indices  # of the batch
    entry: Indices
    match_kind: NDArray[np.int64]

    def take(self, index: Indices | NDArray[np.bool_]) -> "Pairs":
        return Pairs._make(column[index] for column in self)


class PairPlan(NamedTuple):
    """``codes``: lists of entries, twice, plus 1 where it is certain that the policy is meant."""

    codes: Sequence[Indices]
    of_row: Indices  # of the batch: which of the lists
    rows: Indices  # that are asked about
    peer_may_be_self: bool  # whether who is not known may be the other end itself
    first_only: bool  # of rules that decide, whether the first is enough

    def parts(self) -> Iterator[tuple[Indices, Indices]]:
        """Rows of the batch, and a code for each, of the short lists; some at a time."""
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
        """The long lists that are asked about, and the rows for each."""
        long = [number for number, codes in enumerate(self.codes) if len(codes) > _LONG]
        for number in long:
            rows = self.rows[self.of_row[self.rows] == number]
            if len(rows):
                yield self.codes[number], rows


def matching_pairs(pairing: PairPlan, table: RuleTable, batch: Batch) -> Iterator[Pairs]:
    """All of a connection's pairs come at once."""
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
            # From one of each kind to all that are of it.
            owner, place = of_kind.of(hits.row).members()
            every = hits.take(owner)._replace(row=rows[order[place]])
            yield every.take(np.lexsort((every.entry, every.row)))


def _hits(
    pairing: PairPlan, table: RuleTable, batch: Batch, asked: Indices, codes: Indices
) -> Pairs:
    met = table.matches(codes >> 1, batch, asked)
    hit = np.flatnonzero(met)
    rows, entries, certain = asked[hit], codes[hit] >> 1, codes[hit] & 1
    way = np.where(met[hit] == YES, np.where(certain, DECIDES, SELECTION), DOUBT)
    if pairing.peer_may_be_self:
        denied = (way == DECIDES) & table.denies[entries]
        way[denied & (batch.peer[rows] == UNKNOWN_CLASS)] = UNKNOWN_END
    return Pairs(rows, entries, way)
