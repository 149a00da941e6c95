# SPDX-License-Identifier: Apache-2.0
"""Pods that are made, send at once, and are removed, one after the other."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from podtally.attach.attacher import Attacher
from tests.e2e.agents import Samples, value
from tests.e2e.pods import Node, Pod, own_counters, pod_socket, until_up

DISCARD = 9
SINK_NUMBER = 250  # its link is 10.99.250.0/30
NUMBERS = 240  # of links that pods take in turn
DATAGRAMS = 23
# Between a pod's network and its first process: runtimes make the sandbox then, and take longer.
START_SECONDS = 0.05
WATCHED_SECONDS = 60.0
HEADERS = 42  # Ethernet, IPv4, UDP


class Moved(NamedTuple):
    sent: int  # bytes, as the pod's own end counts
    received: int


@dataclass
class Churn:
    """``moved`` is what every pod had sent and received just before it was removed.

    ``late`` are the pods that sent before the agent watched them: a host under load takes longer
    for that than the time that a runtime leaves. With ``patient``, pods wait for it.
    """

    node: Node
    sink: Pod
    attacher: Attacher
    patient: bool
    moved: dict[str, Moved] = field(default_factory=dict)
    late: set[str] = field(default_factory=set)

    def one(self, number: int) -> None:
        """The whole life of a pod."""
        name = f"p{number}"
        pod = self.node.routed_pod(name, 1 + number % NUMBERS)
        time.sleep(START_SECONDS)
        until_up(pod.link)
        until_up("eth0", pod.netns)
        self._await_watched(pod)
        size = 100 + number % 1000
        with (
            pod_socket(pod, socket.AF_INET, socket.SOCK_DGRAM) as there,
            pod_socket(self.sink, socket.AF_INET, socket.SOCK_DGRAM) as back,
        ):
            there.bind((pod.ipv4, DISCARD))
            for _ in range(DATAGRAMS):
                there.sendto(bytes(size), (self.sink.ipv4, DISCARD))
                back.sendto(bytes(size), (pod.ipv4, DISCARD))
            self.moved[pod.netns] = arrived(pod, DATAGRAMS * (size + HEADERS))
        self.node.remove(name)

    def _await_watched(self, pod: Pod) -> None:
        ifindex, end = socket.if_nametoindex(pod.link), time.monotonic() + WATCHED_SECONDS
        while not self.attacher.attached(ifindex):
            if not self.patient:
                self.late.add(pod.netns)
                return
            assert time.monotonic() < end, f"{pod.link} is not watched"
            time.sleep(0.002)

    def run(self, pods: int, seconds: float) -> None:
        """Add pods, evenly over the time."""
        started, first = time.monotonic(), len(self.moved)
        for number in range(pods):
            self.one(first + number)
            time.sleep(max(0.0, started + (number + 1) * seconds / pods - time.monotonic()))

    def misfits(self, samples: Samples) -> dict[str, tuple[Moved, Moved]]:
        """Pods with bytes that are not booked under their name, though they were watched: what
        they moved, what is booked.
        """
        booked = {pod: _booked(samples, pod) for pod in self.moved if pod not in self.late}
        return {
            pod: (own, booked[pod])
            for pod, own in self.moved.items()
            if booked.get(pod, own) != own
        }


def arrived(pod: Pod, least: int, seconds: float = 60.0) -> Moved:
    """What the pod's own end counts when all is through; a neighbour may have to be found first."""
    end = time.monotonic() + seconds
    while min(moved := Moved(*own_counters(pod))) < least:
        assert time.monotonic() < end, f"{pod.netns} has moved {moved} only"
        time.sleep(0.002)
    return moved


@contextmanager
def churn(
    node: Node, pin_dir: Path, attach: str = "auto", patient: bool = False
) -> Iterator[Churn]:
    attacher = Attacher(pin_dir, {}, attach)
    try:
        yield Churn(node, node.routed_pod("sink", SINK_NUMBER), attacher, patient)
    finally:
        attacher.close()


def _booked(samples: Samples, pod: str) -> Moved:
    name = "podtally_pod_bytes_total"
    return Moved(
        *(int(value(samples, name, pod=pod, direction=each)) for each in ("egress", "ingress"))
    )


class Footprint(NamedTuple):
    """What a process holds."""

    fds: int
    anonymous_kb: int  # without the mapped tables


def footprint(pid: int, seconds: float = 1.0) -> Footprint:
    """The fewest descriptors within this time: a checkpoint that is just written has one more."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon:"))
    end, fds = time.monotonic() + seconds, len(os.listdir(f"/proc/{pid}/fd"))
    while time.monotonic() < end:
        time.sleep(0.01)
        fds = min(fds, len(os.listdir(f"/proc/{pid}/fd")))
    return Footprint(fds, int(line.split()[1]))
