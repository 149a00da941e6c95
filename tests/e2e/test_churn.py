# SPDX-License-Identifier: Apache-2.0
"""Pods come and go: each one's bytes are booked under its own name, and nothing stays behind."""

import pytest

from tests.e2e.agents import Agent, Scraper, gaps
from tests.e2e.churn import Churn, churn, footprint
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Node, counters
from tests.e2e.policy_world import eventually

PODS, SECONDS = 24, 6.0
GROWTH_KB = 4096  # the first pods warm up caches and the allocator


@pytest.mark.parametrize("attach", ["tcx", "clsact"])
def test_every_pod_is_booked_under_its_own_name(
    node: Node, make_agent: MakeAgent, attach: str
) -> None:
    agent = make_agent("--attach", attach)
    with churn(node, agent.places.pin_dir, attach, patient=True) as coming:
        book_pods(node, agent, coming)
    left = {path.name for path in (agent.places.pin_dir / "links").iterdir()}
    assert len(left) == (2 if attach == "tcx" else 0)  # the sink's


def book_pods(node: Node, agent: Agent, coming: Churn) -> None:
    opening = node.quiet()
    agent.start()
    agent.wait_ready()
    assert agent.process is not None
    pid = agent.process.pid
    with Scraper(agent.places.url).running() as scraper:
        coming.run(PODS // 3, SECONDS / 3)
        before = footprint(pid)
        coming.run(PODS - PODS // 3, SECONDS * 2 / 3)
        samples = eventually(agent, coming.misfits, {})
    assert len(coming.moved) == PODS
    assert not any(gaps(samples).values())
    assert scraper.faults == []
    after = footprint(pid)
    assert after.fds <= before.fds
    assert after.anonymous_kb < before.anonymous_kb + GROWTH_KB
    assert set(counters()) == set(opening)
    assert agent.said().count("ERROR") == 0
