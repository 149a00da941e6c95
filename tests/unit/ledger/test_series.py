# SPDX-License-Identifier: Apache-2.0
"""Series: sums that only grow, under indexes that stay."""

import numpy as np
import pytest

from podtally.ledger.series.label_sets import BookLabels
from podtally.ledger.series.series import SeriesTable

NOTHING = np.zeros(0, np.int64)


def label(number: int) -> BookLabels:
    return BookLabels(f"veth{number}", "egress")


def filled(count: int = 23) -> SeriesTable[BookLabels]:
    table: SeriesTable[BookLabels] = SeriesTable(2)
    for number in range(count):
        index = np.array([table.index_of(label(number), now_ns=number)])
        table.add(index, np.array([[number, 1]]), now_ns=number)
    return table


def contents(table: SeriesTable[BookLabels]) -> dict[BookLabels, list[int]]:
    view = table.view()
    return dict(zip(view.labels, view.values.tolist(), strict=True))


def test_an_index_is_made_once() -> None:
    table = filled()
    version = table.version
    assert [table.index_of(label(i), 99) for i in range(23)] == list(range(23))
    assert table.version == version
    assert table.find(label(23)) is None
    assert len(table) == 23


def test_indexes_may_repeat_in_one_addition() -> None:
    table = filled()
    table.add(np.array([5, 7, 5, 5]), np.array([[100, 1], [10, 1], [1000, 1], [1, 1]]), 99)
    assert contents(table)[label(5)] == [5 + 1101, 4]
    assert contents(table)[label(7)] == [17, 2]


def test_sums_are_exact_beyond_floats() -> None:
    table = filled()
    table.add(np.array([1]), np.array([[2**53, 0]]), 99)
    table.add(np.array([1]), np.array([[2**60 + 3, 0]]), 99)
    assert contents(table)[label(1)][0] == 1 + 2**53 + 2**60 + 3


def test_expires_what_has_not_grown_and_is_not_in_use() -> None:
    table = filled()
    table.add(np.array([3, 4]), np.array([[1, 0], [0, 0]]), now_ns=50)  # nothing is no growth
    assert table.expire(before_ns=11, in_use=np.array([5])) == 9
    assert [each.interface for each in contents(table)] == [
        f"veth{number}" for number in (3, 5, *range(11, 23))
    ]


def test_a_freed_index_begins_at_nothing() -> None:
    table = filled(3)
    table.expire(1, NOTHING)
    assert table.index_of(label(99), 7) == 0
    assert contents(table)[label(99)] == [0, 0]
    assert table.expire(before_ns=7, in_use=NOTHING) == 2  # not the new one
    assert len(table) == 1


def test_views_do_not_change_any_more() -> None:
    table = filled()
    view = table.view()
    table.add(np.array([2]), np.array([[1000, 1]]), 99)
    assert view.values[2].tolist() == [2, 1]


def test_restored_sets_keep_their_indexes_and_free_ones_are_found() -> None:
    table = filled()
    table.expire(5, np.array([2]))
    again: SeriesTable[BookLabels] = SeriesTable(2)
    again.restore(table.pairs(), *table.sums())
    assert contents(again) == contents(table)
    assert again.find(label(17)) == 17
    fresh = {again.index_of(label(100 + i), 99) for i in range(5)}
    assert fresh == {0, 1, 3, 4, 23}
    assert contents(again)[label(101)] == [0, 0]
    again.add(np.array([22]), np.array([[1, 1]]), 99)
    assert contents(again)[label(22)] == [23, 2]


def test_restores_nothing() -> None:
    again: SeriesTable[BookLabels] = SeriesTable(2)
    again.restore([], *SeriesTable[BookLabels](2).sums())
    assert len(again.view().labels) == 0
    assert again.index_of(label(1), 1) == 0


@pytest.mark.parametrize("count", [16, 17, 1009])
def test_grows(count: int) -> None:
    assert contents(filled(count))[label(count - 1)] == [count - 1, 1]
