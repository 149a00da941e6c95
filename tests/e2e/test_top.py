# SPDX-License-Identifier: Apache-2.0
"""``podtally top`` beside a real agent and real traffic: it shows what /metrics says, and the denied as denied."""

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.apiserver.certificates import Authority
from tests.e2e.agents import Agent, Samples, environment
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Node, Pod
from tests.e2e.policy_world import (
    CONNECTIONS,
    FLOWS,
    OUTSIDE,
    SIZE,
    TIMES,
    Static,
    configuration,
    converse,
    eventually,
    outside,
    series_of,
    talk,
    verdicts,
)
from tests.e2e.web_support import NAMES, PASSWORD, USER, served, tls, users

SHUT = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: shut, namespace: shop}}
spec: {{podSelector: {{matchLabels: {{app: {app}}}}}, policyTypes: [Egress]}}
"""
OPEN = """
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: open, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{}]}
"""
DB_PORT, LEAK_PORT, API_PORT = 3306, 4444, 443
PATIENCE_SECONDS = 60.0
COLUMNS, LINES = 110, 24


class Shop(NamedTuple):
    """web asks db and an API outside, as it may; stray sends where policy denies it."""

    agent: Agent
    web: Pod
    db: Pod
    stray: Pod
    world: Pod

    def leak(self) -> None:
        converse(self.stray, self.world, LEAK_PORT, (OUTSIDE[0], LEAK_PORT))

    def trade(self) -> None:
        converse(self.web, self.db, DB_PORT)
        converse(self.web, self.world, API_PORT, (OUTSIDE[1], API_PORT))


@pytest.fixture
def shop(node: Node, make_agent: MakeAgent, tmp_path: Path) -> Shop:
    pods = {
        name: node.routed_pod(name, number) for number, name in enumerate(("web", "db", "stray"), 5)
    }
    known = {pod.netns: Static("shop", name, {"app": name}) for name, pod in pods.items()}
    (tmp_path / "policy.yaml").write_text(SHUT.format(app="stray") + OPEN)
    flags = configuration(tmp_path / "podtally.yaml", known)
    agent = make_agent(*flags, "--policies", str(tmp_path / "policy.yaml"))
    made = Shop(agent, pods["web"], pods["db"], pods["stray"], outside(node))
    agent.start()
    agent.wait_ready()
    return made


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "podtally", "top", *arguments]


def run(*arguments: str, **variables: str) -> tuple[int, str, str]:
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=120, check=False,
        env=environment() | variables,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def where(agent: Agent) -> tuple[str, str]:
    return "--listen", f"127.0.0.1:{agent.places.port}"


# -- once ---------------------------------------------------------------------------------


def shown(found: dict[str, Any]) -> dict[str, dict[tuple[tuple[str, str], ...], int]]:
    """What top shows, under the labels of /metrics; without zeros."""
    series: dict[str, dict[tuple[tuple[str, str], ...], int]] = {FLOWS: {}, CONNECTIONS: {}}
    counters = {"bytes": FLOWS, "connections": CONNECTIONS}
    for row in found["conversations"]:
        values = {
            name: row.pop(name) for name in [name for name in row if name.endswith(tuple(counters))]
        }
        for name, value in values.items():
            direction, _, counted = name.partition("_")
            if value:
                labels = tuple(sorted((row | {"direction": direction}).items()))
                assert labels not in series[counters[counted]]
                series[counters[counted]][labels] = value
    return series


def test_it_shows_what_the_metrics_say_and_the_denied_as_denied(shop: Shop, node: Node) -> None:
    for _ in range(TIMES):
        shop.trade()
        shop.leak()
    node.quiet()
    samples = settled(shop.agent)
    code, out, err = run(*where(shop.agent), "--output", "json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["totals"]["denied"]["connections"] == TIMES
    assert found["totals"]["unknown"] == {"connections": 0, "bytes": 0}
    assert found["books"]["gaps"] == []
    assert found["books"]["bytes"] == sum(series_of(samples, "podtally_books_bytes_total").values())
    assert shown(found) == {name: series_of(samples, name) for name in (FLOWS, CONNECTIONS)}

    code, out, _ = run(*where(shop.agent))
    assert code == 0
    lines = {tuple(line.split()[:6]): line.split()[6:] for line in out.splitlines()[1:-2]}
    leak = ("shop/stray", "->", "internet", f"{LEAK_PORT}/tcp", "internet", "denied")
    assert lines[leak][0] == str(TIMES)
    assert int(lines[leak][1]) > TIMES * SIZE
    assert lines["shop/web", "->", "shop/db", f"{DB_PORT}/tcp", "node", "allowed"][0] == str(TIMES)
    assert lines["shop/db", "<-", "shop/web", f"{DB_PORT}/tcp", "node", "allowed"][0] == str(TIMES)
    assert len(lines) == 4
    assert re.search(
        rf"^denied {TIMES} \(.*the books close: [\d,]+ bytes; why: ", out.splitlines()[-1]
    )
    asked = {
        ("--denied",): {"shop/stray"},
        ("--egress",): {"shop/stray", "shop/web"},
        ("--outside",): {"shop/stray", "shop/web"},
        ("--outside", "--limit", "1", "--denied"): {"shop/stray"},
        ("--namespace", "bank"): set[str](),
    }
    for flags, workloads in asked.items():
        _, out, _ = run(*where(shop.agent), "--once", *flags)
        assert {
            line.split()[0] for line in out.splitlines() if line.startswith("shop/")
        } == workloads


def settled(agent: Agent) -> Samples:
    """All connections are counted, and two epochs later nothing has moved."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        before = agent.samples()
        time.sleep(0.5)
        now = agent.samples()
        same = all(series_of(before, name) == series_of(now, name) for name in (FLOWS, CONNECTIONS))
        if same and sum(series_of(now, CONNECTIONS).values()) == 4 * TIMES:
            return now
        assert time.monotonic() < end, agent.said()


