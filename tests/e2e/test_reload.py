# SPDX-License-Identifier: Apache-2.0
"""SIGHUP under load, and notifications of the service manager: no count is lost, whatever the file says."""

import itertools
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from podtally.kernel.capabilities import BIT_OF, RUNNING
from tests.e2e.agents import Agent, Scraper, assert_books_close, value
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Node
from tests.e2e.traffic import mixed

PRICED = "prices: {egress: {node: 0.5}, ingress: {node: 0.25}}\nkubecost_alias: true\n"
WATCHDOG_SECONDS = 3.0
COST = "podtally_egress_cost_dollars_total"


class Manager:
    """The service manager's end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.heard: list[tuple[float, str]] = []

    def listen(self, seconds: float, until: str = "\0") -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                said = self._socket.recv(4096).decode()
            except TimeoutError:
                return
            self.heard.append((time.monotonic(), said))
            if until in said:
                return

    def times(self, word: str) -> list[float]:
        return [at for at, said in self.heard if word in said]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "podtally.yaml"
    path.write_text("flow_labels: workload\n")
    return path


@pytest.fixture
def managed(make_agent: MakeAgent, manager: Manager, file: Path) -> Agent:
    agent = make_agent("--config", str(file))
    agent.variables |= {
        "NOTIFY_SOCKET": str(manager.path),
        "WATCHDOG_USEC": str(int(WATCHDOG_SECONDS * 1e6)),
    }
    return agent


def hang_up(agent: Agent, *words: str) -> None:
    assert agent.process is not None
    agent.forget_said()
    agent.process.send_signal(signal.SIGHUP)
    agent.wait_said(*words)


def test_a_new_configuration_loses_no_count(
    three_pods: Node, make_agent: MakeAgent, file: Path
) -> None:
    agent = make_agent("--config", str(file))
    opening = three_pods.quiet()
    agent.start()
    agent.wait_ready()
    assert agent.process is not None
    pid = agent.process.pid
    with Scraper(agent.places.url).running() as scraper, mixed(three_pods):
        time.sleep(1.0)
        hang_up(agent, "has not changed")
        for text in (PRICED, "flow_labels: pod\n" + PRICED, "interfaces: ptl-a\n" + PRICED):
            file.write_text(text)
            hang_up(agent, "watching")
            agent.wait_ready()
            time.sleep(1.0)
    three_pods.quiet()
    samples = assert_books_close(agent, opening)
    assert scraper.faults == []
    assert agent.process.pid == pid
    moved = value(samples, "podtally_flow_bytes_total", direction="egress", scope="node")
    assert 0 < value(samples, COST, scope="node") <= moved * 0.5e-9
    assert value(samples, "podtally_ingress_cost_dollars_total") > 0
    assert value(samples, "kubecost_pod_network_egress_bytes_total", internet="false") > 0
    assert "ERROR" not in agent.said()
    assert "WARNING" not in agent.said()
    assert "Traceback" not in agent.said()


BAD = {
    "epoch: soon\n": "epoch: 'soon' is not a duration",
    "epochs: 1\n": "epochs",
    "max_flows: 1000\nattach: clsact\n": "max_flows, attach cannot change while the agent runs",
    "events: /dev/null/events.jsonl\n": "/dev/null/events.jsonl",
    "events_rate: 3\nkubeconfig: /dev/null/kubeconfig\n": "/dev/null/kubeconfig",
}


def test_a_bad_configuration_changes_nothing(
    three_pods: Node, make_agent: MakeAgent, file: Path
) -> None:
    agent = make_agent("--config", str(file))
    opening = three_pods.quiet()
    agent.start()
    agent.wait_ready()
    with Scraper(agent.places.url).running() as scraper, mixed(three_pods):
        for text, words in BAD.items():
            file.write_text(text)
            hang_up(agent, "stays in force")
            assert words in agent.said()
            agent.wait_ready()
            time.sleep(0.3)
    three_pods.quiet()
    assert_books_close(agent, opening)
    assert scraper.faults == []
    assert agent.stop() == 0


def test_what_the_service_manager_hears(node: Node, managed: Agent, manager: Manager) -> None:
    node.bridged_pod("a")
    managed.start("--epoch", "5")
    manager.listen(60, "READY=1")
    ready = manager.heard[-1][1]
    assert "STATUS=watching 1 interface, " in ready
    manager.listen(2 * WATCHDOG_SECONDS)
    beats = manager.times("WATCHDOG=1")
    gaps = [later - one for one, later in itertools.pairwise(beats)]
    assert len(beats) > 3
    assert max(gaps) < WATCHDOG_SECONDS / 2  # though an epoch is longer than that
    assert managed.process is not None
    managed.process.send_signal(signal.SIGHUP)
    manager.listen(10, "READY=1")
    (reloading,) = manager.times("RELOADING=1")
    assert reloading < manager.times("READY=1")[-1]
    assert managed.stop() == 0
    manager.listen(1, "STOPPING=1")
    assert manager.times("STOPPING=1")


def test_the_running_agent_has_what_it_needs_and_no_more(
    three_pods: Node, make_agent: MakeAgent
) -> None:
    agent = make_agent()
    agent.start()
    agent.wait_ready()
    assert agent.process is not None
    allowed = sum(1 << BIT_OF[name] for name in RUNNING)
    tasks = [int(each) for each in os.listdir(f"/proc/{agent.process.pid}/task")]
    for task in tasks:
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{task}/status").read_text().splitlines()
            if line.startswith("Cap")
        )
        for kind in ("CapEff", "CapPrm", "CapBnd", "CapAmb", "CapInh"):
            assert int(status[kind], 16) & ~allowed == 0, (task, kind, status)
    assert "cannot drop capabilities" not in agent.said()
    three_pods.bridged_pod("d")
    end = time.monotonic() + 10
    while value(agent.samples(), "podtally_attached_interfaces") < 4:
        assert time.monotonic() < end, agent.said()
        time.sleep(0.1)
