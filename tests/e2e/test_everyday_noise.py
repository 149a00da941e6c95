# SPDX-License-Identifier: Apache-2.0
"""Everyday noise raises no event and no finding, though policies isolate every pod.

Neighbour discovery, DHCP, probes of a pod that starts, late answers, scans of closed ports.
"""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.agents import Agent, Samples, gaps
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import BRIDGE, Node, Pod, ip, pod_socket, until_up
from tests.e2e.policy_world import (
    Static,
    by,
    configuration,
    converse,
    events,
    eventually,
    talk,
    wait_for,
    write,
)
from tests.kernel.links_support import inside

OUTCOMES, ENFORCEMENT = "podtally_connection_outcomes_total", "podtally_policy_enforcement_total"
DENIED = "podtally_policy_denied_total"
OPEN, LATE, PROBED = 80, 5300, 8080
NODE = "10.99.0.254"
CLOSED = range(1000, 1000 + 23)  # policy allows them, and nothing listens
FORBIDDEN = range(2000, 2000 + 211)
EVENTS_OF_A_PEER = 20  # a scan is beyond them
POLICIES = f"""
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: isolated, namespace: shop}}
spec:
  podSelector: {{}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: &peers [{{podSelector: {{}}}}, {{ipBlock: {{cidr: "2001:db8::/64"}}}}]
    ports: &ports
    - {{port: {OPEN}}}
    - {{port: {CLOSED[0]}, endPort: {CLOSED[-1]}}}
    - {{port: {LATE}, protocol: UDP}}
  egress:
  - to: *peers
    ports: *ports
"""
# What a network plugin does: it refuses what the policy forbids between the pods.
PLUGIN = (
    "add table inet plugin; add chain inet plugin c { type filter hook forward priority 0; }; "
    f"add rule inet plugin c tcp dport {FORBIDDEN[0]}-{FORBIDDEN[-1]} reject with tcp reset"
)
LEASE = """#!/bin/sh
case "$1" in
bound|renew) ip addr replace "$ip/$mask" dev "$interface"; echo "$1" >> {log} ;;
deconfig) ip addr flush dev "$interface" scope global ;;
esac
"""
PODS = {name: Static("shop", name, {"app": name}) for name in ("web", "db", "one", "two")}


@pytest.fixture
def shop(node: Node, tmp_path: Path, make_agent: MakeAgent) -> tuple[Node, Agent]:
    """Pods behind links of their own, and on a bridge, with an agent that knows their names."""
    for number, name in enumerate(("web", "db"), 5):
        node.routed_pod(name, number)
    for name in ("one", "two"):
        on_bridge(node, name)
    ip("addr", "add", f"{NODE}/24", "dev", BRIDGE)
    write(tmp_path / "policy.yaml", POLICIES)
    agent = make_agent(
        *configuration(
            tmp_path / "podtally.yaml", {node.pods[name].netns: each for name, each in PODS.items()}
        ),
        *("--policies", str(tmp_path / "policy.yaml"), "--events", str(tmp_path / "events")),
        *("--events-interval", "1"),
    )
    agent.start()
    agent.wait_ready()
    return node, agent


def on_bridge(node: Node, name: str) -> None:
    """Add a pod that does all that a kernel does by itself: DAD, MLD, router solicitations."""
    netns, link = f"{node.prefix}-{name}", f"ptl-{name}"
    ip("netns", "add", netns)
    node.pods[name] = Pod(netns, link, "", "")
    ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", netns)
    ip("link", "set", link, "master", BRIDGE, "up")


# -- the noise ----------------------------------------------------------------------------


def discover_neighbours(one: Pod, other: Pod) -> None:
    """Bring two pods up with IPv6, resolve each other, and an address that no one has."""
    for number, pod in enumerate((one, other), 1):
        ip("-n", pod.netns, "link", "set", "eth0", "up")
        ip("-n", pod.netns, "addr", "add", f"2001:db8::{number}/64", "dev", "eth0")
        until_up("eth0", pod.netns)
    until_assigned(other)
    until_assigned(one)
    with pod_socket(one, socket.AF_INET6, socket.SOCK_DGRAM) as asking:
        for address in ("2001:db8::2", "2001:db8::99"):
            for _ in range(3):
                with suppress(ConnectionRefusedError):
                    asking.sendto(b"question", (address, LATE))
                time.sleep(0.3)


def until_assigned(pod: Pod) -> None:
    """Wait until no address of the pod is tentative."""
    end = time.monotonic() + 60
    while "tentative" in ip("-n", pod.netns, "-6", "addr", "show", "dev", "eth0"):
        assert time.monotonic() < end
        time.sleep(0.1)


