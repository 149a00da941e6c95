# SPDX-License-Identifier: Apache-2.0
"""The event log on standard output, pipes and full disks: whole lines, wherever they go."""

import json
import os
import resource
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from podtally.export.event_log import EventLog
from podtally.export.log_sink import Stream
from tests.unit.export.test_event_log import DUE, NOW, NOW_NS, SMALL, lines, path

__all__ = ["path"]


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file of this process may grow beyond that: a write is cut short, as on a full disk.

    Not a fixture: those end after the test's report, which may go into a file that is longer.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_leaves_no_half_of_a_line(path: Path) -> None:
    log = EventLog(str(path), 1 << 20, 50)
    with small_files(SMALL):
        log.write([DUE, DUE], NOW_NS, NOW)
        size = path.stat().st_size
        assert size < SMALL < 2 * size
        for _ in range(3):
            with pytest.raises(OSError, match="File too large"):
                log.write([DUE, DUE], NOW_NS, NOW)
            assert path.stat().st_size == size
        log.write([DUE], NOW_NS, NOW)
    log.close()
    assert len(lines(path)) == 3


@pytest.mark.parametrize("flags", [0, os.O_APPEND])
def test_standard_output_that_is_a_file_keeps_whole_lines_too(path: Path, flags: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600)
    stream = Stream(fd)
    with small_files(SMALL):
        stream.append(b"first\n")
        with pytest.raises(OSError, match="File too large"):
            stream.append(b"x" * SMALL + b"\n")
        stream.append(b"second\n")
    stream.close()
    assert path.read_bytes() == b"first\nsecond\n"


def read_all(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, 1 << 16):
        parts.append(part)
    return b"".join(parts)


def fill(fd: int) -> int:
    """Write to a pipe until it is full; returns how much."""
    os.set_blocking(fd, False)
    written = 0
    try:
        while True:
            written += os.write(fd, b"-" * select.PIPE_BUF)
    except BlockingIOError:
        os.set_blocking(fd, True)
        return written


def test_a_pipe_gets_whole_lines_in_one_write() -> None:
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # a write, a message
    line = b"x" * 1000 + b"\n"
    with mine, theirs:
        stream = Stream(os.dup(mine.fileno()))
        stream.append(line * 3)
        stream.append(line * 6)
        stream.close()
        result = [theirs.recv(1 << 16) for _ in range(3)]
    assert result == [line * 3, line * 4, line * 2]


def test_a_full_pipe_takes_nothing_and_blocks_no_one() -> None:
    reading, writing = os.pipe()
    stream = Stream(writing)
    filled = fill(writing)
    for _ in range(2):
        with pytest.raises(BlockingIOError, match="is not being read"):
            stream.append(b"lost\n")
    os.read(reading, filled)
    stream.append(b"kept\n")
    stream.close()
    assert read_all(reading) == b"kept\n"
    os.close(reading)


def test_what_a_slow_reader_leaves_is_sent_later_and_never_twice() -> None:
    reading, writing = os.pipe()
    stream = Stream(writing)
    batch = b"".join(b"%07d %s\n" % (i, b"x" * 1000) for i in range(230))  # more than a pipe takes
    stream.append(batch)
    got = b""
    while True:
        try:
            stream.append(b"last\n")
            break
        except BlockingIOError:
            got += os.read(reading, 1 << 16)
    stream.close()
    assert got.startswith(batch[: 1 << 16])
    assert got + read_all(reading) == batch + b"last\n"
    os.close(reading)


def test_what_a_slow_reader_leaves_does_not_wait_for_the_next_event() -> None:
    reading, writing = os.pipe()
    stream = Stream(writing)
    line = b"x" * 1000 + b"\n"
    stream.append(line * 70)
    got = os.read(reading, 1 << 16)
    stream.append(b"")  # an epoch without events
    assert len(got) + len(os.read(reading, 1 << 16)) == 70 * len(line)
    stream.close()
    os.close(reading)


def test_a_line_beyond_what_a_pipe_takes_at_once_is_whole_in_the_end() -> None:
    reading, writing = os.pipe()
    stream = Stream(writing)
    line = b"x" * (3 * select.PIPE_BUF + 23) + b"\n"
    stream.append(b"short\n" + line + b"short\n")
    stream.close()
    assert read_all(reading) == b"short\n" + line + b"short\n"
    os.close(reading)


def test_a_pipe_that_another_made_non_blocking() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    stream = Stream(writing)
    fill(writing)
    os.set_blocking(writing, False)
    with pytest.raises(BlockingIOError):
        stream.append(b"lost\n")
    stream.close()
    os.close(reading)


def test_a_pipe_without_a_reader_is_an_error_each_time() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = Stream(writing)
    for _ in range(3):
        with pytest.raises(BrokenPipeError):
            stream.append(b"lost\n")
    stream.close()


def test_a_reader_that_leaves_in_the_middle_is_reported() -> None:
    reading, writing = os.pipe()
    stream = Stream(writing)
    stream.append(b"x" * (1 << 20) + b"\n")
    os.close(reading)
    for text in (b"", b"lost\n"):  # the rest of the first is lost, then each
        with pytest.raises(BrokenPipeError):
            stream.append(text)
    stream.append(b"")
    stream.close()


PROGRAM = """
import datetime
from podtally.export.event_log import EventLog, EventOrigin
from tests.unit.export.test_event_log import DUE, NOW, NOW_NS
log = EventLog("-", 1, 50)
print(log.write([DUE] * 23, NOW_NS, NOW))
log.close()
"""


def program(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, *arguments],
        text=True,
        env=environment,
        timeout=300,
        check=False,
        **options,
    )


def test_a_hyphen_is_standard_output() -> None:
    done = program("-c", PROGRAM, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    *result, count = done.stdout.splitlines()
    assert count == "23"
    assert [json.loads(line)["policy"] for line in result] == ["shop/out"] * 23


def test_a_hyphen_into_a_file(path: Path) -> None:
    with path.open("w") as file:
        done = program("-c", PROGRAM, stdout=file, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(path.read_text().splitlines()) == 24


def test_a_closed_standard_output_is_reported_at_the_start() -> None:
    start = "import os, sys; os.close(1); os.execv(sys.executable, sys.argv[1:])"
    done = program("-c", start, sys.executable, "-c", PROGRAM, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert "PodtallyError: standard output is closed" in done.stderr
