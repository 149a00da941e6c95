# SPDX-License-Identifier: Apache-2.0
"""Pods that come and go and take each other's addresses, faster than the API reports them."""

import heapq
import itertools
import random
import select
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from tests.e2e.kube_node import POOL, SINKS, KubeNode, PodSpec, peer_of, spec
from tests.e2e.pod_life import Errand, Peer, Report

SHORTEST_SECONDS = 0.2
LONGEST_SECONDS = 2.0
PATIENCE_SECONDS = 120.0  # also on a loaded machine
HIDDEN_EVERY = 20  # one pod in this number is never heard of through the API
PAIR_EVERY = 5  # one pod in this number visits the one before
SIX_EVERY = 3  # one pod in this number has IPv6, and talks over it
# Between the runtime's making of the link and the start of the pod's process: the CNI plugins
# take longer than that to end, and then the sandbox has to be made.
START_SECONDS = 0.1


class Plan(NamedTuple):
    pods: int
    seconds: float
    seed: int = 23


class Lived(NamedTuple):
    """A pod that is gone, and what it says of itself."""

    pod: PodSpec
    linked_ns: int  # CLOCK_MONOTONIC; its link was made
    unlinked_ns: int  # its link is gone, and its address is free
    report: Report


class _Living(NamedTuple):
    pod: PodSpec
    linked_ns: int


class _Coming(NamedTuple):
    seconds: float  # after the beginning
    number: int


@dataclass
class Soak:
    """Runs in the calling thread; ``lived`` is the truth afterwards."""

    node: KubeNode
    plan: Plan
    sinks: tuple[PodSpec, ...]
    lived: list[Lived] = field(default_factory=list)
    late_seconds: float = 0.0  # the most that a pod came later than planned
    reuse_seconds: list[float] = field(
        default_factory=list
    )  # that addresses were free between pods
    _living: dict[str, _Living] = field(default_factory=dict)
    _free: list[int] = field(default_factory=lambda: list(POOL))
    _freed_ns: dict[int, int] = field(default_factory=dict)
    _coming: deque[_Coming] = field(default_factory=deque)
    _due: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=itertools.count)
    _host: PodSpec | None = None  # who is to be visited by the next

    def __post_init__(self) -> None:
        self._dice = random.Random(self.plan.seed)
        self._began = time.monotonic()

    def at(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something so long after the beginning; call before ``run``."""
        self._later(seconds, act)

    def run(self) -> None:
        """Until the last pod is gone, and the API knows it."""
        self._began = time.monotonic()
        plan = self.plan
        self._coming.extend(
            _Coming(number * plan.seconds / plan.pods, number) for number in range(plan.pods)
        )
        end = self._began + plan.seconds + LONGEST_SECONDS + PATIENCE_SECONDS
        while self._due or self._living or self._coming:
            assert time.monotonic() < end, f"never went: {sorted(self._living)}"
            self._turn()

    def come(self, name: str, life_seconds: float) -> None:
        """One pod more, that lives so long."""
        self._make(spec(name, self._take_address()), life_seconds, self._dice.random())

    def _turn(self) -> None:
        now = time.monotonic() - self._began
        due = [self._due[0][0]] if self._due else []
        # On a busy machine pods live longer: the next ones wait for an address, in their order.
        due += [self._coming[0].seconds] if self._coming and self._free else []
        wait = max(0.0, min([0.5, *(each - now for each in due)]))
        if select.select([self.node.host.out], [], [], wait)[0]:
            for report in self.node.host.reports():
                self._go(report)
        if self._due and self._due[0][0] <= time.monotonic() - self._began:
            heapq.heappop(self._due)[2]()
        if self._coming and self._free and self._coming[0].seconds <= now:
            self._come(*self._coming.popleft())

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (seconds, next(self._order), act))

    def _soon(self, seconds: float, act: Callable[[], None]) -> None:
        self._later(time.monotonic() - self._began + seconds, act)

    def _come(self, seconds: float, number: int) -> None:
        self.late_seconds = max(self.late_seconds, time.monotonic() - self._began - seconds)
        place = number % PAIR_EVERY
        visits, visited = place == PAIR_EVERY - 1, place == PAIR_EVERY - 2
        pair = number // PAIR_EVERY if visits or visited else number  # both talk the same way
        result = (number + HIDDEN_EVERY // 2) % HIDDEN_EVERY != 0
        pod = spec(f"p{number}", self._take_address(), pair % SIX_EVERY == 0, result)
        life = self._dice.choice((SHORTEST_SECONDS, self._dice.uniform(0.2, LONGEST_SECONDS)))
        friend = peer_of(self._host, self._host.six) if visits and self._host else None
        waits = int(visited and number + 1 < self.plan.pods)
        self._host = pod if waits else None
        self._make(pod, life, self._dice.random(), friend, waits)

    def _make(
        self, pod: PodSpec, life: float, seed: float, friend: Peer | None = None, visitors: int = 0
    ) -> None:
        self.node.report_admitted(pod)
        linked_ns = time.monotonic_ns()
        self.node.make(pod)
        self._living[pod.name] = _Living(pod, linked_ns)
        chosen = self._dice.sample(self.sinks, 2)
        errand = self.node.errand(
            pod,
            sinks=tuple(peer_of(sink, pod.six) for sink in chosen),
            seconds=life,
            friend=friend,
            visitors=visitors,
            seed=int(seed * (1 << 32)),
        )
        self._soon(START_SECONDS, partial(self._start, pod, errand))

    def _start(self, pod: PodSpec, errand: Errand) -> None:
        self.node.start(errand)
        self.node.report_running(pod)

    def _go(self, report: Report) -> None:
        assert not report.error, f"{report.name}: {report.error}"
        pod, linked_ns = self._living.pop(report.name)
        self.node.report_ended(pod)
        self.node.remove(pod)
        gone_ns = time.monotonic_ns()
        self.lived.append(Lived(pod, linked_ns, gone_ns, report))
        self._free.append(pod.number)
        self._freed_ns[pod.number] = gone_ns
        # the kubelet lets the API forget a pod when it has cleaned up behind it
        self._soon(self._dice.uniform(0.0, 0.3), partial(self.node.report_deleted, pod))

    def _take_address(self) -> int:
        """In turn the address that was freed last, and the one that is free for the longest."""
        number = self._free.pop(self._dice.choice((0, -1)))
        if freed_ns := self._freed_ns.get(number):
            self.reuse_seconds.append((time.monotonic_ns() - freed_ns) / 1e9)
        return number


@contextmanager
def sinks(node: KubeNode) -> Iterator[tuple[PodSpec, ...]]:
    """The pods that stay, and that all others talk to."""
    made = tuple(spec(f"sink-{number}", number, six=True) for number in SINKS)
    for pod in made:
        node.report_admitted(pod)
        node.make(pod)
        node.pin(pod)
        node.start(node.errand(pod))
        node.report_running(pod)
    yield made
