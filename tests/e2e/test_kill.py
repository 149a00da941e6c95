# SPDX-License-Identifier: Apache-2.0
"""kill -9 at any instant: the books still close, and no counter decreases."""

import random
import signal
import time

import pytest

from tests.e2e.agents import Agent, Scraper, assert_books_close, booked
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Node
from tests.e2e.traffic import mixed

KILLS = 9
DEAD_SECONDS = 3.0


def killed_and_restarted(agent: Agent, chance: random.Random) -> None:
    """Kill at a random instant, sometimes before it is ready; start again."""
    time.sleep(chance.uniform(0, 1))
    agent.kill()
    agent.start()


@pytest.mark.parametrize("attach", ["tcx", "clsact"])
def test_kill_9_at_random_instants_under_load(
    three_pods: Node, make_agent: MakeAgent, attach: str
) -> None:
    chance = random.Random(23)
    agent = make_agent("--attach", attach)
    opening = three_pods.quiet()
    agent.start()
    agent.wait_ready()
    with Scraper(agent.places.url).running() as scraper, mixed(three_pods):
        for kill in range(KILLS):
            killed_and_restarted(agent, chance)
            if kill % 3 == 0:
                agent.wait_ready()
    three_pods.quiet()
    agent.wait_ready()
    assert_books_close(agent, opening)
    assert scraper.faults == []
    assert scraper.scrapes > 0
    assert "Traceback" not in agent.said()


def test_left_dead_for_a_while_under_load(three_pods: Node, agent: Agent) -> None:
    opening = three_pods.quiet()
    agent.start()
    agent.wait_ready()
    with Scraper(agent.places.url).running() as scraper, mixed(three_pods):
        time.sleep(0.5)
        agent.kill()
        time.sleep(DEAD_SECONDS)
        agent.start()
        agent.wait_ready()
    three_pods.quiet()
    assert_books_close(agent, opening)
    assert scraper.faults == []


def test_a_clean_stop_loses_nothing_either(three_pods: Node, agent: Agent) -> None:
    opening = three_pods.quiet()
    agent.start()
    agent.wait_ready()
    with Scraper(agent.places.url).running() as scraper, mixed(three_pods):
        for number in (signal.SIGTERM, signal.SIGINT):
            time.sleep(0.3)
            assert agent.stop(number) == 0
            agent.start()
            agent.wait_ready()
    three_pods.quiet()
    assert_books_close(agent, opening)
    assert scraper.faults == []


def test_an_interface_that_goes_while_the_agent_is_dead_is_booked(
    three_pods: Node, agent: Agent
) -> None:
    opening = three_pods.quiet()
    agent.start()
    agent.wait_ready()
    with Scraper(agent.places.url).running() as scraper:
        with mixed(three_pods):
            time.sleep(0.5)
            agent.kill()
            time.sleep(0.5)
        closing = three_pods.quiet()
        three_pods.remove("c")
        agent.start()
        agent.wait_ready()
        samples = assert_books_close(agent, opening)
        time.sleep(0.5)
    assert scraper.faults == []
    gone = {key for key in closing if key[0] == "ptl-c"}
    books = booked(samples)
    assert {key: books[key] for key in gone} == {key: closing[key] - opening[key] for key in gone}
