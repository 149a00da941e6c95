# SPDX-License-Identifier: Apache-2.0
"""What the kernel drops beside our programs is accounted for as drops: no gap, and no loss hidden."""

import ctypes
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from podtally.kernel import bpf
from tests.e2e.agents import Agent, Samples, booked, gaps, value
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Counters, Node, Pod, counters, dropped, ip, pod_socket
from tests.kernel.links_support import ifindex, inside, sh
from tests.kernel_version import needs_tcx

XDP, DROP, PASS = 6, 1, 2
SCHED_CLS, TC_ACT_SHOT = 3, 2
KINDS = {"before_hook": 1, "after_hook": -1, "header": -1}


@contextmanager
def xdp_program(directory: Path, result: int) -> Iterator[Path]:
    """A pinned program that only returns ``result``."""
    pin = directory / f"ptl-xdp-{result}"
    with bpf.owned(load(XDP, result)) as fd:
        bpf.obj_pin(fd, pin)
    try:
        yield pin
    finally:
        with suppress(FileNotFoundError):
            pin.unlink()


def load(kind: int, result: int) -> int:
    """Load a program that does nothing but return ``result``; returns its descriptor."""
    move_and_exit = struct.pack("=BBhiBBhi", 0xB7, 0, 0, result, 0x95, 0, 0, 0)
    code = ctypes.create_string_buffer(move_and_exit, len(move_and_exit))
    terms = ctypes.create_string_buffer(b"GPL")
    attr = bytearray(144)
    struct.pack_into("=IIQQ", attr, 0, kind, 2, ctypes.addressof(code), ctypes.addressof(terms))
    return bpf.bpf(bpf.PROG_LOAD, attr)


def assert_books_close(agent: Agent, opening: Counters, seconds: float = 10.0) -> Samples:
    """Booked, and dropped before, less what was dropped after, is what the links counted."""
    end = time.monotonic() + seconds
    while True:
        closing, samples = counters(), agent.samples()
        sums = booked(samples)
        for (interface, direction), _ in sums.items():
            labels = {"interface": interface, "direction": direction}
            for kind, sign in KINDS.items():
                sums[interface, direction] += sign * drops(samples, kind=kind, **labels)
        moved = {key: now - opening.get(key, 0) for key, now in closing.items()}
        if sums == moved and not any(gaps(samples).values()):
            return samples
        assert time.monotonic() < end, f"{sums}\n{moved}\n{gaps(samples)}\n{agent.said()}"
        time.sleep(0.1)


def drops(samples: Samples, **labels: str) -> int:
    return int(value(samples, "podtally_books_drops_bytes_total", **labels))


def send(address: str, count: int, size: int = 1000) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(count):
            sock.sendto(bytes(size), (address, 9))


@pytest.fixture
def pod(node: Node) -> Pod:
    pod = node.routed_pod("a", 1)
    ip("neigh", "replace", pod.ipv4, "dev", pod.link, "lladdr", "02:00:00:00:00:02")
    with inside(pod.netns):
        ip("neigh", "replace", "10.99.1.1", "dev", "eth0", "lladdr", "02:00:00:00:00:01")
    return pod


@pytest.fixture
def agent(make_agent: MakeAgent, pod: Pod) -> Agent:
    return make_agent()


def started(agent: Agent, node: Node) -> Counters:
    opening = node.quiet()
    agent.start()
    agent.wait_ready()
    return opening


def test_what_a_pod_with_its_end_down_never_gets(node: Node, agent: Agent, pod: Pod) -> None:
    opening = started(agent, node)
    ip("-n", pod.netns, "link", "set", "eth0", "down")
    send(pod.ipv4, 3)
    node.quiet()
    samples = assert_books_close(agent, opening)
    assert dropped()[pod.link] >= 3
    assert drops(samples, interface=pod.link, direction="ingress", kind="after_hook") >= 3 * 1042
    # The next frame that arrives corrects the pod's total.
    ip("-n", pod.netns, "link", "set", "eth0", "up")
    send(pod.ipv4, 23)
    node.quiet()
    samples = assert_books_close(agent, opening)
    of_pod = {"namespace": "netns", "pod": pod.netns, "direction": "ingress"}
    arrived = counters()[pod.link, "ingress"] - opening[pod.link, "ingress"]
    assert value(samples, "podtally_pod_bytes_total", **of_pod) == arrived


