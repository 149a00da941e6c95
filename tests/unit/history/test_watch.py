# SPDX-License-Identifier: Apache-2.0
"""``podtally flows --watch``: a real command beside a server whose rows change."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from podtally.api.query_service import QueryService
from podtally.api.schema import Flows
from podtally.cli import main
from podtally.export.agent_metrics import AgentMetrics
from podtally.export.publisher import Health, Publisher
from podtally.identity.local.directory import Directory
from podtally.ledger.metrics.view import View
from podtally.policy.load.policy_sources import DeclaredPolicies
from podtally.web.server import WebServer
from tests.unit.web.test_handler import port_of

SECONDS = 60.0
A, B = "203.0.113.1", "203.0.113.2"


def row(address: str, sent: int, connections: int = 1) -> dict[str, Any]:
    labels = {
        "namespace": "shop", "pod": "web-0", "workload": "web", "initiator": "endpoint",
        "peer_kind": "external", "peer_namespace": "", "peer_workload": "", "peer_domain": "",
        "address": address, "protocol": "tcp", "port": "443", "scope": "internet",
        "verdict": "denied", "policy": "", "cause": "", "outcome": "",
    }  # fmt: skip
    amount = {"egress": sent, "ingress": 2 * sent}
    times = {"first": "2026-01-31T12:00:00Z", "last": f"2026-01-31T12:00:{sent % 60:02d}Z"}
    return {**labels, "connections": connections, "bytes": amount, "packets": amount, **times}


PAGES = (
    [row(A, 100)],  # before the watch: not shown
    [row(A, 100), row(B, 7)],
    [row(A, 123, 3), row(B, 7)],
    [row(A, 123, 3)],
)


class Moving(QueryService):
    """Answers with one page after the other, and then the last one."""

    def __init__(self) -> None:
        super().__init__(Directory((), {}), lambda: DeclaredPolicies((), (), ()))
        self.asked: list[Mapping[str, Sequence[str]]] = []
        self.done = threading.Event()

    def flows(self, words: Mapping[str, Sequence[str]]) -> Flows:
        page = PAGES[min(len(self.asked), len(PAGES) - 1)]
        self.asked.append(words)
        if len(self.asked) > len(PAGES) + 1:
            self.done.set()
        return Flows("2026-01-31T12:00:00Z", "2026-01-31T13:00:00Z", page, len(page))


@contextmanager
def watching(*flags: str) -> Iterator[tuple[Moving, subprocess.Popen[str]]]:
    server, moving = WebServer(("127.0.0.1", 0), None), Moving()
    server.start(Publisher(View({}), AgentMetrics(), lambda: Health("", "")), moving)
    command = [sys.executable, "-m", "podtally", "flows", "--watch", "--verdict", "denied"]
    listen = ("--listen", f"127.0.0.1:{port_of(server)}")
    try:
        with subprocess.Popen(
            [*command, *listen, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                yield moving, process
            finally:
                process.kill()
    finally:
        server.close()


def interrupted(moving: Moving, process: "subprocess.Popen[str]") -> list[str]:
    """Return the lines up to Ctrl-C, once all pages are shown."""
    assert moving.done.wait(SECONDS)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, err) == (130, "")
    return out.splitlines()


def test_lines_are_what_is_new_and_what_was_added() -> None:
    began = time.time()
    with watching("-o", "json", "--top", "1", "--since", "7d") as (moving, process):
        lines = [json.loads(line) for line in interrupted(moving, process)]
    assert [(each["address"], each["connections"], each["bytes"]) for each in lines] == [
        (B, 1, {"egress": 7, "ingress": 14}),
        (A, 2, {"egress": 23, "ingress": 46}),
    ]
    for words in moving.asked:
        assert (words["verdict"], words["by"]) == (["denied"], ["connection"])
        assert not words.keys() & {"top", "until", "new"}
        assert float(words["since"][0]) > began - 310


def test_a_table_has_one_line_for_each() -> None:
    with watching() as (moving, process):
        lines = interrupted(moving, process)
    assert [next(word for word in line.split() if word in (A, B)) for line in lines] == [B, A]
    assert all("shop/web" in line and "denied" in line for line in lines)


def test_csv_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flows", "--watch", "-o", "csv", "--listen", "127.0.0.1:1"]) == 2
    assert "use -o json" in capsys.readouterr().err
