# SPDX-License-Identifier: Apache-2.0
"""Candidate names of connections: lists of different lengths in arrays."""

import numpy as np

from podtally.dns.candidates import (
    MESSAGES_LOST,
    NAMES_OFF,
    Answered,
    NameCandidates,
    empty,
    from_lists,
)

API = Answered("api.example.com", 100.0, 130.0)
SHOP = Answered("shop.example.com", 101.0, 106.0, trusted=False)


def three() -> NameCandidates:
    return from_lists([[API, SHOP], [], [SHOP]], [110.0, 111.0, 112.0], [0, MESSAGES_LOST, 0])


def listed(found: NameCandidates) -> list[list[Answered]]:
    rows: list[list[Answered]] = [[] for _ in found.at]
    columns = (found.names, found.answered, found.expires, found.trusted)
    for row, name, *rest in zip(found.rows(), *columns, strict=True):
        rows[row].append(Answered(found.table[name], *rest))
    return rows


def test_entries_belong_to_their_connection() -> None:
    found = three()
    assert listed(found) == [[API, SHOP], [], [SHOP]]
    assert found.table == ("api.example.com", "shop.example.com")
    assert found.complete.tolist() == [True, False, True]


def test_taking_connections_keeps_their_entries_times_and_doubt() -> None:
    found = three().take(np.array([2, 1, 0, 0]))
    assert listed(found) == [[SHOP], [], [API, SHOP], [API, SHOP]]
    assert found.at.tolist() == [112.0, 111.0, 110.0, 110.0]
    assert found.complete.tolist() == [True, False, True, True]


def test_taking_no_connection_leaves_none() -> None:
    found = three().take(np.zeros(0, np.int64))
    assert len(found.at) == len(found.names) == 0
    assert found.offsets.tolist() == [0]


def test_without_names_nothing_is_complete() -> None:
    found = empty(2)
    assert listed(found) == [[], []]
    assert found.missing.tolist() == [NAMES_OFF, NAMES_OFF]
    assert len(found.take(np.array([1])).at) == 1
    assert empty(2, missing=0).complete.all()
