# SPDX-License-Identifier: Apache-2.0
"""The event log: what a line says, and that there are only whole lines, wherever they go."""

import datetime
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

from podtally.errors import PodtallyError
from podtally.export.event_log import EventLog, EventOrigin
from podtally.export.log_sink import RollingFile, Stream
from podtally.ledger.events.events import Due, EventLabels

SECOND = 1_000_000_000
NOW_NS = 1000 * SECOND
SMALL = 2000  # bytes
NOW = datetime.datetime(2024, 2, 29, 12, 0, 0, 23999, tzinfo=datetime.UTC)
LABELS = EventLabels(
    "denied",
    "egress",
    "shop",
    "stray-x2",
    "stray",
    "Deployment",
    "external",
    "",
    "office",
    "",
    "203.0.113.10",
    "internet",
    "tcp",
    "3306",
    "shop/out",
    "shop/out egress[0]: 203.0.113.10 is excepted",
    "",
)
DUE = Due(LABELS, 23, 2, 2**53 + 1, 29, NOW_NS - 61 * SECOND, NOW_NS - 23_500_000)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def test_a_line_tells_all_of_an_event(path: Path) -> None:
    log = EventLog(str(path), 1 << 20, 50)
    assert log.write([DUE], NOW_NS, NOW) == 1
    log.close()
    assert path.read_text().endswith("}\n")
    (line,) = lines(path)
    assert line == {
        "time": "2024-02-29T12:00:00.023Z",
        "event": "denied",
        "direction": "egress",
        "endpoint": {
            "namespace": "shop",
            "pod": "stray-x2",
            "workload": "stray",
            "workload_kind": "Deployment",
        },
        "peer": {
            "kind": "external",
            "namespace": "",
            "workload": "office",
            "name": "",
            "address": "203.0.113.10",
            "scope": "internet",
        },
        "protocol": "tcp",
        "port": 3306,
        "policy": "shop/out",
        "reason": "shop/out egress[0]: 203.0.113.10 is excepted",
        "connections": 23,
        "new_connections": 2,
        "bytes": {"egress": 2**53 + 1, "ingress": 29},
        "first": "2024-02-29T11:58:59.023Z",
        "last": "2024-02-29T12:00:00.000Z",  # 23.5 ms ago is within this millisecond
    }
    assert list(line)[:4] == ["time", "event", "direction", "endpoint"]


def test_a_line_says_where_it_comes_from(path: Path) -> None:
    for origin in (EventOrigin("production", "worker-3"), EventOrigin(node="worker-3")):
        log = EventLog(str(path), 1 << 20, 50, origin)
        assert log.write([DUE], NOW_NS, NOW) == 1
        log.close()
    first, second = lines(path)
    assert list(first)[:5] == ["time", "event", "cluster", "node", "direction"]
    assert (first["cluster"], first["node"]) == ("production", "worker-3")
    assert ("cluster" in second, second["node"]) == (False, "worker-3")


def test_exposure_is_reported_where_there_is_some(path: Path) -> None:
    log = EventLog(str(path), 1 << 20, 50)
    labels = LABELS._replace(verdict="undeclared", direction="ingress", exposure="undeclared")
    assert log.write([DUE._replace(labels=labels), DUE], NOW_NS, NOW) == 2
    log.close()
    assert [line.get("exposure") for line in lines(path)] == ["undeclared", None]
    assert [line["event"] for line in lines(path)] == ["undeclared", "denied"]


def test_undeclared_exposure_that_policy_allows_says_what_it_is(path: Path) -> None:
    log = EventLog(str(path), 1 << 20, 50)
    exposed = LABELS._replace(verdict="allowed", direction="ingress", exposure="undeclared")
    declared = LABELS._replace(direction="ingress", exposure="LoadBalancer shop/web:443")
    due = [DUE._replace(labels=labels) for labels in (exposed, declared)]
    assert log.write(due, NOW_NS, NOW) == 2
    log.close()
    result = [(line["event"], line.get("verdict"), line["exposure"]) for line in lines(path)]
    assert result == [
        ("exposed", "allowed", "undeclared"),
        ("denied", None, "LoadBalancer shop/web:443"),
    ]


