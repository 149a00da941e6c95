# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a node with pods, and an agent with its own directories; all is removed afterwards."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from podtally.kernel.pins import filesystem_of
from tests.e2e import pods
from tests.e2e.agents import Agent, Places

BPFFS = Path("/sys/fs/bpf")

MakeAgent = Callable[..., Agent]


@pytest.fixture(scope="session")
def bpffs() -> Path:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if filesystem_of(BPFFS) != "bpf":
        subprocess.run(["mount", "-t", "bpf", "bpf", BPFFS], check=True)
    return BPFFS


@pytest.fixture
def node(bpffs: Path) -> Iterator[pods.Node]:
    """A node without pods; the test, and what it starts, lives there."""
    with pods.node() as made:
        yield made


@pytest.fixture
def three_pods(node: pods.Node) -> pods.Node:
    """A node with the pods a, b and c on its bridge."""
    for name in "abc":
        node.bridged_pod(name)
    return node


@pytest.fixture
def places(bpffs: Path, tmp_path: Path) -> Iterator[Places]:
    pin_dir = bpffs / f"ptl-e2e-{os.getpid()}"
    yield Places(pin_dir, tmp_path / "state", free_port())
    with suppress(FileNotFoundError):
        shutil.rmtree(pin_dir)


@pytest.fixture
def make_agent(places: Places, tmp_path: Path) -> Iterator[MakeAgent]:
    """Agents over the same places, one after the other."""
    made: list[Agent] = []

    def make(*flags: str, sources: Path | None = None) -> Agent:
        agent = Agent(places, flags, log=tmp_path / "agent.log")
        if sources is not None:
            agent.sources = sources
        made.append(agent)
        return agent

    yield make
    for agent in made:
        agent.end()


@pytest.fixture
def agent(make_agent: MakeAgent) -> Agent:
    return make_agent()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
