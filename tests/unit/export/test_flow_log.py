# SPDX-License-Identifier: Apache-2.0
"""The flow log: one line for every connection that is over, in a file that rolls."""

import datetime
import json
import os
from pathlib import Path
from typing import Any

import pytest

from podtally.errors import PodtallyError
from podtally.export.flow_log import FlowLog
from podtally.ledger.closed import ClosedConnections
from podtally.ledger.connections.account import Judgement
from podtally.ledger.connections.epoch_context import EpochContext
from tests.unit.rows import (
    RST,
    SECOND,
    SYN,
    UDP,
    Flow,
    book,
    from_here,
    make_ledger,
    names,
    to_here,
)

NOW = datetime.datetime(2024, 2, 29, 12, 0, 0, tzinfo=datetime.UTC)
HERE = Flow(seen=from_here(SYN | RST), bytes=(23, 2**53 + 1), packets=(1, 2))
THERE = Flow("2001:db8:23::5", 6, 80, 51001, 9, "2001:db8::9", seen=to_here(SYN | RST))
DATAGRAM = Flow("198.18.0.53", UDP, 40999, 53, 23)


def ended(*flows: Flow) -> list[ClosedConnections]:
    ledger = make_ledger()
    for ifindex in (7, 9):
        ledger.interfaces.appeared(ifindex, f"veth{ifindex}", (0, 0))
    book(ledger, names(), flows, now_ns=5 * SECOND)
    ledger.settle(EpochContext(names(), 5 * SECOND), [])
    return ledger.settle(EpochContext(names(), 1000 * SECOND), [])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_has_everything_about_a_connection(tmp_path: Path) -> None:
    log = FlowLog(tmp_path / "flows.jsonl", 1 << 20)
    assert log.write(ended(HERE), 11 * SECOND, NOW) == 1
    log.close()
    assert lines(tmp_path / "flows.jsonl") == [
        {
            "start": "2024-02-29T11:59:50Z",  # first seen at second 1, now is 11
            "duration_seconds": 4.0,
            "direction": "egress",
            "protocol": "tcp",
            "endpoint": {
                "namespace": "shop",
                "pod": "web-0",
                "workload": "web",
                "interface": "veth7",
                "address": "10.99.0.7",
                "port": 40123,
            },
            "peer": {
                "kind": "external",
                "namespace": "",
                "workload": "office",
                "scope": "internet",
                "address": "203.0.113.5",
                "port": 443,
            },
            "verdict": "undeclared",
            "reason": "no policy isolates shop/web-0 in egress",
            "bytes": {"egress": 23, "ingress": 2**53 + 1},
            "packets": {"egress": 1, "ingress": 2},
            "outcome": "unanswered",
        }
    ]


def test_each_connection_has_its_line(tmp_path: Path) -> None:
    log = FlowLog(tmp_path / "flows.jsonl", 1 << 20)
    assert log.write(ended(HERE, THERE, DATAGRAM), 1000 * SECOND, NOW) == 3
    assert log.write([], 1000 * SECOND, NOW) == 0
    log.close()
    result = {
        line["endpoint"]["address"] + " " + line["endpoint"]["interface"]: line
        for line in lines(tmp_path / "flows.jsonl")
    }
    assert {key: (line["direction"], line["endpoint"]["pod"]) for key, line in result.items()} == {
        "10.99.0.7 veth7": ("egress", "web-0"),
        "2001:db8::9 veth9": ("ingress", "db-0"),
        "10.99.0.7 ifindex 23": ("egress", "unknown"),
    }


def test_each_line_has_its_own_verdict_and_reason(tmp_path: Path) -> None:
    log = FlowLog(tmp_path / "flows.jsonl", 1 << 20)
    (over,) = [each for each in ended(HERE, THERE) if len(each.columns.account)]
    first, second = over.columns.account.tolist()
    accounts = {
        first: over.accounts[first]._replace(judgement=Judgement("denied")),
        second: over.accounts[second]._replace(judgement=Judgement("undeclared")),
    }
    reasons = ["shop/out egress[0]: port 443 is not 3306", "nothing isolates \udcff"]
    log.write([over._replace(accounts=accounts, reasons=reasons)], 1000 * SECOND, NOW)
    log.close()
    result = [(line["verdict"], line["reason"]) for line in lines(tmp_path / "flows.jsonl")]
    assert result == list(zip(["denied", "undeclared"], reasons, strict=True))


def test_the_log_is_appended_to(tmp_path: Path) -> None:
    for _ in range(3):
        log = FlowLog(tmp_path / "flows.jsonl", 1 << 20)
        log.write(ended(HERE), SECOND, NOW)
        log.close()
    assert len(lines(tmp_path / "flows.jsonl")) == 3


def test_the_log_rolls(tmp_path: Path) -> None:
    path = tmp_path / "flows.jsonl"
    log = FlowLog(path, 2000)
    size = 0
    for _ in range(23):
        log.write(ended(HERE), SECOND, NOW)
        size = max(size, path.stat().st_size)
    log.close()
    rolled = lines(tmp_path / "flows.jsonl.1")
    assert size <= 2000
    assert 0 < len(lines(path)) <= len(rolled)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["flows.jsonl", "flows.jsonl.1"]


def test_an_epoch_of_more_than_the_file_may_hold_is_whole(tmp_path: Path) -> None:
    log = FlowLog(tmp_path / "flows.jsonl", 10)
    flows = [HERE._replace(local_port=1000 + i) for i in range(23)]
    assert log.write(ended(*flows), SECOND, NOW) == 23
    log.close()
    assert len(lines(tmp_path / "flows.jsonl")) == 23


def test_a_file_that_was_moved_away_is_created_again(tmp_path: Path) -> None:
    path = tmp_path / "flows.jsonl"
    log = FlowLog(path, 10)
    log.write(ended(HERE), SECOND, NOW)
    path.unlink()
    log.write(ended(HERE), SECOND, NOW)
    log.close()
    assert len(lines(path)) == 1


def test_what_cannot_be_rolled_is_an_error_until_it_can(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "flows.jsonl"
    path.parent.mkdir()
    log = FlowLog(path, 10)
    log.write(ended(HERE), SECOND, NOW)
    path.parent.rename(tmp_path / "away")
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            log.write(ended(HERE), SECOND, NOW)
    path.parent.mkdir()
    log.write(ended(HERE), SECOND, NOW)
    log.close()
    assert len(lines(path)) == 1
    assert len(lines(tmp_path / "away" / "flows.jsonl")) == 1


def test_a_path_that_cannot_be_written_is_reported_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(PodtallyError, match=r"cannot write the flow log .*/none/.*--flow-log"):
        FlowLog(tmp_path / "none" / "flows.jsonl", 100)


def test_a_hyphen_is_standard_output(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    kept = os.dup(1)
    os.dup2(writer, 1)
    try:
        log = FlowLog(Path("-"), 1 << 20)
        assert log.write(ended(HERE), SECOND, NOW) == 1
        assert log.write([], SECOND, NOW) == 0  # what a slow reader was still owed
        log.close()
    finally:
        os.dup2(kept, 1)
        for fd in (kept, writer):
            os.close(fd)
    with os.fdopen(reader) as pipe:
        (line,) = (json.loads(each) for each in pipe)
    assert line["endpoint"]["pod"] == "web-0"
    assert not Path("-").exists()