@pytest.mark.parametrize(
    ("port", "result"),
    [("0", 0), ("65535", 65535), ("unknown", None), ("other", None), ("", None)],
)
def test_a_port_is_a_number_or_null(path: Path, port: str, result: int | None) -> None:
    log = EventLog(str(path), 1 << 20, 50)
    log.write([DUE._replace(labels=LABELS._replace(port=port))], NOW_NS, NOW)
    log.close()
    assert [line["port"] for line in lines(path)] == [result]


def test_the_clock_of_another_zone_is_reported_as_utc(path: Path) -> None:
    log = EventLog(str(path), 1 << 20, 50)
    elsewhere = NOW.astimezone(datetime.timezone(datetime.timedelta(hours=-7)))
    log.write([DUE], NOW_NS, elsewhere)
    log.close()
    assert lines(path)[0]["time"] == "2024-02-29T12:00:00.023Z"


@pytest.mark.parametrize("name", ['a"\n{', "\u2028\0", "half a pair \udcff \ud800"])
def test_a_line_is_a_line_whatever_a_name_holds(path: Path, name: str) -> None:
    log = EventLog(str(path), 1 << 20, 50)
    log.write([DUE._replace(labels=LABELS._replace(pod=name)), DUE], NOW_NS, NOW)
    log.close()
    first, second = (json.loads(line) for line in path.read_bytes().split(b"\n")[:2])
    assert (first["endpoint"]["pod"], second["endpoint"]["pod"]) == (name, "stray-x2")
    assert first.keys() == second.keys()
    assert first["bytes"] == second["bytes"]


def test_no_event_is_no_line_and_no_roll(path: Path) -> None:
    log = EventLog(str(path), 10, 50)
    log.write([DUE], NOW_NS, NOW)
    assert log.write([], NOW_NS, NOW) == 0
    log.close()
    assert len(lines(path)) == 1
    assert [each.name for each in path.parent.iterdir()] == ["events.jsonl"]


def test_the_log_rolls(path: Path) -> None:
    log = EventLog(str(path), 2000, 50)
    for _ in range(23):
        log.write([DUE], NOW_NS, NOW)
        assert path.stat().st_size <= 2000
    log.close()
    assert 0 < len(lines(path)) <= len(lines(path.with_suffix(".jsonl.1"))) < 23


def test_a_file_that_was_moved_away_is_created_again_at_once(path: Path) -> None:
    log = EventLog(str(path), 1 << 20, 50)
    log.write([DUE], NOW_NS, NOW)
    path.rename(path.with_name("moved"))
    for _ in range(2):
        log.write([DUE], NOW_NS, NOW)
    log.close()
    assert (len(lines(path)), len(lines(path.with_name("moved")))) == (2, 1)


def test_a_line_that_was_cut_short_spoils_no_other(path: Path) -> None:
    path.write_text('{"time":"2024-02-2')
    log = EventLog(str(path), 1 << 20, 50)
    for _ in range(2):
        log.write([DUE], NOW_NS, NOW)
    log.close()
    cut, *whole = path.read_text().splitlines()
    assert cut == '{"time":"2024-02-2'
    assert [json.loads(line)["event"] for line in whole] == ["denied", "denied"]


@pytest.mark.parametrize("what", ["a folder", "a fifo", "a device", "no folder"])
def test_what_is_no_file_is_said_at_the_start(tmp_path: Path, what: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    where = {
        "a folder": tmp_path,
        "a fifo": tmp_path / "fifo",
        "a device": Path("/dev/full"),
        "no folder": tmp_path / "none" / "events.jsonl",
    }[what]
    with pytest.raises(PodtallyError, match=rf"cannot write the events {where}: .*check --events$"):
        EventLog(str(where), 100, 50)


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


def test_a_closed_standard_output_is_said_at_the_start() -> None:
    start = "import os, sys; os.close(1); os.execv(sys.executable, sys.argv[1:])"
    done = program("-c", start, sys.executable, "-c", PROGRAM, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert "PodtallyError: standard output is closed" in done.stderr


def test_the_flag_is_named() -> None:
    with pytest.raises(PodtallyError, match=r"the flow log /nowhere/a: .*check --flow-log$"):
        RollingFile(Path("/nowhere/a"), 1)
