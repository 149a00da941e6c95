# SPDX-License-Identifier: Apache-2.0
"""Pods with raw sockets neither accuse the cluster of not enforcing a policy, nor hide that."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from podtally.api.schema import ENDPOINTS, Endpoints
from tests.e2e.agents import Agent, Samples
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Node, Pod, sysctl
from tests.e2e.policy_world import (
    OUTSIDE,
    Static,
    by,
    configuration,
    events,
    eventually,
    outside,
    stream,
    wait_for,
)
from tests.e2e.test_forged_frames import SHUT_OUT, from_pod, ipv4, mac, raw
from tests.kernel import packets

ENFORCEMENT, SERVER, PORT = "podtally_policy_enforcement_total", OUTSIDE[0], 4444
SYN_ACK = packets.SYN | packets.ACK
PLUGIN = (
    "add table inet plugin; add chain inet plugin c { type filter hook forward priority 0; }; "
    f"add rule inet plugin c ip daddr {SERVER} tcp dport {PORT} drop"
)


@pytest.fixture
def running(node: Node, make_agent: MakeAgent, tmp_path: Path) -> tuple[Node, Agent]:
    """Two isolated pods on a node that routes back what they send, whoever its sender is."""
    outside(node)
    for number, name in enumerate(("stray", "helper"), 5):
        node.routed_pod(name, number)
    for name in ("all", *(pod.link for pod in node.pods.values() if pod.link.startswith("ptl-"))):
        if Path(f"/proc/sys/net/ipv4/conf/{name}").exists():
            sysctl(f"ipv4/conf/{name}/rp_filter", 0)
    policy = tmp_path / "policy.yaml"
    policy.write_text(SHUT_OUT)
    pods = {node.pods[name].netns: Static("shop", name, {}) for name in ("stray", "helper")}
    agent = make_agent(
        *configuration(tmp_path / "podtally.yaml", pods),
        *("--policies", str(policy), "--events", str(tmp_path / "events")),
    )
    agent.start()
    agent.wait_ready()
    until_addresses_are_known(agent)
    return node, agent


def until_addresses_are_known(agent: Agent) -> None:
    """Wait: until then, every address is taken for the pod's own."""
    end = time.monotonic() + 60
    while True:
        found = msgspec.json.decode(agent.get(ENDPOINTS)[1], type=Endpoints).endpoints
        if len(found) == 2 and all(each.addresses for each in found):
            return
        assert time.monotonic() < end, found
        time.sleep(0.05)


def segment(ends: tuple[str, str], ports: tuple[int, int], flags: int) -> bytes:
    return ipv4(ends, packets.TCP, packets.tcp(*ports, flags))


def results(samples: Samples) -> dict[str, int]:
    return by("result", samples, ENFORCEMENT, workload="stray")


def audit(agent: Agent) -> int:
    listen = agent.places.url.removeprefix("http://")
    command = [sys.executable, "-m", "podtally", "audit", "--listen", listen]
    return subprocess.run(command, capture_output=True, check=False).returncode


def test_an_answer_that_a_neighbour_forges_is_no_finding(
    running: tuple[Node, Agent], tmp_path: Path
) -> None:
    """The plugin drops the SYN; a neighbour answers it in the name of the server."""
    node, agent = running
    subprocess.run(["nft", PLUGIN], check=True)
    stray, helper = node.pods["stray"], node.pods["helper"]
    there, back = (stray.ipv4, SERVER), (SERVER, stray.ipv4)
    with raw(stray) as asking, raw(helper) as answering:
        asking.send(from_pod(stray, segment(there, (41001, PORT), packets.SYN)))
        answering.send(from_pod(helper, segment(back, (PORT, 41001), SYN_ACK)))
        asking.send(from_pod(stray, segment(there, (41001, PORT), packets.ACK)))
    eventually(agent, results, {"inconclusive": 1})
    found = wait_for(
        lambda: events(tmp_path / "events"), lambda each: each.endpoint.pod == "helper"
    )
    assert found.reason.endswith("sent from an address that is not this endpoint's")
    assert {each.event for each in events(tmp_path / "events")} <= {"denied", "spoofed"}
    assert audit(agent) == 0


def reset(stray: Pod, world: Pod) -> None:
    """Answer a SYN before there is one: the server resets that."""
    with raw(stray) as forger:
        forger.send(from_pod(stray, segment((stray.ipv4, SERVER), (41002, PORT), SYN_ACK)))


def contest(stray: Pod, world: Pod) -> None:
    """Let the peer, an accomplice, send a SYN to the port of the client."""
    with raw(world) as forger:
        frame = segment((SERVER, stray.ipv4), (PORT, 41002), packets.SYN)
        forger.send(from_pod(world, frame, mac("wire")))


@pytest.mark.parametrize("trick", [reset, contest])
def test_forged_openings_hide_no_finding(
    running: tuple[Node, Agent], trick: Callable[[Pod, Pod], None]
) -> None:
    """No plugin enforces the policy here."""
    node, agent = running
    stray, world = node.pods["stray"], node.pods["world"]
    with stream(world) as listener, stream(stray) as asking:
        listener.bind(("", PORT))
        listener.listen()
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        asking.bind(("", 41002))
        asking.settimeout(10)
        trick(stray, world)
        asking.connect((SERVER, PORT))
        serving, _ = listener.accept()
        with serving:
            asking.sendall(b"secret")
            assert serving.recv(6) == b"secret"
        eventually(agent, lambda samples: results(samples).get("not_enforced"), 1)
    assert audit(agent) == 1
