# SPDX-License-Identifier: Apache-2.0
"""The demo as a person starts it: the real agent, real traffic, and books that close."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import podtally
from podtally.commands.traffic.text_format import parse
from podtally.demo import network
from podtally.demo.topology import (
    EVENT_LOG,
    LEAK_NAME,
    OLD_BANK_NAME,
    OUTSIDE_PORT,
    PIN_DIR,
    STATE_DIR,
    STRAY,
)
from podtally.web.client import get_plain
from tests.pressure import stalled_seconds

SOURCES = Path(podtally.__file__).parents[1]

# The agent loads its kernel programs again, on a machine that does other things too.
TIMEOUT_SECONDS = 900.0

NOTICE_SECONDS = 2.0  # from the stray's first packet until it is shown as denied

# Runs in the stray's namespace: the time of its first packet to where it leaks.
WITNESS = """
import socket, struct, sys, time
port = int(sys.argv[1])
with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)) as tap:  # ETH_P_ALL
    while True:
        packet, (_, protocol, *_) = tap.recvfrom(65536)
        start = 4 * (packet[0] & 15)
        is_tcp = protocol == 0x0800 and packet[9] == socket.IPPROTO_TCP
        if is_tcp and struct.unpack_from("!H", packet, start + 2)[0] == port:
            print(time.monotonic())
            break
