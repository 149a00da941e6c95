# SPDX-License-Identifier: Apache-2.0
"""On an uplink, host processes and host-network pods are booked by their sockets' cgroups, and
what only passes through is not booked a second time.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from podtally.runtimes.cgroup_ids import find_mount
from tests.e2e.agents import Samples, booked, gaps, value
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Counters, Node, Pod, counters, ip, own_counters, pod_socket
from tests.e2e.policy_world import eventually

UPLINK = "ptl-up0"
HERE, THERE = "203.0.113.1", "203.0.113.2"
UID = "0b3f7a52-9a4e-4d51-8f63-1d2a9c1e7f05"
CONTAINER = "c0ffee" * 10 + "beef"
SIZE, TIMES = 997, 23
HEADERS = 42  # Ethernet, IPv4, UDP

SEND = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
for _ in range({TIMES}):
    s.sendto(bytes({SIZE}), ("{THERE}", 9))
"""
SERVE = """
import socket, sys
s = socket.create_server(("", int(sys.argv[1])))
print("ready", flush=True)
c, _ = s.accept()
while c.recv(1 << 16):
    pass
"""


LISTEN = f"""
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.bind(("", int(sys.argv[1])))
print("ready", flush=True)
for _ in range({TIMES}):
    s.recv(2000)
time.sleep(1)  # the owner is looked up at the end of the epoch
"""


@contextmanager
def cgroup(path: str) -> Iterator[Path]:
    """A cgroup under one of our own, which is removed with all that is in it."""
    mount = find_mount()
    if mount is None:
        pytest.skip("no cgroup v2 here (CONFIG_CGROUPS)")
    top = mount.path / f"ptl-{os.getpid()}"
    made = top / path
    made.mkdir(parents=True)
    try:
        yield made
    finally:
        (made / "cgroup.kill").write_text("1")
        while made != mount.path and not any(each.is_dir() for each in made.iterdir()):
            _remove(made)
            made = made.parent


def _remove(made: Path) -> None:
    """A cgroup stays busy until its last process has been waited for."""
    end = time.monotonic() + 5
    while True:
        try:
            return made.rmdir()
        except OSError:
            assert time.monotonic() < end, f"{made} stays busy"
            time.sleep(0.01)


@contextmanager
def uplink(node: Node) -> Iterator[Pod]:
    """An interface that is no pair, into a namespace that stands for the world."""
    world = node.routed_pod("world", 240)
    ip("link", "set", world.link, "down")
    ip("addr", "flush", "dev", world.link)
    ip("link", "set", world.link, "name", "wire")
    ip("link", "set", "wire", "up")
    ip("link", "add", UPLINK, "link", "wire", "type", "macvlan", "mode", "private")
    ip("addr", "add", f"{HERE}/24", "dev", UPLINK)
    ip("link", "set", UPLINK, "up")
    ip("-n", world.netns, "addr", "flush", "dev", "eth0")
    ip("-n", world.netns, "addr", "add", f"{THERE}/24", "dev", "eth0")
    ip("-n", world.netns, "link", "set", "eth0", "up")
    yield world


