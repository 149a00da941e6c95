# SPDX-License-Identifier: Apache-2.0
"""What readers of the ledger see."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from podtally.ledger.metrics.families import CANDIDATES, GAPS
from podtally.ledger.metrics.family import Family, Labels
from podtally.ledger.series.label_sets import CandidateLabels
from podtally.ledger.series.series import SeriesView


def no_series(family: Family[Labels]) -> SeriesView[Labels]:
    return SeriesView((), np.zeros((0, len(family.sums)), np.int64))


@dataclass(frozen=True)
class View:
    """An immutable copy of the ledger's sums: ``view[FLOWS]`` are those of a family."""

    series: Mapping[str, SeriesView[Any]]  # by the names of families
    connections: int = 0
    unknown_initiators: int = 0  # connections
    limited: int = 0
    overflow_packets: int = 0
    waiting: int = 0  # connections that may still get a name
    name_timeouts: int = 0  # connections that got none in time
    late: frozenset[int] = frozenset()  # interfaces in use before they were watched
    # Of the present candidates, counted since they were loaded.
    candidate_changes: SeriesView[CandidateLabels] = field(
        default_factory=lambda: no_series(CANDIDATES)
    )
    candidates_since_ns: int = 0  # when they were loaded, since 1970; 0: unknown

    def __getitem__(self, family: Family[Labels]) -> SeriesView[Labels]:
        """Return sums (n, len(family.sums)) and their label sets."""
        found = self.series.get(family.name)
        return no_series(family) if found is None else found

    @property
    def gap_bytes(self) -> int:
        """Return the sum of all gaps, regardless of sign."""
        return int(np.abs(self[GAPS].values).sum())
