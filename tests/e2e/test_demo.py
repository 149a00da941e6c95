"""The demo as a person starts it: the real agent, real traffic, and books that close."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import podtally
from podtally.demo import network
from podtally.demo.topology import PIN_DIR, STATE_DIR

SOURCES = Path(podtally.__file__).parents[1]

# The agent compiles its kernel programs anew, on a machine that does other things too.
TIMEOUT_SECONDS = 180.0

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def demo(*flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "podtally", "demo", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SOURCES)},
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code and both outputs; a demo that hangs is ended first, and fails the test."""
    try:
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.terminate()  # it cleans up after itself
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
        pytest.fail(f"the demo did not end: {out}{err}")
    return process.returncode, out, err


def assert_nothing_is_left() -> None:
    assert network.namespaces() == []
    assert not STATE_DIR.exists()
    assert not PIN_DIR.exists()


def test_the_demo_shows_who_talks_to_whom_and_its_books_close(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    code, out, err = end(demo("--seconds", "10", "--output", "json", "--keep-agent-log", str(log)))
    assert code == 0, f"{out}{err}{log.read_text() if log.exists() else ''}"
    found = json.loads(out)
    assert found["faults"] == []
    assert uses(found, "served") >= {
        ("frontend-7d", "customers", "80"),
        ("backend-5c", "frontend", "3000"),
        ("database-0", "backend", "3306"),
    }
    assert uses(found, "asked") >= {
        ("frontend-7d", "backend", "3000"),
        ("backend-5c", "database", "3306"),
    }
    stray = next(pod for pod in found["pods"] if pod["pod"] == "stray-x2")
    assert [(use["port"], use["outside"]) for use in stray["asked"]] == [("4444", True)]
    assert_books_and_pods_agree(found)
    assert_nothing_is_left()


def uses(found: dict[str, Any], kind: str) -> set[tuple[str, str, str]]:
    return {(pod["pod"], use["peer"], use["port"]) for pod in found["pods"] for use in pod[kind]}


def assert_books_and_pods_agree(found: dict[str, Any]) -> None:
    """Hold the two against each other: a pod moved its flows, and at most what else is booked."""
    books = {(book["interface"], book["direction"]): book for book in found["books"]}
    for pod in found["pods"]:
        interface = "ptd-" + pod["pod"].partition("-")[0]
        for direction, moved in (("ingress", "received_bytes"), ("egress", "sent_bytes")):
            book = books[interface, direction]
            all_booked = book["flows"] + book["other"] + book["overflow"]
            assert book["flows"] <= pod[moved] <= all_booked


def test_ctrl_c_ends_it_with_the_final_table_and_leaves_nothing() -> None:
    process = demo()
    deadline = time.monotonic() + TIMEOUT_SECONDS
    assert process.stderr is not None
    said = ""
    while "is ready" not in said and time.monotonic() < deadline:
        line = process.stderr.readline()
        assert line, f"the demo ended before its agent was ready: {said}"
        said += line
    time.sleep(5)
    process.send_signal(signal.SIGINT)
    code, out, err = end(process)
    assert code == 0, out + err
    assert "the books close" in out
    assert "! " in out  # the stray's target
    assert_nothing_is_left()
