# SPDX-License-Identifier: Apache-2.0
"""Waits between attempts: growing, bounded, different for each agent."""

import random

from hypothesis import given
from hypothesis import strategies as st

from podtally.kube.backoff import Backoff, ClientTiming


@given(st.integers(), st.integers(1, 60))
def test_a_wait_is_below_its_bound(seed: int, failures: int) -> None:
    backoff = Backoff(ClientTiming(), random.Random(seed))
    for number in range(failures):
        assert 0.0 <= backoff.next("error", 30.0) <= min(30.0, 0.5 * 2**number)


def test_waits_grow_to_their_bound_and_no_further() -> None:
    means = [0.0] * 10
    for seed in range(400):
        backoff = Backoff(ClientTiming(), random.Random(seed))
        for number in range(10):
            means[number] += backoff.next("error", 30.0) / 400
    for number, mean in enumerate(means):
        bound = min(30.0, 0.5 * 2**number)
        assert 0.42 * bound < mean < 0.58 * bound  # of a uniform one: half


def test_two_agents_wait_for_different_times() -> None:
    one, other = Backoff(ClientTiming()), Backoff(ClientTiming())
    pairs = [(one.next("away", 2.0), other.next("away", 3.0)) for _ in range(23)]
    assert all(first != second for first, second in pairs)


def test_another_kind_of_failure_starts_another_series() -> None:
    """A server that was unreachable for long and now answers 503 is retried soon."""
    backoff = Backoff(ClientTiming())
    for _ in range(23):
        backoff.next("away", 2.0)
    assert backoff.next("error", 30.0) <= 0.5
    for _ in range(23):
        backoff.next("error", 30.0)
    backoff.reset()
    assert backoff.next("error", 30.0) <= 0.5
