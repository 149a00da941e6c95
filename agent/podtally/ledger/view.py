# SPDX-License-Identifier: Apache-2.0
"""What readers of the ledger see."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.label_sets import (
    BookLabels,
    CandidateLabels,
    CostLabels,
    DeniedLabels,
    ExposedLabels,
    FlowLabels,
    KubecostLabels,
    MissedLabels,
    PodLabels,
    ScanLabels,
    SpoofedLabels,
    UnjudgedLabels,
)
from podtally.ledger.series import SeriesView

_NONE: NDArray[np.int64] = np.zeros((0, 1), np.int64)


class View(NamedTuple):
    """Nothing in it changes any more."""

    pods: SeriesView[PodLabels]  # (n, 2): bytes, packets
    flows: SeriesView[FlowLabels]  # (n, 3): bytes, packets, connections
    books: SeriesView[BookLabels]  # (n, 3): flows, other, overflow, in bytes
    denied: SeriesView[DeniedLabels]  # (n, 1): connections, as the next two
    unjudged: SeriesView[UnjudgedLabels]
    exposed: SeriesView[ExposedLabels]
    candidate: SeriesView[CandidateLabels]  # (n, 3): as flows
    kubecost: SeriesView[KubecostLabels]  # (n, 1): bytes
    costs: SeriesView[CostLabels]  # (n, 2): dollars, and parts of one
    scanning: SeriesView[ScanLabels]  # (n, 1): connections
    gaps: list[tuple[BookLabels, int]]
    connections: int
    began_unknown: int
    limited: int
    overflow_packets: int
    waiting: int  # connections that may still be named
    name_timeouts: int  # that could not be, in time
    drops: SeriesView[BookLabels] = SeriesView((), np.zeros((0, 3), np.int64))  # bytes by DROPS
    missed: SeriesView[MissedLabels] = SeriesView((), _NONE)  # (n, 1): connections
    spoofed: SeriesView[SpoofedLabels] = SeriesView((), _NONE)  # (n, 1): packets
    tried: SeriesView[CandidateLabels] = SeriesView((), np.zeros((0, 3), np.int64))  # as candidate