QDISCS = {
    "shaped": "tbf rate 4mbit burst 20k latency 50ms",
    "a child drops": "tbf rate 4mbit burst 20k limit 1000000",
}


@pytest.mark.parametrize("qdisc", QDISCS)
def test_what_a_qdisc_drops(node: Node, agent: Agent, pod: Pod, qdisc: str) -> None:
    opening = started(agent, node)
    sh(f"tc qdisc add dev {pod.link} root handle 1: {QDISCS[qdisc]}")
    if qdisc == "a child drops":
        sh(f"tc qdisc add dev {pod.link} parent 1:1 handle 2: pfifo limit 5")
    for _ in range(5):
        send(pod.ipv4, 300)
        time.sleep(0.2)  # some epochs see the queue
    node.quiet()
    samples = assert_books_close(agent, opening)
    assert drops(samples, interface=pod.link, direction="ingress", kind="after_hook") > 100_000
    where = {"interface": pod.link, "direction": "ingress", "where": "after_hook"}
    assert value(samples, "podtally_interface_drops_total", **where) > 0
    assert drops(samples, direction="egress") == 0
    sh(f"tc qdisc del dev {pod.link} root")
    send(pod.ipv4, 23)
    node.quiet()
    assert_books_close(agent, opening)


@pytest.mark.parametrize("result", [DROP, PASS])
def test_a_program_at_xdp_in_the_pod(
    node: Node, agent: Agent, pod: Pod, bpffs: Path, result: int
) -> None:
    """The veth then counts what the pod gets without the Ethernet headers."""
    opening = started(agent, node)
    with xdp_program(bpffs, result) as pin:
        command = ["ip", "link", "set", "dev", "eth0", "xdp", "pinned", str(pin)]
        subprocess.run(["nsenter", f"--net=/run/netns/{pod.netns}", *command], check=True)
        send(pod.ipv4, 23)
        node.quiet()
        samples = assert_books_close(agent, opening)
    assert drops(samples, interface=pod.link, direction="ingress", kind="header") >= 14 * 23


def test_a_program_at_xdp_on_the_hosts_end(node: Node, agent: Agent, pod: Pod, bpffs: Path) -> None:
    """The driver counts what it drops; and the program is reported."""
    opening = started(agent, node)
    with xdp_program(bpffs, DROP) as pin:
        sh(f"ip link set dev {pod.link} xdp pinned {pin}")
        with pod_socket(pod, socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(23):
                sock.sendto(bytes(1000), ("10.99.1.1", 9))
        node.quiet()
        samples = assert_books_close(agent, opening)
        assert drops(samples, interface=pod.link, direction="egress", kind="before_hook") > 23_000
    sh(f"ip link set dev {pod.link} xdp off")


@needs_tcx
def test_drops_hide_no_loss(node: Node, agent: Agent, pod: Pod) -> None:
    """Frames that another program took away in front of ours stay a gap, drops or not."""
    started(agent, node)
    sh(f"tc qdisc add dev {pod.link} root tbf rate 1mbit burst 10k latency 10ms")
    send(pod.ipv4, 300)
    node.quiet()
    with (
        bpf.owned(load(SCHED_CLS, TC_ACT_SHOT)) as fd,
        bpf.owned(bpf.tcx_attach(fd, ifindex(pod.link), bpf.TCX_INGRESS)),
        pod_socket(pod, socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.sendto(bytes(958), ("10.99.1.1", 9))
        node.quiet()
    end = time.monotonic() + 5
    while gaps(agent.samples())[pod.link, "egress"] != 1000:
        assert time.monotonic() < end, gaps(agent.samples())
        time.sleep(0.1)
