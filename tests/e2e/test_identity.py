# SPDX-License-Identifier: Apache-2.0
"""Pods that take each other's addresses at once: every byte under the pod that moved it, on both ends."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.address_reuse import Plan, Soak, sinks
from tests.e2e.agents import Agent, Scraper, assert_books_close, booked, gaps
from tests.e2e.conftest import MakeAgent
from tests.e2e.kube_node import KubeNode, cgroup2_mount, kube_node
from tests.e2e.naming import (
    SECOND_NS,
    NameWatch,
    Outages,
    excused,
    flags,
    settled,
    verdict_on,
)
from tests.e2e.pod_truth import DIRECTIONS, PodKey, booked_pods

PODS, SECONDS = 60, 8.0
LAG_SECONDS = 3.0  # of the API's answers
NAME_WAIT_SECONDS = 8.0
PATIENT_SECONDS = 16.0  # the wait for names in an outage
LATE_SECONDS = 5  # what the API reports later than that leaves addresses in doubt
EPOCH_SECONDS = 0.2
NEW_TRUTH_SECONDS = 60.0


@pytest.fixture
def cluster(bpffs: Path) -> Iterator[KubeNode]:
    try:
        cgroup2_mount()
    except AssertionError as error:
        pytest.skip(str(error))
    with kube_node() as made:
        yield made


@pytest.fixture
def agent(cluster: KubeNode, make_agent: MakeAgent, tmp_path: Path) -> Agent:
    return make_agent(*flags(cluster, tmp_path, EPOCH_SECONDS, NAME_WAIT_SECONDS))


def test_every_byte_is_under_the_pod_that_moved_it(cluster: KubeNode, agent: Agent) -> None:
    with sinks(cluster) as those:
        opening = cluster.node.quiet()
        agent.start()
        agent.wait_ready()
        cluster.api.lag_seconds = LAG_SECONDS
        soak = Soak(cluster, Plan(PODS, SECONDS), those)
        with Scraper(agent.places.url, 0.5).running() as scraper:
            soak.run()
            wait = NAME_WAIT_SECONDS + LAG_SECONDS
            verdict = settled(agent, soak, wait, verdict_on(soak))
        assert verdict.is_exact, str(verdict)
        assert verdict.unknown_bytes == verdict.unknown_own_bytes > 0
        samples = assert_books_close(agent, opening)
        assert not any(gaps(samples).values())
        books, under_names = booked(samples), booked_pods(samples)
        for gone in soak.lived:
            own = (gone.report.sent, gone.report.received)
            assert tuple(books[gone.pod.link, each] for each in DIRECTIONS) == own
        for sink in those:
            for each in DIRECTIONS:
                assert under_names[PodKey(sink.name, each)] == books[sink.link, each]
        assert scraper.faults == []
        assert "Traceback" not in agent.said()


def test_killed_amid_it_names_nothing_wrong(cluster: KubeNode, agent: Agent) -> None:
    with sinks(cluster) as those:
        cluster.node.quiet()
        agent.start()
        agent.wait_ready()
        cluster.api.lag_seconds = LAG_SECONDS
        outages = Outages(agent)
        soak = Soak(cluster, Plan(PODS, SECONDS), those)
        soak.at(SECONDS * 0.3, outages.kill)  # pods must come when it is there again, too
        with Scraper(agent.places.url, 0.5).running() as scraper:
            soak.run()
            outages.wait_over()
            but = excused(soak.lived, outages.spans, cluster.api.lag_seconds)
            assert 0 < len(but) < PODS
            wait = NAME_WAIT_SECONDS + LAG_SECONDS
            verdict = settled(agent, soak, wait, verdict_on(soak, but))
        assert verdict.is_exact, str(verdict)
        assert scraper.faults == []
        assert "Traceback" not in agent.said()


def test_api_away_and_back(cluster: KubeNode, make_agent: MakeAgent, tmp_path: Path) -> None:
    """What came meanwhile waits for its name, and has it soon after the API is back."""
    agent = make_agent(*flags(cluster, tmp_path, EPOCH_SECONDS, PATIENT_SECONDS))
    api, back_ns = cluster.api, list[int]()

    def back() -> None:
        api.back()
        back_ns.append(time.monotonic_ns())

    with sinks(cluster) as those:
        opening = cluster.node.quiet()
        agent.start()
        agent.wait_ready()
        assert agent.process is not None
        pid = agent.process.pid
        soak = Soak(cluster, Plan(PODS, SECONDS), those)
        soak.at(2.0, api.away)
        soak.at(3.0, lambda: soak.come("late", 7.0))
        soak.at(4.5, back)
        names, scraper = NameWatch(agent, 0.05), Scraper(agent.places.url, 0.5)
        with names.running(), scraper.running():
            soak.run()
            # On a busy machine it is longer; then there may be no names, and still no wrong ones.
            is_short = seconds_away(agent) <= LATE_SECONDS
            but = set() if is_short else {each.pod.name for each in soak.lived}
            verdict = settled(agent, soak, PATIENT_SECONDS, verdict_on(soak, but))
        assert verdict.is_exact, str(verdict)
        assert agent.process.pid == pid
        if is_short:
            assert 0 < names.first_ns["late"] - back_ns[0] < NEW_TRUTH_SECONDS * SECOND_NS
        assert_books_close(agent, opening)
        assert scraper.faults == []
        assert "Traceback" not in agent.said()


def seconds_away(agent: Agent) -> int:
    """How long the agent was without the API, by its own log, rounded up."""
    agent.wait_said("is back after")
    found = re.search(r"is back after (\d+) s", agent.said())
    assert found is not None
    return int(found[1]) + 1
