# SPDX-License-Identifier: Apache-2.0
"""Conditions that last are logged when they start, at growing intervals, and when they end."""

import itertools
import logging

import pytest

from podtally.supervision.conditions import LONGEST_SECONDS, MAX_CHANGES, Condition

LOG = logging.getLogger("podtally.test")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def condition(clock: Clock, caplog: pytest.LogCaptureFixture) -> Condition:
    caplog.set_level(logging.INFO)
    return Condition(LOG, clock=clock)


def test_what_lasts_is_logged_at_growing_intervals(
    condition: Condition, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """An hour of a full disk, met each second."""
    times = []
    for _ in range(24 * 3600):
        before = len(caplog.records)
        condition.met("cannot write %s", "x")
        if len(caplog.records) > before:
            times.append(clock.now - 1000)
        clock.now += 1
    assert times[:6] == [0, 60, 180, 420, 900, 1860]
    assert len(times) < 32
    assert max(b - a for a, b in itertools.pairwise(times)) == LONGEST_SECONDS
    assert caplog.messages[0] == "cannot write x"
    assert caplog.messages[1] == "cannot write x (61 times in 60 s)"


def test_its_end_is_logged_once_and_the_next_start_at_once(
    condition: Condition, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    condition.over("is written again")
    assert not caplog.messages
    for _ in range(2):
        condition.met("cannot write")
        assert condition.is_met
        clock.now += 23
        condition.over("it is written again")
        condition.over("it is written again")
        assert not condition.is_met
    assert caplog.messages == ["cannot write", "it is written again after 23 s"] * 2
    assert [each.levelname for each in caplog.records] == ["ERROR", "INFO"] * 2


def test_other_words_are_news_but_not_for_ever(
    condition: Condition, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1000):
        condition.met("cannot watch veth%d", number)
    assert len(caplog.messages) == MAX_CHANGES
    clock.now += 60
    condition.met("cannot watch veth5")
    assert caplog.messages[-1] == "cannot watch veth5 (1001 times in 60 s)"