def test_a_connection_that_a_new_policy_denies_is_shown_as_denied(
    shop: Shop, tmp_path: Path
) -> None:
    with talk(shop.web, shop.db, DB_PORT) as connection:
        connection.exchange()
        eventually(shop.agent, lambda samples: verdicts(samples, FLOWS).keys(), {"allowed"})
        (tmp_path / "policy.yaml").write_text(SHUT.format(app="web"))
        end = time.monotonic() + PATIENCE_SECONDS
        while "denied" not in verdicts(shop.agent.samples(), FLOWS):
            connection.exchange(1)
            time.sleep(0.1)
            assert time.monotonic() < end, shop.agent.said()
    code, out, _ = run(*where(shop.agent), "--denied")
    assert code == 0
    lines = [line.split()[:6] for line in out.splitlines()[1:-2]]
    of_both = [f"{DB_PORT}/tcp", "node", "denied"]
    assert lines == [
        ["shop/db", "<-", "shop/web", *of_both],
        ["shop/web", "->", "shop/db", *of_both],
    ]
    assert re.match(r"denied 0 \([\d.]+ kB\), ", out.splitlines()[-1])


# -- on a terminal ----------------------------------------------------------------------------


class Terminal(NamedTuple):
    process: subprocess.Popen[bytes]
    master: int
    heard: bytearray

    def wait(self, wanted: Callable[[str], object]) -> str:
        """Read on until the last table is ``wanted``; returns it, without colours."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not wanted(self.table()):
            assert time.monotonic() < end, self.table()
            assert self.process.poll() is None, self.table()
            self.listen()
        return self.table()

    def listen(self) -> None:
        with contextlib.suppress(OSError):  # EIO: no reader has the other end open (pty(7))
            if select.select([self.master], [], [], 0.05)[0]:
                self.heard.extend(os.read(self.master, 65536))

    def table(self) -> str:
        whole, ended, _ = self.heard.decode(errors="ignore").rpartition("\x1b[J")
        last = whole.rpartition("\x1b[J")[2] if ended else ""
        return re.sub(r"\x1b\[[\d;]*\w", "", last).replace("\r", "")


@contextmanager
def terminal(*arguments: str, **variables: str) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    ours = {
        name: value
        for name, value in environment().items()
        if name not in ("COLUMNS", "LINES", "NO_COLOR")
    }
    process = subprocess.Popen(  # setsid: Ctrl-C goes to whom the terminal controls
        ["setsid", "--ctty", *command(*arguments)], stdin=slave, stdout=slave, stderr=slave,
        env=ours | {"TERM": "xterm"} | variables,
    )  # fmt: skip
    os.close(slave)
    try:
        yield Terminal(process, master, bytearray())
    finally:
        process.kill()
        process.wait()
        os.close(master)


def rate(table: str, workload: str) -> str:
    """The last column of a workload's first line."""
    line = next((line for line in table.splitlines() if line.startswith(workload)), "")
    return " ".join(line.split()[-2:])


