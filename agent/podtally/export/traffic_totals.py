# SPDX-License-Identifier: Apache-2.0
"""Sums up the ledger's view by conversation, for ``/api/v1/traffic``.

A hundredth of /metrics: for clients that ask all nodes of a cluster through the API server.
"""

from collections import Counter, defaultdict

from podtally.api.schema import BookSums, Traffic, TrafficSums
from podtally.ledger.metrics.failures import is_failure
from podtally.ledger.metrics.families import BOOKS, FLOWS, GAPS
from podtally.ledger.metrics.family import BYTES, CONNECTIONS
from podtally.ledger.metrics.outcome_families import OUTCOMES
from podtally.ledger.metrics.view import View
from podtally.ledger.series.label_sets import DIRECTIONS

_DIRECTION = "direction"
_EGRESS = DIRECTIONS[0]
_FAILED = 4  # the last of a conversation's sums


def traffic(view: View) -> Traffic:
    """Return the sums of both directions of each conversation, and the books."""
    at = FLOWS.label_names.index(_DIRECTION)
    sums: dict[tuple[str, ...], list[int]] = {}
    series = view[FLOWS]
    counted = zip(
        series.labels,
        series.values[:, BYTES].tolist(),
        series.values[:, CONNECTIONS].tolist(),
        strict=True,
    )
    for labels, size, connections in counted:
        entry = sums.setdefault(labels[:at] + labels[at + 1 :], [0, 0, 0, 0, 0])
        column = 0 if labels[at] == _EGRESS else 1
        entry[column] += size
        entry[2 + column] += connections
    outcomes = view[OUTCOMES]
    ended = zip(outcomes.labels, outcomes.values[:, 0].tolist(), strict=True)
    became: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for each, connections in ended:
        conversation = each[:at] + each[at + 1 : -1]  # without the outcome
        if conversation not in sums:
            continue
        became[conversation][each.outcome] += connections
        if is_failure(each.outcome, each.protocol):
            sums[conversation][_FAILED] += connections
    names = [name for name in FLOWS.label_names if name != _DIRECTION]
    found = [
        TrafficSums(list(key), sent, received, begun, accepted, failed, dict(became[key]))
        for key, (sent, received, begun, accepted, failed) in sums.items()
        if sent or received or begun or accepted or failed
    ]
    return Traffic(names, found, _books(view))


def _books(view: View) -> list[BookSums]:
    books, gaps = view[BOOKS], view[GAPS]
    gap_of = dict(zip(gaps.labels, gaps.values[:, 0].tolist(), strict=True))
    accounts = dict(zip(books.labels, books.values.tolist(), strict=True))
    return [
        BookSums(
            *page,
            dict(zip(BOOKS.sums, accounts.get(page, ()), strict=False)),
            gap_of.get(page),
        )
        for page in sorted({*gap_of, *accounts})
    ]
