# SPDX-License-Identifier: Apache-2.0
"""Lateness of epochs: an epoch with too much work makes the next one late, and shows it."""

import pytest

from podtally.runtime.epoch_loop import next_due


def lateness(work: list[float], epoch: float = 1.0) -> list[float]:
    """How late each epoch starts, if the work of each takes so long."""
    due, now, found = epoch, epoch, []
    for seconds in work:
        started = max(now, due)
        found.append(round(started - due, 6))
        now = started + seconds
        due = next_due(due, started, epoch)
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
