# SPDX-License-Identifier: Apache-2.0
"""The writer: a disk without room, a file that cannot be opened, and one that is damaged."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from podtally.history import writer as writer_module
from podtally.history.retention import StoreLimits
from podtally.history.writer import HistoryWriter
from tests.unit.history.test_store import START, asked, batch, sums

BATCHES = [batch(i, START + i) for i in range(5)]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "RETRY_SECONDS", 0.05)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "history.db"


@pytest.fixture
def started() -> Iterator[Callable[[Path, StoreLimits], HistoryWriter]]:
    made: list[HistoryWriter] = []

    def start(path: Path, limits: StoreLimits) -> HistoryWriter:
        made.append(HistoryWriter(path, limits))
        made[-1].start()
        return made[-1]

    yield start
    for each in made:
        each.close()


Start = Callable[[Path, StoreLimits], HistoryWriter]
ROOMY = StoreLimits(1 << 30, 0)


def until(condition: Callable[[], bool]) -> None:
    """Wait; the test's timeout bounds it."""
    while not condition():
        time.sleep(0.01)


def is_taken(writer: HistoryWriter, number: int) -> bool:
    return writer.state.taken is not None and writer.state.taken.number >= number


def test_what_is_offered_twice_is_written_once(path: Path, started: Start) -> None:
    writer = started(path, ROOMY)
    for count in (1, 3, 5, 5):
        writer.offer(BATCHES[:count])
    until(lambda: is_taken(writer, 4))
    assert writer.state.rows == 25
    writer.close()
    assert asked(path) == sums(BATCHES)


def test_without_free_disk_nothing_is_written_and_nothing_lost(path: Path, started: Start) -> None:
    writer = started(path, StoreLimits(1 << 30, 1 << 60))
    writer.offer(BATCHES)
    until(lambda: writer.state.errors > 1)
    assert writer.state.taken is None
    assert "free space" in writer.state.trouble
    writer.close()
    later = started(path, ROOMY)
    later.offer(BATCHES)
    until(lambda: is_taken(later, 4))
    later.close()
    assert asked(path) == sums(BATCHES)


def test_a_path_that_is_not_a_directory_is_retried(path: Path, started: Start) -> None:
    path.parent.write_text("in the way")
    writer = started(path, ROOMY)
    writer.offer(BATCHES)
    until(lambda: writer.state.errors > 2)
    path.parent.unlink()
    until(lambda: is_taken(writer, 4))
    writer.close()
    assert asked(path) == sums(BATCHES)


def test_a_file_that_is_damaged_meanwhile_is_set_aside(path: Path, started: Start) -> None:
    writer = started(path, ROOMY)
    writer.offer(BATCHES[:3])
    until(lambda: is_taken(writer, 2))
    writer.report_damage("a reader found it damaged")
    until(lambda: path.with_name("history.db.unusable").exists())
    writer.offer(BATCHES[3:])
    until(lambda: is_taken(writer, 4))
    writer.close()
    assert asked(path) == sums(BATCHES[3:])


def test_two_agents_do_not_write_one_file(path: Path, started: Start) -> None:
    first, second = started(path, ROOMY), started(path, ROOMY)
    first.offer(BATCHES)
    second.offer(BATCHES)
    until(lambda: bool(first.state.errors or second.state.errors))
    until(lambda: is_taken(first, 4) or is_taken(second, 4))
    assert "another podtally" in (first.state.trouble or second.state.trouble)


def test_no_store_is_made_on_a_disk_with_too_little_free_space(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "history.db"
    writer = HistoryWriter(path, StoreLimits(1 << 30, 1 << 60))
    writer.start()
    until(lambda: bool(writer.state.trouble))
    writer.close()
    assert writer.state.trouble == "the disk has too little free space"
    assert not path.exists()
    assert "history.min_free_bytes" in caplog.text