def run(where: Path, code: str, *words: str) -> "subprocess.Popen[str]":
    join = f'echo $$ > "{where}/cgroup.procs"; exec "$@"'
    command = ["sh", "-c", join, "sh", sys.executable, "-Sc", code, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def pods(samples: Samples, namespace: str, pod: str) -> tuple[int, int]:
    egress, ingress = (
        int(
            value(
                samples,
                "podtally_pod_bytes_total",
                namespace=namespace,
                pod=pod,
                direction=direction,
            )
        )
        for direction in ("egress", "ingress")
    )
    return egress, ingress


def test_sockets_are_booked_under_their_owner(
    node: Node, make_agent: MakeAgent, tmp_path: Path
) -> None:
    logs = tmp_path / "pods"
    (logs / f"shop_hostmon_{UID}").mkdir(parents=True)
    with ExitStack() as stack:
        world = stack.enter_context(uplink(node))
        unit = stack.enter_context(cgroup("system.slice/ptl-demo.service"))
        pod = stack.enter_context(cgroup(f"kubepods/besteffort/pod{UID}/{CONTAINER}"))
        agent = make_agent("--interfaces", f"ptl-*,{UPLINK}", "--pod-logs", str(logs))
        opening = node.quiet()
        agent.start()
        agent.wait_ready()
        sink = stack.enter_context(pod_socket(world, socket.AF_INET, socket.SOCK_DGRAM))
        sink.bind((THERE, 9))
        for where in (unit, pod):
            with run(where, SEND) as sender:
                assert sender.wait(timeout=20) == 0
        server = stack.enter_context(run(unit, SERVE, "8080"))
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        with pod_socket(world, socket.AF_INET, socket.SOCK_STREAM) as client:
            client.connect((HERE, 8080))
            for _ in range(TIMES):
                client.sendall(bytes(SIZE))
        assert server.wait(timeout=20) == 0
        subprocess.run(
            ["ip", "netns", "exec", world.netns, "ping", "-q", "-c", "3", "-i", "0.2", HERE],
            check=True,
            capture_output=True,
        )
        with (
            pod_socket(world, socket.AF_INET, socket.SOCK_DGRAM) as logger,
            run(pod, LISTEN, "514") as listener,
        ):
            assert listener.stdout is not None
            assert listener.stdout.readline() == "ready\n"
            for _ in range(TIMES):
                logger.sendto(bytes(SIZE), (HERE, 514))
        node.quiet()
        samples = eventually(agent, lambda s: (unbooked(s, opening), unnamed(s)), (0, 0))
        assert not any(gaps(samples).values())
    sent = TIMES * (SIZE + HEADERS)
    assert pods(samples, "shop", "hostmon") == (sent, sent)  # what it heard, it never answered
    egress, ingress = pods(samples, "systemd", "ptl-demo.service")
    assert egress > sent  # its datagrams, and what its server acknowledged
    assert ingress > TIMES * SIZE
    ping = value(samples, "podtally_flow_bytes_total", workload="host", protocol="icmp")
    assert ping == 2 * 3 * 98
    served = value(samples, "podtally_connections_total", workload="ptl-demo.service", port="8080")
    assert served == 1


def unbooked(samples: Samples, opening: Counters) -> int:
    """Bytes that the links counted and the books do not have yet."""
    now, books = counters(), booked(samples)
    return sum(now[key] - opening.get(key, 0) for key in now) - sum(books.values())


def unnamed(samples: Samples) -> int:
    """Bytes of the uplink that no owner's name has yet."""
    whole = sum(
        int(value(samples, "podtally_books_bytes_total", interface=UPLINK, direction=d))
        for d in ("egress", "ingress")
    )
    names = (("shop", "hostmon"), ("systemd", "ptl-demo.service"), ("host", "host"))
    return whole - sum(sum(pods(samples, *name)) for name in names)


def test_what_passes_is_booked_under_the_pod_alone(node: Node, make_agent: MakeAgent) -> None:
    with ExitStack() as stack:
        world = stack.enter_context(uplink(node))
        web = node.routed_pod("web", 5)
        ip("-n", world.netns, "route", "add", "10.99.5.0/30", "via", HERE)
        agent = make_agent("--interfaces", f"ptl-*,{UPLINK}")
        opening = node.quiet()
        agent.start()
        agent.wait_ready()
        with (
            pod_socket(web, socket.AF_INET, socket.SOCK_DGRAM) as there,
            pod_socket(world, socket.AF_INET, socket.SOCK_DGRAM) as back,
        ):
            there.bind((web.ipv4, 9))
            back.bind((THERE, 9))
            for _ in range(TIMES):
                there.sendto(bytes(SIZE), (THERE, 9))
                back.recv(2000)
                back.sendto(bytes(SIZE), (web.ipv4, 9))
                there.recv(2000)
        node.quiet()
        samples = eventually(agent, lambda s: unbooked(s, opening), 0)
        assert not any(gaps(samples).values())
        assert pods(samples, "netns", web.netns) == own_counters(web)
    moved = 2 * TIMES * (SIZE + HEADERS)
    assert value(samples, "podtally_flow_bytes_total", protocol="udp", port="9") == moved
    passed = value(samples, "podtally_books_bytes_total", interface=UPLINK, account="flows")
    assert passed == moved
    assert sum(pods(samples, "host", "host")) == value(
        samples, "podtally_books_bytes_total", interface=UPLINK, account="other"
    )
