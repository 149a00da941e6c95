# SPDX-License-Identifier: Apache-2.0
"""Another flow layout takes over from the one in use, and back, under load."""

import random
import time
from pathlib import Path

import pytest

from tests.e2e.agents import SOURCES, Agent, Scraper, assert_books_close, value
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Node
from tests.e2e.traffic import mixed
from tests.e2e.upgrade import other_release

KILLS = 6


@pytest.mark.parametrize("attach", ["tcx", "clsact"])
def test_an_upgrade_and_the_way_back(
    three_pods: Node, make_agent: MakeAgent, tmp_path: Path, attach: str
) -> None:
    agent = make_agent("--attach", attach)
    opening = three_pods.quiet()
    agent.start()
    agent.wait_ready()
    with Scraper(agent.places.url).running() as scraper, mixed(three_pods):
        for runs, sources in enumerate((other_release(tmp_path), SOURCES), start=2):
            time.sleep(0.5)
            agent.kill()
            agent.sources = sources
            agent.start()
            agent.wait_ready()
            assert value(agent.samples(), "podtally_loader_runs_total") == runs
    three_pods.quiet()
    assert_books_close(agent, opening)
    assert scraper.faults == []


def test_killed_while_the_generations_change_places(
    three_pods: Node, agent: Agent, tmp_path: Path
) -> None:
    chance = random.Random(23)
    releases = (other_release(tmp_path), SOURCES)
    opening = three_pods.quiet()
    agent.start()
    agent.wait_ready()
    with Scraper(agent.places.url).running() as scraper, mixed(three_pods):
        for kill in range(KILLS):
            agent.kill()
            agent.forget_said()
            agent.sources = releases[kill % 2]
            agent.start()
            if kill % 4 < 3:  # in the changing over itself, which takes far less than loading
                # an upgrade that was stopped early enough leaves nothing to go back from
                agent.wait_said("loaded the kernel programs", "taking over", "watching")
                time.sleep(chance.uniform(0, 0.3))
            else:
                time.sleep(chance.uniform(0, 2))
        agent.wait_ready()
    three_pods.quiet()
    assert_books_close(agent, opening)
    assert scraper.faults == []
    assert "Traceback" not in agent.said()


def test_more_slots_are_an_upgrade_too(three_pods: Node, agent: Agent) -> None:
    opening = three_pods.quiet()
    agent.start()
    agent.wait_ready()
    with Scraper(agent.places.url).running() as scraper, mixed(three_pods):
        time.sleep(0.5)
        agent.stop()
        agent.start("--max-flows", "1024")
        agent.wait_ready()
        assert value(agent.samples(), "podtally_table_slots") == 2048
    three_pods.quiet()
    assert_books_close(agent, opening)
    assert scraper.faults == []