def test_live_it_shows_rates_outlives_the_agent_and_ends_by_ctrl_c(shop: Shop) -> None:
    shop.trade()
    shop.leak()
    eventually(shop.agent, lambda samples: len(series_of(samples, CONNECTIONS)), 4)
    with terminal(*where(shop.agent), "--interval", "0.3") as screen:
        table = screen.wait(lambda text: re.search(r"^shop/stray .*! denied", text, re.MULTILINE))
        assert max(map(len, table.splitlines())) <= COLUMNS
        assert "4 of 4 conversations" in table
        end = time.monotonic() + PATIENCE_SECONDS
        while not re.fullmatch(r"[\d.]+ kB/s", rate(screen.table(), "shop/stray")):
            assert time.monotonic() < end, screen.table()
            shop.leak()
            screen.listen()
        assert screen.wait(lambda text: rate(text, "shop/stray") == "0 B/s")
        shop.agent.kill()
        assert "shop/stray" in screen.wait(lambda text: "no podtally answers on 127.0.0.1:" in text)
        shop.agent.start()
        shop.agent.wait_ready()
        assert "-" not in rate(screen.wait(lambda text: "the books close" in text), "shop/stray")
        assert b"\x1b[31;1m! denied" in screen.heard
        os.write(screen.master, b"\x03")
        assert screen.process.wait(PATIENCE_SECONDS) == 130
        screen.listen()
        assert screen.heard.endswith(b"\r\x1b[K")
        assert b"Traceback" not in screen.heard


def test_no_colours_if_unwanted(shop: Shop) -> None:
    shop.leak()
    eventually(shop.agent, lambda samples: len(series_of(samples, CONNECTIONS)), 1)
    with terminal(*where(shop.agent), "--interval", "0.1", NO_COLOR="1") as screen:
        screen.wait(lambda text: "! denied" in text)
        assert re.search(rb"\x1b\[[\d;]*m", screen.heard) is None
        screen.process.send_signal(signal.SIGINT)
        assert screen.process.wait(PATIENCE_SECONDS) == 130


def test_ctrl_c_ends_it_where_sigint_is_inherited_as_ignored(shop: Shop) -> None:
    inherited = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with terminal(*where(shop.agent), "--interval", "0.1") as screen:
            screen.wait(lambda text: "conversations" in text)
            os.write(screen.master, b"\x03")
            assert screen.process.wait(PATIENCE_SECONDS) == 130
    finally:
        signal.signal(signal.SIGINT, inherited)


def test_a_terminal_that_is_none_worth_the_name_gets_the_totals_once(shop: Shop) -> None:
    shop.leak()
    eventually(shop.agent, lambda samples: len(series_of(samples, CONNECTIONS)), 1)
    with terminal(*where(shop.agent), TERM="dumb", NO_COLOR="1") as screen:
        assert screen.process.wait(PATIENCE_SECONDS) == 0
        screen.listen()
        assert b"shop/stray" in screen.heard
        assert b"\x1b" not in screen.heard


# -- who lets one in ----------------------------------------------------------------------------


def test_an_agent_with_tls_and_a_password(tmp_path: Path) -> None:
    web, config = tmp_path / "web.yml", tmp_path / "podtally.yaml"
    web.write_text(tls(Authority(tmp_path).issue("server", NAMES)) + users())
    with served(web) as port:
        config.write_text(
            yaml.safe_dump({"listen": f"127.0.0.1:{port}", "web_config_file": str(web)})
        )
        code, out, err = run("--config", str(config), PODTALLY_BASIC_AUTH=f"{USER}:{PASSWORD}")
        assert (code, err) == (0, "")
        assert out.startswith("no traffic seen yet\n")
        code, out, err = run("--config", str(config))
        assert (code, out) == (2, "")
        assert "PODTALLY_BASIC_AUTH" in err
        code, _, err = run(
            "--listen", f"127.0.0.1:{port}", PODTALLY_BASIC_AUTH=f"{USER}:{PASSWORD}"
        )
        assert code == 2
        assert "requires TLS" in err


def test_a_closed_pipe_is_no_error(shop: Shop) -> None:
    shop.leak()
    eventually(shop.agent, lambda samples: len(series_of(samples, CONNECTIONS)), 1)
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as nobody:
        done = subprocess.run(
            command(*where(shop.agent)), stdout=nobody, stderr=subprocess.PIPE, timeout=120,
            check=False, env=environment(),
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
