# SPDX-License-Identifier: Apache-2.0
"""The event log: what a line says, and the files that it goes to."""

import datetime
import json
import os
from pathlib import Path
from typing import Any

import pytest

from podtally.errors import PodtallyError
from podtally.export.event_log import EventLog, EventOrigin
from podtally.export.log_sink import RollingFile
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


def test_a_line_has_everything_about_an_event(path: Path) -> None:
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
def test_what_is_not_a_file_is_reported_at_the_start(tmp_path: Path, what: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    where = {
        "a folder": tmp_path,
        "a fifo": tmp_path / "fifo",
        "a device": Path("/dev/full"),
        "no folder": tmp_path / "none" / "events.jsonl",
    }[what]
    with pytest.raises(PodtallyError, match=rf"cannot write the events {where}: .*check --events$"):
        EventLog(str(where), 100, 50)


def test_the_flag_is_named() -> None:
    with pytest.raises(PodtallyError, match=r"the flow log /nowhere/a: .*check --flow-log$"):
        RollingFile(Path("/nowhere/a"), 1)
