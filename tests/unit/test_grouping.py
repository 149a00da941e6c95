"""Different values are told apart, whatever they are."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from podtally.ledger.grouping import distinct

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
