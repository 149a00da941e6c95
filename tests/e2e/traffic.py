# SPDX-License-Identifier: Apache-2.0
"""Traffic of all kinds between pods, as processes inside their namespaces."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.e2e.agents import SOURCES
from tests.e2e.pods import Node, Pod

ROOT = Path(__file__).parents[2]
STREAMS = 4
FLOOD_SOURCES = 20  # ports; 1,000 flows each


@contextmanager
def running(pod: Pod, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a pod, which is ended here."""
    process = subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{pod.netns}", "setpriv", "--pdeathsig", "KILL", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={"PYTHONPATH": f"{SOURCES}:{ROOT}", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    try:
        yield process
    finally:
        early = process.poll()
        process.kill()
        _, words = process.communicate()
        if early is not None and early != 0:
            raise AssertionError(f"{command} ended early with {early}: {words.decode()}")


def chatter(pod: Pod, peer: Pod, *flags: str) -> tuple[str, ...]:
    ends = (pod.ipv4, peer.ipv4, pod.ipv6, peer.ipv6)
    return (sys.executable, "-m", "tests.e2e.chatter", *ends, *flags)


@contextmanager
def mixed(node: Node, *flags: str) -> Iterator[None]:
    """TCP in bulk, IPv4 and IPv6, both ways, and a bit of everything, among pods a, b and c."""
    a, b, c = (node.pods[name] for name in "abc")
    hour = ("-t", "3600")
    with ExitStack() as stack:
        for pod in (b, c):
            stack.enter_context(running(pod, "iperf3", "-s"))
        for pod, peer in ((a, b), (b, c), (c, a)):
            stack.enter_context(running(pod, *chatter(pod, peer, *flags)))
        time.sleep(0.5)  # until the servers listen
        streams = ("-P", str(STREAMS), "--bidir", *hour)
        stack.enter_context(running(a, "iperf3", "-c", b.ipv4, *streams))
        stack.enter_context(running(a, "iperf3", "-6", "-c", c.ipv6, "-b", "200M", *hour))
        yield


def flood(pod: Pod, peer: Pod, packets: int, rate: int) -> float:
    """Send to 20,000 UDP flows in turn, from two processes; returns the packets/s reached."""
    half = (str(FLOOD_SOURCES // 2), str(packets // 2), str(rate // 2))
    command = (sys.executable, "-m", "tests.e2e.flood", pod.ipv4, peer.ipv4)
    started = time.monotonic()
    with (
        running(pod, *command, "40000", *half) as one,
        running(pod, *command, "50000", *half) as other,
    ):
        for process in (one, other):
            assert process.wait(timeout=20 + 4 * packets / rate) == 0
    return packets / (time.monotonic() - started)
