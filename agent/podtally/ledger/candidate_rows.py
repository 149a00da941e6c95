# SPDX-License-Identifier: Apache-2.0
"""What candidates would change since they are what they are: counters less those of before.

The series of /metrics go on, whatever the candidates were; who asks for the candidates of now
is not told of earlier ones.
"""

from typing import NamedTuple

import numpy as np

from podtally.ledger.label_sets import CandidateLabels
from podtally.ledger.saved import Saved, encode
from podtally.ledger.series import SeriesTable, SeriesView
from podtally.policy.load.candidates import fingerprint
from podtally.policy.load.policy_sources import DeclaredPolicies


class Before(NamedTuple):
    """For the checkpoint."""

    of: str = ""  # the candidates' fingerprint
    sums: tuple[tuple[CandidateLabels, tuple[int, int, int]], ...] = ()


class CandidateRows:
    def __init__(self) -> None:
        self._of = ""
        self._declared: DeclaredPolicies | None = None
        self._before: dict[CandidateLabels, tuple[int, int, int]] = {}

    def learn(self, declared: DeclaredPolicies, table: SeriesTable[CandidateLabels]) -> None:
        """Begin again if the candidates are others; before an epoch's sums are added."""
        if declared is self._declared or declared.unsynced:
            return
        self._declared = declared
        of = fingerprint(declared)
        if of != self._of:
            self._of = of
            labels, values = table.view()
            sums = (tuple(row) for row in values.tolist())
            self._before = dict(zip(labels, sums, strict=True))

    def view(self, table: SeriesTable[CandidateLabels]) -> SeriesView[CandidateLabels]:
        """The series that have grown since, with what they have grown by."""
        labels, values = table.view()
        if not self._before:
            return SeriesView(labels, values)
        nothing = (0, 0, 0)
        before = np.array([self._before.get(each, nothing) for each in labels], np.int64)
        before = before.reshape(values.shape)
        # A series that was forgotten in between began again from zero.
        goes_on = np.all(before <= values, axis=1, keepdims=True)
        grown = np.where(goes_on, values - before, values)
        rows = np.flatnonzero(grown.any(axis=1))
        return SeriesView([labels[row] for row in rows.tolist()], grown[rows])

    def save(self) -> Saved:
        return Saved(encode(Before(self._of, tuple(self._before.items()))))

    def load(self, saved: Saved, now_ns: int) -> None:  # noqa: ARG002: as every Part
        before = saved.decode(Before)
        self._of, self._before = before.of, dict(before.sums)
