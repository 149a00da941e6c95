# SPDX-License-Identifier: Apache-2.0
"""The history of a real agent: its sums are those of /metrics, through kills and a full disk."""

import json
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.agents import Agent, Samples, environment
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Node
from tests.e2e.test_kill import killed_and_restarted
from tests.e2e.traffic import mixed

Sums = Counter[tuple[str, ...]]
BOOK_LABELS = ("interface", "direction")
FLOW_LABELS = ("namespace", "workload", "verdict", "direction")


def flows(agent: Agent, *flags: str, code: int = 0) -> Any:
    return podtally("flows", agent, *flags, code=code)


def podtally(command: str, agent: Agent, *flags: str, code: int = 0) -> Any:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "podtally", command, "-o", "json"),
            *("--listen", f"127.0.0.1:{agent.places.port}", *flags),
        ],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if done.stdout else done.stderr


def of_history(agent: Agent, by: tuple[str, ...], *flags: str) -> Sums:
    sums: Sums = Counter()
    rows = flows(agent, "--since", "1d", "--by", ",".join(by), *flags)["rows"]
    for row in rows:
        for direction in ("egress", "ingress"):
            key = (*(row[name] for name in by), direction)
            sums[key] += row["bytes"][direction]
    return +sums


def of_metrics(samples: Samples, name: str, by: tuple[str, ...]) -> Sums:
    sums: Sums = Counter()
    for (series, labels), value in samples.items():
        if series == name:
            given = dict(labels)
            sums[tuple(given[label] for label in by)] += int(value)
    return +sums


def assert_sums_agree(agent: Agent) -> None:
    """Call when no packets flow but for those of ARP: then it compares once more."""
    while True:
        while (samples := agent.samples())["podtally_waiting_connections", ()]:
            time.sleep(0.1)  # until name_wait is over; the test's timeout bounds it
        books = of_metrics(samples, "podtally_books_bytes_total", BOOK_LABELS)
        found = of_history(agent, ("interface",), "--all-accounts")
        if of_metrics(agent.samples(), "podtally_books_bytes_total", BOOK_LABELS) == books:
            break
    assert found == books
    by_workload = of_metrics(samples, "podtally_flow_bytes_total", FLOW_LABELS)
    assert of_history(agent, ("namespace", "workload", "verdict")) == by_workload


def conversations(agent: Agent, *flags: str) -> list[tuple[tuple[str, Any], ...]]:
    """Rows of ``podtally top``, in an order of their own; failures are known a little later."""
    rows = podtally("top", agent, *flags)["conversations"]
    return sorted(
        tuple((name, each) for name, each in row.items() if name != "failed_connections")
        for row in rows
    )


def test_sums_are_those_of_the_metrics_through_kills(three_pods: Node, agent: Agent) -> None:
    chance = random.Random(23)
    agent.start()
    agent.wait_ready()
    with mixed(three_pods):
        for _ in range(5):
            killed_and_restarted(agent, chance)
        agent.wait_ready()
    three_pods.quiet()
    assert_sums_agree(agent)
    a, b = conversations(agent, "--since", "1h"), conversations(agent)
    assert [x for x in a if x not in b] == [x for x in b if x not in a]
    with mixed(three_pods):
        time.sleep(0.5)
        agent.kill()
    three_pods.quiet()
    three_pods.remove("c")
    agent.start()
    agent.wait_ready()
    assert_sums_agree(agent)
    assert agent.stop() == 0
    assert "Traceback" not in agent.said()
    assert "no podtally answers" in flows(agent, code=2)


@pytest.mark.slow
def test_a_finished_minute_is_in_the_file(three_pods: Node, agent: Agent) -> None:
    path = agent.places.state_dir / "history.db"
    agent.start()
    agent.wait_ready()
    with mixed(three_pods):
        time.sleep(1)
        agent.kill()
        agent.start()
        agent.wait_ready()
    three_pods.quiet()
    deadline = time.monotonic() + 200
    while not written(path):
        assert time.monotonic() < deadline, agent.said()
        time.sleep(0.2)
    agent.kill()  # a store that has a batch that the ledger still offers
    agent.start()
    agent.wait_ready()
    assert_sums_agree(agent)


def written(path: Path) -> Sums:
    """Bytes by interface in the file, read as any reader may."""
    if not path.exists():
        return Counter()
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        rows = db.execute(
            "SELECT interface, sum(bytes_egress + bytes_ingress) FROM minutes GROUP BY 1"
        )
        return Counter({(name,): amount for name, amount in rows})
    finally:
        db.close()


def test_a_damaged_file_loses_history_only(three_pods: Node, make_agent: MakeAgent) -> None:
    agent = make_agent()
    path = agent.places.state_dir / "history.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"this is no database " * 1000)
    agent.start()
    agent.wait_ready()
    agent.wait_said("a new one is started")
    with mixed(three_pods):
        time.sleep(0.5)
    three_pods.quiet()
    assert_sums_agree(agent)
    assert path.with_name("history.db.unusable").exists()


def test_without_a_history_flows_says_so(three_pods: Node, make_agent: MakeAgent) -> None:
    agent = make_agent("--history", "off")
    agent.start()
    agent.wait_ready()
    assert "keeps no history" in flows(agent, code=2)
    del three_pods
