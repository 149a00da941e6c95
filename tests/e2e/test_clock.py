# SPDX-License-Identifier: Apache-2.0
"""The wall clock jumps: no count, verdict or duration depends on it, and the agent keeps working."""

import shutil
import subprocess
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.agents import Agent, Scraper, assert_books_close, value
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Node, counters, ip
from tests.e2e.policy_world import (
    DENIED,
    OUTSIDE,
    Static,
    configuration,
    converse,
    events,
    eventually,
    outside,
    records,
    wait_for,
)

SHIFT = Path(__file__).with_name("wall_clock.c")
DAYS = 2 * 86_400
SHUT = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: shut, namespace: shop}
spec: {podSelector: {}, policyTypes: [Egress]}
"""


class WallClock:
    """The wall clock of the agents that have its ``variables``."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("needs a C compiler (Debian package gcc)")
        self._offset, library = folder / "offset", folder / "wall_clock.so"
        flags = ("-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library))
        subprocess.run([compiler, *flags, str(SHIFT)], check=True)
        self._offset.write_bytes(bytes(8))
        self.variables = {"LD_PRELOAD": str(library), "WALL_CLOCK_OFFSET": str(self._offset)}

    def jump(self, seconds: int) -> None:
        """Set it to this many seconds from the true time, in one write."""
        with self._offset.open("r+b", buffering=0) as file:
            file.write((seconds * 1_000_000_000).to_bytes(8, "little", signed=True))


def shown_time(path: Path, port: int) -> float:
    """The time of a denial's line in the event log, in seconds from the true time."""
    line = wait_for(partial(events, path), lambda e: (e.event, e.port) == ("denied", port))
    return (datetime.fromisoformat(line.time) - datetime.now(UTC)).total_seconds()


def test_the_wall_clock_jumps_back_and_forth(
    node: Node, make_agent: MakeAgent, tmp_path: Path
) -> None:
    stray, clock = node.routed_pod("stray", 5), WallClock(tmp_path)
    world = outside(node)
    policy, log, flows = (tmp_path / name for name in ("policy.yaml", "events", "flows"))
    policy.write_text(SHUT)
    known = configuration(tmp_path / "podtally.yaml", {stray.netns: Static("shop", "stray", {})})
    logs = ("--events", str(log), "--flow-log", str(flows))
    agent: Agent = make_agent(*known, "--policies", str(policy), *logs)
    agent.variables.update(clock.variables)
    opening = counters()
    agent.start()
    agent.wait_ready()
    jumps = (-DAYS, DAYS, 0, -DAYS)
    with Scraper(agent.places.url).running() as scraper:
        for number, jump in enumerate(jumps):
            clock.jump(jump)
            ip("netns", "exec", stray.netns, "ping", "-q", "-c", "23", "-i", "0.02", "10.99.5.1")
            converse(stray, world, 8000 + number, (OUTSIDE[0], 8000 + number))
            assert abs(shown_time(log, 8000 + number) - jump) < 3600
        # Killed before a jump, and started after it: what passed meanwhile is booked once.
        agent.kill()
        clock.jump(DAYS)
        converse(stray, world, 8004, (OUTSIDE[0], 8004))
        agent.start()
        agent.wait_ready()
        eventually(agent, lambda samples: value(samples, DENIED), len(jumps) + 1)
        node.quiet()
        samples = assert_books_close(agent, opening)
    assert scraper.faults == []
    assert value(samples, "podtally_connections_total", workload="stray", port="8004") == 1
    assert agent.get("/livez")[0] == 200
    ports = {8000 + number for number in range(len(jumps) + 1)}
    ended = wait_for(lambda: [records(flows)], lambda found: {r.peer.port for r in found} >= ports)
    assert all(0 <= line.duration_seconds < 600 for line in ended)
    assert agent.stop() == 0
    assert "Traceback" not in agent.said()