@contextmanager
def leases(folder: Path) -> Iterator[None]:
    """Run a DHCP server on the node's bridge."""
    process = subprocess.Popen(
        [
            *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root"),
            *("--port=0", f"--interface={BRIDGE}", "--bind-interfaces", "--dhcp-authoritative"),
            *("--dhcp-range=10.99.0.100,10.99.0.120,255.255.255.0,2m", "--pid-file="),
            f"--dhcp-leasefile={folder / 'leases'}",
        ]
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def lease(client: Pod, folder: Path) -> None:
    """Get an address by DHCP, renew it, and give it back."""
    script, log = folder / "lease.sh", folder / "lease.log"
    script.write_text(LEASE.format(log=log))
    script.chmod(0o755)
    with inside(client.netns):
        process = subprocess.Popen(
            [
                "busybox",
                "udhcpc",
                "-f",
                "-R",
                "-i",
                "eth0",
                "-s",
                str(script),
                "-t",
                "20",
                "-T",
                "1",
            ],
            stderr=subprocess.DEVNULL,
        )
    try:
        until_logged(log, "bound")
        process.send_signal(signal.SIGUSR1)
        until_logged(log, "renew")
        process.terminate()  # with -R it releases the lease
        process.wait(30)
    finally:
        process.kill()
        process.wait()


def until_logged(log: Path, word: str) -> None:
    end = time.monotonic() + 60
    while not log.exists() or word not in log.read_text().split():
        assert time.monotonic() < end, f"no {word}"
        time.sleep(0.05)


def probe(pod: Pod) -> None:
    """Probe a pod as its kubelet does, from the node: refused until the pod listens."""
    for _ in range(5):
        with socket.socket() as asking, pytest.raises(ConnectionRefusedError):
            asking.connect((pod.ipv4, PROBED))
    converse(None, pod, PROBED)


def answer_late(client: Pod, server: Pod) -> None:
    """Answer when the client has gone: the client's kernel rejects or resets it."""
    asking = pod_socket(client, socket.AF_INET, socket.SOCK_DGRAM)
    with pod_socket(server, socket.AF_INET, socket.SOCK_DGRAM) as answering:
        answering.bind((server.ipv4, LATE))
        answering.settimeout(10)
        with asking:
            asking.sendto(b"question", (server.ipv4, LATE))
            _, sender = answering.recvfrom(64)
        for _ in range(3):
            answering.sendto(b"answer", sender)
            time.sleep(0.3)
    with talk(client, server, OPEN) as connection:
        connection.exchange(1)
        connection.asking.close()
        for _ in range(3):
            connection.answering.send(b"too late")
            time.sleep(0.3)
            if connection.answering.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                break


def scan(client: Pod, server: Pod, ports: range) -> None:
    for port in ports:
        with pod_socket(client, socket.AF_INET, socket.SOCK_STREAM) as asking:
            asking.settimeout(10)
            with pytest.raises(ConnectionRefusedError):
                asking.connect((server.ipv4, port))


# -- what the agent reports ---------------------------------------------------------------


def audit(agent: Agent) -> tuple[int, dict[str, object]]:
    listen = agent.places.url.removeprefix("http://")
    ran = subprocess.run(
        [sys.executable, "-m", "podtally", "audit", "--listen", listen, "-o", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.returncode, json.loads(ran.stdout)


def of_web(label: str, name: str, samples: Samples, **labels: str) -> dict[str, int]:
    return by(label, samples, name, workload="web", direction="egress", **labels)


def test_noise_raises_nothing(shop: tuple[Node, Agent], tmp_path: Path) -> None:
    for program in ("dnsmasq", "busybox"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    node, agent = shop
    web, db = node.pods["web"], node.pods["db"]
    with ExitStack() as stack:
        discover_neighbours(node.pods["one"], node.pods["two"])
        stack.enter_context(leases(tmp_path))
        lease(node.pods["two"], tmp_path)
        probe(db)
        answer_late(web, db)
        scan(web, db, CLOSED)
        node.quiet()

    def decided(samples: Samples) -> dict[str, int]:
        return of_web("outcome", OUTCOMES, samples)

    def of_one(samples: Samples) -> dict[str, int]:
        return by("outcome", samples, OUTCOMES, workload="one", port=str(LATE))

    eventually(agent, of_one, {"rejected": 1})  # nothing listens on the neighbour
    samples = eventually(agent, decided, {"established": 1, "answered": 1, "refused": len(CLOSED)})
    assert by("outcome", samples, OUTCOMES, workload="db", port=str(PROBED)) == {
        "refused": 5,
        "established": 1,
    }
    assert of_web("result", ENFORCEMENT, samples) == {"passed": len(CLOSED) + 2}
    assert not any(gaps(samples).values())
    assert events(tmp_path / "events") == []
    code, found = audit(agent)
    assert (code, found["findings"]) == (0, [])


def test_a_refused_scan_is_counted_and_one_event(shop: tuple[Node, Agent], tmp_path: Path) -> None:
    node, agent = shop
    subprocess.run(["nft", PLUGIN], check=True)
    scan(node.pods["web"], node.pods["db"], FORBIDDEN)

    def decided(samples: Samples) -> dict[str, int]:
        return of_web("outcome", OUTCOMES, samples)

    samples = eventually(agent, decided, {"refused": len(FORBIDDEN)})
    assert of_web("policy", DENIED, samples) == {"shop/isolated": len(FORBIDDEN)}
    assert of_web("result", ENFORCEMENT, samples) == {"enforced": len(FORBIDDEN)}
    rest = wait_for(
        lambda: events(tmp_path / "events"),
        lambda each: each.scan is not None and each.outcomes.get("refused") == each.connections,
    )
    assert rest.connections == len(FORBIDDEN) - EVENTS_OF_A_PEER
    last = {each.port: each for each in events(tmp_path / "events")}  # sums so far, by event
    assert {each.event for each in last.values()} == {"denied"}
    assert [port for port, each in last.items() if each.scan] == [None]
    assert len(last) == 1 + EVENTS_OF_A_PEER
    assert sum(each.connections for each in last.values()) == len(FORBIDDEN)
    assert audit(agent)[0] == 0
