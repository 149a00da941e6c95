# SPDX-License-Identifier: Apache-2.0
"""What pods send again is counted by workload, equal to the kernel's counters, over a kill."""

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.agents import Samples
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Node, Pod, pod_socket
from tests.e2e.policy_world import Static, by, configuration, eventually
from tests.kernel.links_support import inside
from tests.kernel.test_retransmits import counter
from tests.tracefs import tracefs

RETRANSMITS, LOST = "podtally_retransmits_total", "podtally_retransmits_lost_total"
PORT, MESSAGES = 8015, 60
PODS = {"web": Static("shop", "web", {}), "db": Static("shop", "db", {})}
LOSS = (
    "add table inet t; add chain inet t c { type filter hook input priority 0; }; "
    "add rule inet t c meta l4proto tcp numgen inc mod 20 == 7 drop"
)


@pytest.fixture
def reports() -> Iterator[None]:
    with tracefs():
        yield


def exchange(asking: socket.socket, serving: socket.socket) -> None:
    """Send messages of one segment both ways, one after the other."""
    for _ in range(MESSAGES):
        asking.sendall(b"x")
        serving.sendall(serving.recv(1))
        asking.recv(1)


def connected(client: Pod, server: Pod) -> tuple[socket.socket, socket.socket]:
    with pod_socket(server, socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((server.ipv4, PORT))
        listener.listen()
        asking = pod_socket(client, socket.AF_INET, socket.SOCK_STREAM)
        asking.settimeout(60)
        asking.connect((server.ipv4, PORT))
        serving, _ = listener.accept()
    for each in (asking, serving):
        each.settimeout(60)
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return asking, serving


def test_retransmits_of_workloads_across_a_kill(
    reports: None,
    node: Node,
    make_agent: MakeAgent,
    tmp_path: Path,
) -> None:
    for number, name in enumerate(PODS, 5):
        node.routed_pod(name, number)
    web, db = node.pods["web"], node.pods["db"]
    flags = configuration(
        tmp_path / "podtally.yaml", {node.pods[name].netns: each for name, each in PODS.items()}
    )
    agent = make_agent(*flags)
    agent.start()
    agent.wait_ready()
    for pod in (web, db):
        with inside(pod.netns):
            subprocess.run(["nft", LOSS], check=True)
    before = {name: counter(node.pods[name].netns) for name in PODS}
    asking, serving = connected(web, db)
    with asking, serving:
        exchange(asking, serving)
        agent.kill()
        exchange(asking, serving)
        agent = make_agent(*flags)
        agent.start()
        agent.wait_ready()
        exchange(asking, serving)

    def equal(samples: Samples) -> bool:
        """Return whether what each workload lacks of the kernel's count is known to be lost."""
        counted, lost = by("workload", samples, RETRANSMITS), by("loss", samples, LOST)
        missing = [
            counter(node.pods[name].netns) - before[name] - counted.get(name, 0) for name in PODS
        ]
        return min(missing) >= 0 and sum(missing) <= sum(lost.values())

    assert all(counter(node.pods[name].netns) > before[name] for name in PODS)
    eventually(agent, equal, True)
