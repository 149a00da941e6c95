# SPDX-License-Identifier: Apache-2.0
"""Peers outside have the names by which the pod found them: a real resolver, real TLS, kill -9."""

import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import dns.message
import pytest

from tests.e2e.agents import Agent, environment, value
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Node, Pod, ip, pod_socket
from tests.kernel.links_support import inside
from tests.patience import FACTOR, deadline

OUTSIDE, PORT = "203.0.113.7", 8443
RESOLVER = "10.99.7.1"  # the node's end of the pod's link
NAMES = ("api.example.com", "b.example.net")
SECONDS = 60.0
TTL = int(60 * FACTOR)


@contextmanager
def resolver(*flags: str) -> Iterator[None]:
    """Dnsmasq on the node, which gives every name in NAMES the same address."""
    program = shutil.which("dnsmasq")
    if program is None:
        pytest.skip("needs dnsmasq (Debian: dnsmasq-base)")
    answers = [f"--address=/{name}/{OUTSIDE}" for name in NAMES]
    listen = ("--bind-interfaces", f"--listen-address={RESOLVER}", "--port=53")
    command = [program, "--no-daemon", "--no-resolv", "--no-hosts", "--conf-file=/dev/null"]
    with subprocess.Popen(
        [*command, *listen, *answers, *flags], stderr=subprocess.DEVNULL
    ) as running:
        try:
            yield
        finally:
            running.kill()


