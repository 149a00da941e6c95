# SPDX-License-Identifier: Apache-2.0
"""``kubectl podtally``, as one file, with two real agents: traffic between nodes is counted once, sums exact."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver.store import KINDS
from tests.e2e.agents import Agent, Places, Samples, value
from tests.e2e.conftest import free_port
from tests.e2e.kube_node import kubeconfig
from tests.e2e.pods import Node
from tests.e2e.policy_cluster import Cluster, cluster
from tests.e2e.policy_world import CONNECTIONS, FLOWS, TIMES, converse, eventually, series_of
from tests.plugin_support import agent_pod

ROOT = Path(__file__).parents[2]
PORT = 3306
UNSYNCED = "podtally_policy_resources_unsynced"
PATIENCE_SECONDS = 60.0


@pytest.fixture
def shop(node: Node) -> Iterator[Cluster]:
    with cluster(node) as made:
        for kind in KINDS.values():  # those of CRDs too: nothing waits for them
            made.api.install(kind.name)
        made.pod("web", {"app": "web"})
        made.pod("db", {"app": "db"})
        yield made


@pytest.fixture
def two_agents(shop: Cluster, bpffs: Path, tmp_path: Path) -> Iterator[dict[str, Agent]]:
    """Two agents, each of one pod's link: two nodes, as far as anybody can see from outside."""
    made = {}
    for name in ("web", "db"):
        folder = tmp_path / name
        folder.mkdir()
        places = Places(bpffs / f"ptl-{name}-{os.getpid()}", folder / "state", free_port())
        flags = (*shop.flags(folder), "--interfaces", f"ptl-{name}")
        made[name] = Agent(places, flags, log=folder / "log")
    try:
        for name, agent in made.items():
            agent.start()
            agent_pod(shop.api, f"node-{name}", agent.places.port)
        for agent in made.values():
            agent.wait_ready()
            eventually(agent, lambda samples: value(samples, UNSYNCED), 0, PATIENCE_SECONDS)
        yield made
    finally:
        for agent in made.values():
            agent.end()
            agent.detach()


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("plugin") / "kubectl-podtally"
    build = (str(ROOT / "scripts" / "build-plugin"), "--local", str(target))
    subprocess.run(build, check=True, capture_output=True)
    return target


@pytest.mark.slow
def test_the_file_shows_what_crosses_nodes_once(
    shop: Cluster, two_agents: dict[str, Agent], command: Path, tmp_path: Path
) -> None:
    for _ in range(TIMES):
        converse(shop.node.pods["web"], shop.node.pods["db"], PORT)
    shop.node.quiet()
    web, db = (settled(two_agents[name]) for name in ("web", "db"))
    config = str(kubeconfig(tmp_path / "user", shop.api.url))

    def run(*words: str, code: int = 0) -> Any:
        done = subprocess.run(
            [command, words[0], "--kubeconfig", config, *words[1:]],
            capture_output=True, text=True, timeout=400, check=False, cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        )  # fmt: skip
        assert done.returncode == code, (done.stdout, done.stderr)
        return json.loads(done.stdout) if "json" in words else done.stdout

    found = run("top", "-o", "json")
    assert len(found["conversations"]) == 1, found
    (row,) = found["conversations"]
    assert (row["workload"], row["peer_workload"]) == ("web", "db")
    assert (row["egress_connections"], row["ingress_connections"]) == (TIMES, 0)
    sent, received = (sums(web, "web", direction) for direction in ("egress", "ingress"))
    assert (row["egress_bytes"], row["ingress_bytes"]) == (sent, received)
    assert (sums(db, "db", "ingress"), sums(db, "db", "egress")) == (sent, received)
    assert found["totals"]["undeclared"] == {"connections": TIMES, "bytes": sent + received}
    assert found["books"]["gaps"] == []
    # Neighbour discovery goes on meanwhile: it is in the books, and in no flow.
    later = [two_agents[name].samples() for name in ("web", "db")]
    assert booked(web, db) <= found["books"]["bytes"] <= booked(*later)

    rows = run("endpoints", "-o", "json")["endpoints"]
    assert [(each["node"], each["pod"]) for each in rows] == [
        ("node-db", "db"),
        ("node-web", "web"),
    ]
    owners = run("resolve", shop.node.pods["db"].ipv4, "-o", "json")["owners"]
    assert {each["name"] for each in owners if not each["until"]} == {"db"}, owners
    assert max(each["nodes"] for each in owners) == 2, owners
    explained = run("explain", "shop/web", "shop/db", str(PORT), "-o", "json")
    assert explained["explanation"]["verdict"] == "undeclared"
    assert (explained["nodes"], explained["differing"]) == (["node-db", "node-web"], [])
    assert "the agent has no candidates" in refused(command, config, tmp_path, "candidates")
    assert run("health").count(" ok ") == 2
    rows = history(run)
    assert {(row["workload"], row["connections"]) for row in rows} == {
        ("web", TIMES),
        ("db", TIMES),
    }
    report = run("doctor", "-o", "json", "--timeout", "300", "--node", "node-db")
    assert [each["report"]["can_run"] for each in report["nodes"]] == [True]
    # Without one of the two agents, the other end still shows it all.
    two_agents["web"].stop()
    found = run("top", "-o", "json", code=1)
    assert [each["node"] for each in found["unreachable"]] == ["node-web"]
    (row,) = found["conversations"]
    assert (row["workload"], row["ingress_connections"], row["egress_bytes"]) == (
        "db",
        TIMES,
        received,
    )


def history(run: Any) -> list[dict[str, Any]]:
    """Both ends' rows; what is not written yet is answered from memory."""
    found = run("flows", "--since", "1h", "--by", "workload", "-o", "json")
    rows: list[dict[str, Any]] = found["rows"]
    return rows


def refused(command: Path, config: str, folder: Path, *words: str) -> str:
    done = subprocess.run(
        [command, *words, "--kubeconfig", config], capture_output=True, text=True, timeout=120,
        check=False, env={"PATH": os.environ["PATH"], "HOME": str(folder)},
    )  # fmt: skip
    assert done.returncode == 2
    return done.stderr


def booked(*samples: Samples) -> int:
    return sum(sum(series_of(each, "podtally_books_bytes_total").values()) for each in samples)


def sums(samples: Samples, workload: str, direction: str) -> int:
    return sum(
        value
        for labels, value in series_of(samples, FLOWS).items()
        if {("workload", workload), ("direction", direction)} <= set(labels)
    )


def settled(agent: Agent) -> Samples:
    """All connections are counted, and half a second later nothing has moved."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        before = agent.samples()
        time.sleep(0.5)
        now = agent.samples()
        same = series_of(before, FLOWS) == series_of(now, FLOWS)
        if same and sum(series_of(now, CONNECTIONS).values()) == TIMES:
            return now
        assert time.monotonic() < end, agent.said()
