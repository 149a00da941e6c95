# SPDX-License-Identifier: Apache-2.0
"""What the present candidates would change: counters less their values when they were loaded.

The series of /metrics continue over a change of candidates; the API shows the present ones.
"""

from typing import NamedTuple

import numpy as np

from podtally.ledger.checkpoint.saved import Saved, encode
from podtally.ledger.series.label_sets import CandidateLabels
from podtally.ledger.series.series import SeriesTable, SeriesView
from podtally.policy.load.candidates import fingerprint
from podtally.policy.load.policy_sources import DeclaredPolicies


class CandidateBaseline(NamedTuple):
    """The counters when the candidates were loaded, for the checkpoint."""

    fingerprint: str = ""  # of the candidates
    sums: tuple[tuple[CandidateLabels, tuple[int, int, int]], ...] = ()
    since_ns: int = 0  # when they were loaded, since 1970; 0: unknown


class CandidateRows:
    """Keeps the baseline of the present candidates."""

    def __init__(self) -> None:
        self._fingerprint = ""
        self._declared: DeclaredPolicies | None = None
        self._before: dict[CandidateLabels, tuple[int, int, int]] = {}
        self.since_ns = 0  # see CandidateBaseline

    def learn(
        self, declared: DeclaredPolicies, table: SeriesTable[CandidateLabels], wall_ns: int
    ) -> None:
        """Take a new baseline if the candidates have changed; called before an epoch's sums."""
        if declared is self._declared or declared.unsynced:
            return
        self._declared = declared
        found = fingerprint(declared)
        if found != self._fingerprint:
            self._fingerprint, self.since_ns = found, wall_ns
            labels, values = table.view()
            sums = (tuple(row) for row in values.tolist())
            self._before = dict(zip(labels, sums, strict=True))

    def view(self, table: SeriesTable[CandidateLabels]) -> SeriesView[CandidateLabels]:
        """Return the series that have grown since the baseline, with their growth."""
        labels, values = table.view()
        if not self._before:
            return SeriesView(labels, values)
        nothing = (0, 0, 0)
        before = np.array([self._before.get(each, nothing) for each in labels], np.int64)
        before = before.reshape(values.shape)
        # A series that was removed in between has restarted from zero.
        continues = np.all(before <= values, axis=1, keepdims=True)
        grown = np.where(continues, values - before, values)
        rows = np.flatnonzero(grown.any(axis=1))
        return SeriesView([labels[row] for row in rows.tolist()], grown[rows])

    def save(self) -> Saved:
        sums = tuple(self._before.items())
        return Saved(encode(CandidateBaseline(self._fingerprint, sums, self.since_ns)))

    def load(self, saved: Saved, now_ns: int) -> None:
        before = saved.decode(CandidateBaseline)
        self._fingerprint, self._before = before.fingerprint, dict(before.sums)
        self.since_ns = before.since_ns
