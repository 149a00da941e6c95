# SPDX-License-Identifier: Apache-2.0
"""The cleanup pods' command, with their capabilities: afterwards nothing of podtally is on the node."""

import json
import subprocess
import sys
from pathlib import Path

import yaml

from tests.e2e.agents import Agent, environment
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Node

CLEANUP = Path(__file__).parents[2] / "deploy" / "cleanup" / "daemonset.yaml"
PINGS = 23


def cleanup(agent: Agent) -> subprocess.CompletedProcess[str]:
    """Run what the DaemonSet runs on a node, on the agent's places."""
    pod = yaml.safe_load(CLEANUP.read_text())["spec"]["template"]["spec"]
    (container,) = pod["initContainers"]
    granted = container["securityContext"]["capabilities"]["add"]
    allowed = "".join(f",+{name.lower()}" for name in granted)
    places = agent.places
    config = places.state_dir.parent / "podtally.yaml"
    config.write_text(f"history: {places.state_dir}/history.db\n")
    return subprocess.run(
        [
            *("setpriv", "--bounding-set", f"-all{allowed}", "--no-new-privs"),
            *(sys.executable, "-m", "podtally", *container["args"], "-o", "json"),
            *("--pin-dir", str(places.pin_dir), "--state-dir", str(places.state_dir)),
            *("--config", str(config)),
        ],
        capture_output=True, text=True, check=False, env=environment(),
    )  # fmt: skip


def attached(link: str) -> list[str]:
    """The programs on a link's tc hooks."""
    shown = subprocess.run(
        ["ip", "-d", "link", "show", link], capture_output=True, text=True, check=True
    ).stdout
    filters = "".join(
        subprocess.run(
            ["tc", "filter", "show", "dev", link, hook], capture_output=True, text=True, check=False
        ).stdout
        for hook in ("ingress", "egress")
    )
    return [line for line in (shown + filters).splitlines() if "bpf" in line or "prog" in line]


def test_a_node_is_as_before(three_pods: Node, make_agent: MakeAgent) -> None:
    agent, pod = make_agent(), three_pods.pods["a"]
    agent.start()
    agent.wait_ready()
    other = three_pods.pods["b"].ipv4
    ping = ("ip", "netns", "exec", pod.netns, "ping", "-q", "-c", str(PINGS), "-i", "0.01", other)
    subprocess.run(ping, check=True, capture_output=True)
    refused = cleanup(agent)
    assert refused.returncode == 2, "an agent still runs"
    assert "another podtally" in refused.stderr or "is in use" in refused.stderr, refused.stderr
    assert agent.stop() == 0
    assert (agent.places.state_dir / "history.db").exists()
    done = cleanup(agent)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    links = {each.link for each in three_pods.pods.values()}
    assert {each["interface"] for each in report["detached"]} == links
    assert str(agent.places.state_dir / "checkpoint") in report["removed"]
    assert not agent.places.state_dir.exists()
    assert not agent.places.pin_dir.exists() or not list(agent.places.pin_dir.iterdir())
    assert [line for link in links for line in attached(link)] == []
    again = cleanup(agent)
    assert (again.returncode, json.loads(again.stdout)) == (0, {"detached": [], "removed": []})
