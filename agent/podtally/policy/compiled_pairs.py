"""Connections paired with the rules of the policies for their end, and which of those match."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.policy.compiled_classes import UNKNOWN_CLASS
from podtally.policy.compiled_joins import Indices, lists
from podtally.policy.compiled_labels import YES
from podtally.policy.compiled_rules import Batch
from podtally.policy.compiled_table import RuleTable

_PAIRS = 1 << 16  # at a time, so that what is done with them stays in the second-level cache

# What a rule comes to that matches, or may.
DECIDES, SELECTION, DOUBT, UNKNOWN_END = range(4)
WAYS = 4


class Pairs(NamedTuple):
    """Those that match, or may: by connection, and of each in the order in which they are tried."""

    row: Indices  # of the batch
    entry: Indices
    way: NDArray[np.int64]

    def take(self, index: Indices | NDArray[np.bool_]) -> "Pairs":
        return Pairs._make(column[index] for column in self)


class Pairing(NamedTuple):
    """``codes``: lists of entries, twice, plus 1 where it is certain that the policy is meant."""

    codes: Sequence[Indices]
    of_row: Indices  # of the batch: which of the lists
    rows: Indices  # that are asked about

    def parts(self) -> Iterator[tuple[Indices, Indices]]:
        """Rows of the batch, and a code for each; some at a time."""
        each = lists([len(codes) for codes in self.codes])
        codes = np.concatenate([np.zeros(0, np.int64), *self.codes])
        ends = np.cumsum(each.counts[self.of_row[self.rows]])
        last = int(ends[-1]) if len(ends) else 0
        cuts = np.searchsorted(ends, np.arange(_PAIRS, last, _PAIRS), side="right")
        for rows in np.split(self.rows, np.unique(cuts)):
            owner, place = each.of(self.of_row[rows]).members()
            yield rows[owner], codes[place]


def matching(
    pairing: Pairing, table: RuleTable, batch: Batch, strangers: bool = True
) -> Iterator[Pairs]:
    """All of a connection's pairs come at once. ``strangers``: an end of which nothing is known
    may be the other end itself, so that nothing denies it for certain.
    """
    for asked, codes in pairing.parts():
        met = table.grades(codes >> 1, batch, asked)
        hit = np.flatnonzero(met)
        rows, entries, certain = asked[hit], codes[hit] >> 1, codes[hit] & 1
        way = np.where(met[hit] == YES, np.where(certain, DECIDES, SELECTION), DOUBT)
        if strangers:
            denied = (way == DECIDES) & table.denies[entries]
            way[denied & (batch.peer[rows] == UNKNOWN_CLASS)] = UNKNOWN_END
        yield Pairs(rows, entries, way)
