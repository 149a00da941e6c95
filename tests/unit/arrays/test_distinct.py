# SPDX-License-Identifier: Apache-2.0
"""Different values have different numbers, whatever they are."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from podtally.arrays.distinct import Numbered, distinct

numbers = st.one_of(st.integers(0, 7), st.integers(-(1 << 63), (1 << 63) - 1))


@given(st.lists(numbers, max_size=300), st.integers(1, 200))
def test_as_sorting_has_it(listed: list[int], times: int) -> None:
    values = np.array(listed * times, np.int64)
    different, place = distinct(values)
    assert sorted(different.tolist()) == sorted(set(listed))
    assert np.array_equal(different[place], values)


def test_a_whole_batch_of_different_ones() -> None:
    values = np.random.default_rng(23).permutation(1 << 14).astype(np.int64) << 40
    different, place = distinct(values)
    assert len(different) == len(values)
    assert np.array_equal(different[place], values)


@given(st.lists(st.lists(numbers, max_size=50), max_size=8))
def test_numbers_stay(batches: list[list[int]]) -> None:
    numbered = Numbered()
    known: dict[int, int] = {}
    for batch in batches:
        given_numbers = numbered.of(np.array(batch, np.int64)).tolist()
        for value, number in zip(batch, given_numbers, strict=True):
            assert known.setdefault(value, number) == number
            assert numbered.values[number] == value
    assert sorted(known.values()) == list(range(len(known)))
