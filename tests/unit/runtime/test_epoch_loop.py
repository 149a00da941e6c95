# SPDX-License-Identifier: Apache-2.0
"""Lateness of epochs: an epoch with too much work makes the next one late, and shows it."""

from itertools import pairwise

import numpy as np
import pytest

from podtally.runtime.epoch_loop import head_start, next_due


def lateness(work: list[float], epoch: float = 1.0) -> list[float]:
    """How late each epoch starts, if the work of each takes so long."""
    return [round(max(0.0, started - due), 6) for started, due in schedule(work, epoch)]


def schedule(work: list[float], epoch: float = 1.0) -> list[tuple[float, float]]:
    """When each epoch starts, and when it was due."""
    due, now, found, took = epoch, epoch, [], 0.0
    for seconds in work:
        started = max(now, due - head_start(took, epoch))
        found.append((started, due))
        now, took = started + seconds, seconds
        due = next_due(min(due, started), started, epoch)
    return found


@pytest.mark.parametrize(
    ("work", "late"),
    [
        ([0.1, 0.1, 0.1], [0, 0, 0]),
        ([0.1, 1.3, 0.1, 0.1], [0, 0, 0.3, 0]),  # in step again
        ([2.8, 2.8, 2.8, 0.1, 0.1], [0, 1.8, 1.8, 1.8, 0]),
        ([15.0, 0.1, 0.1], [0, 14.0, 0]),  # fifteen epochs are not made up for
    ],
)
def test_work_that_takes_too_long_makes_the_next_epoch_late(
    work: list[float], late: list[float]
) -> None:
    assert lateness(work) == late


def test_epochs_keep_step() -> None:
    due = 1.0
    for number in range(1, 100):
        due = next_due(due, due + 0.003, 1.0)
        assert due == number + 1


@pytest.mark.parametrize("seconds", [0.1, 0.2, 0.3, 0.4])
def test_what_is_seen_after_a_flip_is_reported_within_an_epoch(seconds: float) -> None:
    starts = [started for started, _ in schedule([seconds] * 9)]
    reported = [round(after + seconds - before, 6) for before, after in pairwise(starts)]
    assert set(reported) == {1.0}
    assert lateness([seconds] * 9) == [0] * 9


@pytest.mark.parametrize("seconds", [0.001, 0.09, 0.7, 1.3])
def test_epochs_with_little_work_and_with_too_much_start_when_they_are_due(seconds: float) -> None:
    assert head_start(seconds, 1.0) == 0


def test_work_leaves_a_third_of_the_time() -> None:
    for took in np.linspace(0.0, 2.0, 2001).tolist():
        assert 1.0 - head_start(took, 1.0) >= min(1.0, 1.5 * took) - 1e-9