@contextmanager
def outside(node: Node) -> Iterator[None]:
    """A server that is no pod: it reads something and answers."""
    far = node.routed_pod("far", 9)
    ip("link", "set", far.link, "down")
    ip("link", "set", far.link, "name", "far0", "up")  # not watched
    ip("-n", far.netns, "addr", "add", f"{OUTSIDE}/32", "dev", "lo")
    ip("route", "add", f"{OUTSIDE}/32", "via", far.ipv4)
    with inside(far.netns):
        listening = socket.create_server((OUTSIDE, PORT))
    thread = threading.Thread(target=_serve, args=(listening,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def _serve(listening: socket.socket) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listening.accept()
            with connection, suppress(OSError):
                connection.recv(4096)
                connection.sendall(bytes(5000))


def ask(pod: Pod, name: str) -> None:
    with inside(pod.netns):
        asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with asking:
        asking.settimeout(SECONDS)
        asking.connect((RESOLVER, 53))
        asking.send(dns.message.make_query(name, "A").to_wire())
        asking.recv(4096)


def connect(pod: Pod, server_name: str = "") -> None:
    with inside(pod.netns):
        connection = socket.create_connection((OUTSIDE, PORT))
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with connection, suppress(OSError):
        if server_name:
            context.wrap_socket(connection, server_hostname=server_name)
        else:
            connection.sendall(b"hello" * 100)
            while connection.recv(9999):
                pass


def domains(agent: Agent) -> dict[str, float]:
    """Return the connections to the outside, by the label `peer_domain`."""
    found: dict[str, float] = {}
    for (name, labels), count in agent.samples().items():
        given = dict(labels)
        if name == "podtally_connections_total" and given["port"] == str(PORT) and count:
            found[given["peer_domain"]] = found.get(given["peer_domain"], 0) + count
    return found


def until(wanted: Mapping[str, float], seen: Callable[[], Mapping[str, float]]) -> None:
    end = deadline(SECONDS)
    while (now := seen()) != wanted:
        assert time.monotonic() < end, now
        time.sleep(0.1)


def test_names_survive_kill_9(node: Node, make_agent: MakeAgent, tmp_path: Path) -> None:
    log = tmp_path / "flows.jsonl"
    agent = make_agent("--resolvers", RESOLVER, "--flow-log", str(log))
    pod = node.routed_pod("web", 7)
    with resolver(f"--local-ttl={TTL}"), outside(node):
        agent.start()
        agent.wait_ready()
        connect(pod)
        ask(pod, NAMES[0])
        connect(pod)
        until({"": 1, "example.com": 1}, lambda: domains(agent))
        agent.kill()
        ask(pod, NAMES[1])  # no agent reads it: it waits in the kernel
        connect(pod)
        connect(pod, NAMES[1])
        agent.start()
        agent.wait_ready()
        wanted = {"": 1, "example.com": 1, "ambiguous": 1, "example.net": 1}
        until(wanted, lambda: domains(agent))
        assert_commands_have_names(agent)
    lines = [json.loads(line)["peer"] for line in log.read_text().splitlines()]
    named = {
        (each.get("domain"), each.get("domain_source")) for each in lines if each["port"] == PORT
    }
    assert named <= {(None, None), (NAMES[0], "dns"), (NAMES[1], "ambiguous"), (NAMES[1], "dns")}
    assert "Traceback" not in agent.said()


def printed(agent: Agent, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "podtally", *arguments, "--listen", f"127.0.0.1:{agent.places.port}"],
        capture_output=True, text=True, timeout=120, check=False, env=environment(),
    )  # fmt: skip


def assert_commands_have_names(agent: Agent) -> None:
    """The second question was captured while no agent ran, the first is in the checkpoint."""
    asked = json.loads(printed(agent, "dns", "--once", "-o", "json").stdout)["queries"]
    (query,) = (each for each in asked if each["name"] == NAMES[1])
    assert (query["type"], query["rcode"], query["resolver"]) == ("A", "NOERROR", RESOLVER)
    assert query["trusted"]
    assert query["seconds"] > 0
    for name in NAMES:
        done = printed(agent, "resolve", name, "-o", "json")
        (answer,) = json.loads(done.stdout)["answers"]
        found = (done.returncode, answer["address"], answer["resolver"], answer["ttl"])
        assert found == (0, OUTSIDE, RESOLVER, TTL)
        assert answer["trusted"]
        assert not answer["hint"]
    assert printed(agent, "resolve", NAMES[0], "--at", "1h ago").returncode == 1


def test_another_pods_question_names_nothing_here(node: Node, make_agent: MakeAgent) -> None:
    agent = make_agent("--resolvers", RESOLVER)
    web, other = node.routed_pod("web", 7), node.routed_pod("other", 8)
    with resolver(), outside(node):
        agent.start()
        agent.wait_ready()
        ask(other, NAMES[0])
        connect(web)
        until({"": 1}, lambda: domains(agent))


def test_an_untrusted_resolver_vouches_for_nothing(node: Node, make_agent: MakeAgent) -> None:
    agent = make_agent()
    pod = node.routed_pod("web", 7)
    with resolver(), outside(node):
        agent.start()
        agent.wait_ready()
        ask(pod, NAMES[0])
        connect(pod)
        until({"unverified": 1}, lambda: domains(agent))


def test_lost_messages_are_counted_once(node: Node, make_agent: MakeAgent) -> None:
    agent = make_agent()
    pod = node.routed_pod("web", 7)
    agent.start()
    agent.wait_ready()
    end = deadline(SECONDS)
    while not lost(agent):
        assert time.monotonic() < end
        with pod_socket(pod, socket.AF_INET, socket.SOCK_DGRAM) as flooding:
            for _ in range(5000):
                flooding.sendto(bytes(1400), (RESOLVER, 53))
    before = settled(agent)
    agent.kill()
    agent.start()
    agent.wait_ready()
    assert settled(agent) == before


def lost(agent: Agent) -> float:
    return value(agent.samples(), "podtally_dns_messages_total", kind="lost")


def settled(agent: Agent, epochs: float = 3) -> float:
    """Return what is counted once some epochs have been booked since now."""
    name = "podtally_epoch_duration_seconds_count"
    booked = value(agent.samples(), name)
    until({"later": True}, lambda: {"later": value(agent.samples(), name) >= booked + epochs})
    return lost(agent)


def test_names_can_be_turned_off(node: Node, make_agent: MakeAgent) -> None:
    agent = make_agent("--resolvers", RESOLVER, "--names-from", "off")
    pod = node.routed_pod("web", 7)
    with resolver(), outside(node):
        agent.start()
        agent.wait_ready()
        ask(pod, NAMES[0])
        connect(pod)
        until({"": 1}, lambda: domains(agent))