"""

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


def test_the_demo_shows_conversations_and_its_books_close(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    code, out, err = end(demo("--seconds", "10", "--output", "json", "--keep-agent-log", str(log)))
    assert code == 0, f"{out}{err}{log.read_text() if log.exists() else ''}"
    found = json.loads(out)
    assert found["faults"] == []
    assert uses(found, "inbound") >= {
        ("frontend-7d", "user", "80"),
        ("backend-5c", "frontend", "3000"),
        ("database-0", "backend", "3306"),
    }
    assert uses(found, "outbound") >= {
        ("frontend-7d", "backend", "3000"),
        ("backend-5c", "database", "3306"),
    }
    stray = next(pod for pod in found["pods"] if pod["pod"] == "stray-x2")
    assert {(use["peer"], use["port"], use["outside"]) for use in stray["outbound"]} == {
        (LEAK_NAME, "4444", True),
        ("dns", "53", False),
    }
    assert_judged(found)
    assert_books_and_pods_agree(found)
    assert_nothing_is_left()


def uses(found: dict[str, Any], kind: str) -> set[tuple[str, str, str]]:
    return {(pod["pod"], use["peer"], use["port"]) for pod in found["pods"] for use in pod[kind]}


def assert_judged(found: dict[str, Any]) -> None:
    """Both leaks are denied, and reported with their reasons; nothing else is, or is unknown."""
    leaks = {("stray-x2", LEAK_NAME, "4444"), ("payments-8e", "old-bank", "3306")}
    verdicts = {
        (pod["pod"], use["peer"], use["port"]): use["verdict"]
        for pod in found["pods"]
        for use in (*pod["inbound"], *pod["outbound"])
    }
    assert {key for key, verdict in verdicts.items() if verdict == "denied"} == leaks
    assert {verdict for key, verdict in verdicts.items() if key not in leaks} == {"allowed"}
    assert {pod["pod"] for pod in found["pods"] if pod["denied"]} == {"stray-x2", "payments-8e"}
    # Nothing enforces the demo's policies, and events say so, too.
    denied = [event for event in found["events"] if event["event"] != "not_enforced"]
    events = {event["endpoint"]["pod"]: event for event in denied}
    assert len(events) == len(denied) == 2
    stray, payments = events["stray-x2"], events["payments-8e"]
    assert (stray["policy"], payments["policy"]) == ("shop/default-deny", "billing/only-the-bank")
    assert "no egress rule allows this" in stray["reason"]
    assert "203.0.113.10 is in 203.0.113.10/32, excepted" in payments["reason"]
    assert (stray["peer"]["domain"], stray["peer"]["domain_source"]) == (LEAK_NAME, "dns")
    assert payments["peer"]["domain"] == OLD_BANK_NAME
    for event in events.values():
        pod = next(pod for pod in found["pods"] if pod["pod"] == event["endpoint"]["pod"])
        assert event["event"] == "denied"
        assert 0 < event["connections"] <= pod["denied"]


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
    gone = out.partition("WHAT stray-x2 DID, which is gone (podtally flows --pod stray-x2)")[2]
    assert re.search(
        rf"shop/stray +-> +internet +internet +{re.escape(LEAK_NAME)} +198\.18\.7\.7 +4444/tcp .*! denied",
        gone,
    ), out
    assert f"-> {LEAK_NAME} :4444  ! denied" in out
    assert_nothing_is_left()


def test_the_stray_pod_is_reported_in_time_in_metrics_event_log_and_table(
    tmp_path: Path,
) -> None:
    words = tmp_path / "stderr"
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with words.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "podtally", "demo"],
            stdout=theirs,
            stderr=stderr,
            env=os.environ | {"PYTHONPATH": str(SOURCES), "TERM": "xterm"},
        )
    os.close(theirs)
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, ours)
        undo.callback(_drain_and_end, process, ours)
        witness = _witness(process)
        undo.callback(_end_witness, witness)
        stalled = stalled_seconds()
        result = _when_shown(process, ours, words)
        stalled = stalled_seconds() - stalled
        assert witness.stdout is not None
        first = float(witness.stdout.readline())
        after = {who: round(at - first, 2) for who, at in result.items()}
        print(f"seconds after the stray's first packet: {after}")
        assert set(after) == {"metrics", "event log", "table"}, words.read_text()
        assert all(0 < seconds <= NOTICE_SECONDS + stalled for seconds in after.values()), after
        process.send_signal(signal.SIGINT)
    assert process.returncode == 0
    assert_nothing_is_left()


def _witness(demo: subprocess.Popen[bytes]) -> subprocess.Popen[str]:
    """Start it as soon as there is where it has to be."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    asked = ["ip", "-n", STRAY.netns, "link", "show", "eth0"]
    while subprocess.run(asked, capture_output=True, check=False).returncode:
        assert demo.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    command = [*network.inside(STRAY.netns), sys.executable, "-c", WITNESS, str(OUTSIDE_PORT)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _when_shown(demo: subprocess.Popen[bytes], screen: int, words: Path) -> dict[str, float]:
    """Look for the denial in all places at once; returns when it was in each."""
    shown = bytearray()
    tells: dict[str, Callable[[], bool]] = {
        "metrics": lambda: _metrics_tell(words.read_text()),
        "event log": _log_tells,
        "table": lambda: _table_tells(shown),
    }
    result: dict[str, float] = {}
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while len(result) < len(tells) and demo.poll() is None and time.monotonic() < deadline:
        if select.select([screen], [], [], 0.05)[0]:
            shown += os.read(screen, 65536)
        for who in tells.keys() - result.keys():
            if tells[who]():
                result[who] = time.monotonic()
    return result


def _metrics_tell(words: str) -> bool:
    found = re.search(r"metrics: http://([\d.]+):(\d+)/", words)
    if found is None:
        return False
    _, page = get_plain(found[1], int(found[2]), "/metrics")
    text = page.decode()
    return any(
        sample.value > 0
        and sample.label("policy") == "shop/default-deny"
        and sample.label("peer_domain") == LEAK_NAME
        for sample in parse(text)
        if sample.name == "podtally_policy_denied_total" and sample.label("workload") == "stray"
    )


def _log_tells() -> bool:
    text = EVENT_LOG.read_text() if EVENT_LOG.exists() else ""
    events = [json.loads(line) for line in text.splitlines()]
    return any(
        (e["endpoint"]["pod"], e["event"], e["peer"].get("domain"))
        == ("stray-x2", "denied", LEAK_NAME)
        for e in events
    )


def _table_tells(shown: bytearray) -> bool:
    text = re.sub(r"\x1b\[[\d;]*\w", "", shown.decode(errors="ignore"))
    leak = rf"^stray-x2 +-> {re.escape(LEAK_NAME)} :4444 +! denied"
    row = re.search(leak, text, re.MULTILINE)
    return row is not None and "denied by default: shop/default-deny selects it" in text


def _drain_and_end(demo: subprocess.Popen[bytes], screen: int) -> None:
    """Read on, or the demo would wait for its terminal; insist if nobody has asked it yet."""
    if demo.poll() is None:
        demo.send_signal(signal.SIGINT)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while demo.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):  # EIO: no reader has the other end open (pty(7))
            if select.select([screen], [], [], 0.1)[0]:
                os.read(screen, 65536)
    if demo.poll() is None:
        demo.kill()
    demo.wait()


def _end_witness(witness: subprocess.Popen[str]) -> None:
    witness.kill()
    with witness:
        pass
