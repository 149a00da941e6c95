# SPDX-License-Identifier: Apache-2.0
"""Events of policy come from the books: none is lost to a kill, a full disk, or a flood of them."""

import random
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from podtally.export.event_log import EventRecord
from tests.e2e.agents import Agent, Samples, Scraper, assert_books_close, value
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Node, Pod, counters, pod_socket
from tests.e2e.policy_world import (
    OUTSIDE,
    Static,
    by,
    configuration,
    converse,
    events,
    eventually,
    outside,
    wait_for,
)
from tests.e2e.test_bad_input import fill

DENY_OUT = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: shut, namespace: shop}
spec: {podSelector: {}, policyTypes: [Egress]}
"""
PORTS = (81, 82, 83, 84, 85)
KILLS, CONNECTIONS_A_LIFE = 7, 23
RATE, GROUPS = 10, 60  # no more than an endpoint has events of its own


class Stage(NamedTuple):
    """A pod that may send nowhere, and a world that answers it all the same."""

    stray: Pod
    world: Pod
    flags: tuple[str, ...]
    make_agent: MakeAgent

    def running(self, *flags: str) -> Agent:
        agent = self.make_agent(*self.flags, *flags)
        agent.start()
        agent.wait_ready()
        return agent

    def deny(self, address: str, port: int) -> None:
        converse(self.stray, self.world, port, (address, port))


@pytest.fixture
def stage(node: Node, make_agent: MakeAgent, tmp_path: Path) -> Stage:
    stray, policy = node.routed_pod("stray", 5), tmp_path / "policy.yaml"
    policy.write_text(DENY_OUT)
    known = configuration(tmp_path / "podtally.yaml", {stray.netns: Static("shop", "stray", {})})
    flags = (*known, "--policies", str(policy), "--events-verdicts", "denied")
    return Stage(stray, outside(node), flags, make_agent)


def latest(path: Path) -> dict[tuple[str, int | None], int]:
    """Return how many connections the last line of each denial has."""
    lines = (line for line in events(path) if line.event == "denied")
    return {(line.peer.address, line.port): line.connections for line in lines}


def denied(samples: Samples) -> int:
    return int(value(samples, "podtally_policy_denied_total"))


def test_killed_between_denials_every_event_is_reported_with_its_sum(
    stage: Stage, tmp_path: Path
) -> None:
    chance, truth = random.Random(23), Counter[tuple[str, int | None]]()
    log, opening = tmp_path / "events", counters()
    agent = stage.running("--events", str(log), "--events-interval", "0.3")

    def deny() -> None:
        place = chance.choice(OUTSIDE), chance.choice(PORTS)
        stage.deny(*place)
        truth[place] += 1

    with Scraper(agent.places.url, 0.1).running() as scraper:
        for kill in range(KILLS):
            for _ in range(CONNECTIONS_A_LIFE):
                deny()
                time.sleep(chance.uniform(0, 0.02))
            agent.kill()
            deny()  # which only the kernel sees
            agent.start()
            if kill % 2:  # else killed amid its start, or just after
                agent.wait_ready()
        agent.wait_ready()
        samples = eventually(agent, denied, truth.total())
        wait_for(lambda: [latest(log)], lambda found: found == truth)
        assert_books_close(agent, opening)
    assert scraper.faults == []
    assert by("policy", samples, "podtally_policy_denied_total") == {"shop/shut": truth.total()}
    assert len(truth) == len(OUTSIDE) * len(PORTS)
    for place in truth:
        result = [
            e for e in events(log)
            if (e.event, e.peer.address, e.port) == ("denied", *place)
        ]  # fmt: skip
        counts = [e.connections for e in result]
        assert counts == sorted(counts), place  # said again after a kill, but never less
        assert sum(e.new_connections for e in result) >= truth[place]
        sums = [e.bytes.egress + e.bytes.ingress for e in result]
        assert sums == sorted(sums), place
    assert "Traceback" not in agent.said()


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def errors(samples: Samples) -> bool:
    return value(samples, "podtally_event_log_errors_total") > 2


@pytest.mark.parametrize("trouble", ["full disk", "no folder"])
@pytest.mark.parametrize("killed", [False, True])
def test_what_cannot_be_written_is_reported_later(
    stage: Stage, tmp_path: Path, trouble: str, killed: bool
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        folder, aside = disk / "logs", disk / "aside"
        folder.mkdir()
        log = folder / "events"
        agent = stage.running("--events", str(log), "--events-interval", "0.3")
        with Scraper(agent.places.url).running() as scraper:
            stage.deny(OUTSIDE[0], 81)
            wait_for(lambda: events(log), lambda e: e.port == 81)
            if trouble == "full disk":
                stuffing = fill(disk)
            else:
                folder.rename(aside)
            # More than what the last page of the file has room for.
            for port in range(100, 119):
                stage.deny(OUTSIDE[1], port)
            eventually(agent, errors, True)
            assert agent.get("/readyz")[0] == 200
            samples = eventually(agent, denied, 20)
            assert agent.said().count("cannot write events") == 1
            time.sleep(1.1)  # it keeps counting meanwhile
            stage.deny(OUTSIDE[0], 81)
            eventually(agent, denied, 21)
            if killed:
                agent.kill()
            if trouble == "full disk":
                stuffing.unlink()
            else:
                aside.rename(folder)
            if killed:
                agent.start()
                agent.wait_ready()
            truth = {(OUTSIDE[1], port): 1 for port in range(100, 119)} | {(OUTSIDE[0], 81): 2}
            wait_for(lambda: [latest(log)], lambda found: found == truth)
            samples = eventually(agent, lambda s: value(s, "podtally_events_pending"), 0)
        assert scraper.faults == []
        assert denied(samples) == 21
        assert "Traceback" not in agent.said()


def test_a_flow_log_that_cannot_be_written_is_logged_when_it_starts_and_when_it_ends(
    stage: Stage, tmp_path: Path
) -> None:
    folder, aside = tmp_path / "logs", tmp_path / "aside"
    folder.mkdir()
    agent = stage.running("--flow-log", str(folder / "flows"), "--epoch", "0.2")
    folder.rename(aside)

    def failures(samples: Samples) -> bool:
        stage.deny(OUTSIDE[0], 81)
        return value(samples, "podtally_flow_log_errors_total") >= 5

    eventually(agent, failures, True, 60.0)
    assert agent.said().count("cannot write the flow log") == 1
    aside.rename(folder)

    def written_again(samples: Samples) -> bool:
        stage.deny(OUTSIDE[0], 81)
        return "the flow log is written again" in agent.said()

    eventually(agent, written_again, True, 60.0)
    assert agent.said().count("cannot write the flow log") == 1


def test_a_flood_is_reported_whole_and_no_faster_than_it_may_be(
    stage: Stage, tmp_path: Path
) -> None:
    log, opening = tmp_path / "events", counters()
    agent = stage.running("--events", str(log), "--events-rate", str(RATE))
    ports = range(20_001, 20_001 + GROUPS // len(OUTSIDE))
    truth = {(address, port): 1 for address in OUTSIDE for port in ports}
    began = time.monotonic()
    with Scraper(agent.places.url).running() as scraper:
        flood(stage.stray, list(truth))
        samples = eventually(agent, denied, GROUPS)
        assert value(samples, "podtally_events_pending") > 0
        wait_for(lambda: [latest(log)], lambda found: len(found) == GROUPS, 25.0)
        took = time.monotonic() - began
        eventually(agent, lambda s: value(s, "podtally_events_pending"), 0)
        eventually(agent, lambda s: value(s, "podtally_events_logged_total"), GROUPS)
        assert_books_close(agent, opening)
    assert scraper.faults == []
    assert latest(log) == truth
    lines = events(log)
    assert len(lines) == GROUPS
    most = busiest_second(lines)
    print(f"{GROUPS} events in {took:.1f} s, at most {most} lines within a second")
    assert took > (GROUPS - RATE) / RATE - 1
    assert most <= 2 * RATE  # who was silent may say a second's worth at once (``EventLog``)


def flood(pod: Pod, places: list[tuple[str, int]]) -> None:
    """A datagram to each; they come in the order of the list."""
    with pod_socket(pod, socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number, place in enumerate(places):
            sender.sendto(b"x", place)
            if number % 100 == 0:
                time.sleep(0.005)


def busiest_second(lines: list[EventRecord]) -> int:
    """The most lines that any second has, wherever it begins."""
    times = [datetime.fromisoformat(line.time).timestamp() for line in lines]
    first, most = 0, 0
    for last, at in enumerate(times):
        while at - times[first] >= 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most
