# SPDX-License-Identifier: Apache-2.0
"""An agent over a node of pods that come and go: when it had their names, and when it was dead."""

import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.address_reuse import LONGEST_SECONDS, Lived, Soak
from tests.e2e.agents import Agent, Samples, value
from tests.e2e.kube_node import KubeNode, kubeconfig
from tests.e2e.kube_objects import NODE
from tests.e2e.pod_truth import Verdict, judge

Span = tuple[int, int]  # CLOCK_MONOTONIC, in ns
SECOND_NS = 1_000_000_000
FOREVER_NS = 1 << 62
BUSY_SECONDS = 90.0  # that a busy machine may take beside
_POD = re.compile(r'^podtally_pod_bytes_total\{[^}]*\bpod="([^"]*)"', re.MULTILINE)


def flags(node: KubeNode, folder: Path, epoch: float, name_wait: float) -> tuple[str, ...]:
    """The API is all that the agent has to name pods by."""
    return (
        *("--epoch", str(epoch), "--node-name", NODE, "--name-wait", str(name_wait)),
        *("--kubeconfig", str(kubeconfig(folder / "kubeconfig", node.api.url))),
        *("--cri-socket", "off", "--pod-logs", str(folder / "no-logs")),
        *("--series-limit", "100000", "--series-grace", "3600"),
    )


class NameWatch:
    """Looks for names on /metrics, and does not parse the rest: that takes a second of a CPU."""

    def __init__(self, agent: Agent, every: float = 0.2) -> None:
        self._agent, self._every = agent, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.first_ns: dict[str, int] = {}  # CLOCK_MONOTONIC

    @contextmanager
    def running(self) -> Iterator["NameWatch"]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join()

    def latest_seconds(self, lived: Iterable[Lived]) -> float:
        """The longest that a pod was there before its name was seen."""
        waits = [
            self.first_ns[each.pod.name] - each.linked_ns
            for each in lived
            if each.pod.name in self.first_ns
        ]
        return max(waits, default=0) / SECOND_NS

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            _, text = self._agent.get("/metrics")
            now_ns = time.monotonic_ns()
            for name in _POD.findall(text):
                self.first_ns.setdefault(name, now_ns)


@dataclass
class Outages:
    """Kills the agent and starts it again, and notes when it was away."""

    agent: Agent
    spans: list[Span] = field(default_factory=list)
    _starts: list[threading.Thread] = field(default_factory=list)

    def kill(self) -> None:
        began_ns = time.monotonic_ns()
        self.spans.append((began_ns, FOREVER_NS))
        self.agent.kill()
        self.agent.start()
        start = threading.Thread(target=self._ready, args=(len(self.spans) - 1,), daemon=True)
        start.start()
        self._starts.append(start)

    def wait_over(self) -> None:
        """Until the agent is there again: before that, nothing that it shows is its last word."""
        for start in self._starts:
            start.join()

    def _ready(self, number: int) -> None:
        with suppress(AssertionError):  # killed again before: the span stays open
            self.agent.wait_ready()
            self.spans[number] = (self.spans[number][0], time.monotonic_ns())


def excused(lived: Iterable[Lived], spans: Collection[Span], lag_seconds: float) -> set[str]:
    """Pods that the agent, or the API, may not have reported because it was away.

    An object is seen from ``lag_seconds`` after it came at the latest, for as long as the pod
    lives; if the agent is away just then, it never hears of the pod.
    """
    before_ns = int((lag_seconds + LONGEST_SECONDS + 1) * SECOND_NS)
    return {
        each.pod.name
        for each in lived
        if any(began - before_ns <= each.linked_ns <= ended for began, ended in spans)
    }


def settled(
    agent: Agent, soak: Soak, seconds: float, verdict_of: Callable[[Samples], Verdict]
) -> Verdict:
    """Wait until the last names have come; the verdict then.

    A wrong name shows only when it is given, so no connection may wait for one any more.
    """
    end = time.monotonic() + seconds + BUSY_SECONDS
    while True:
        samples = agent.samples()
        verdict = verdict_of(samples)
        waiting = value(samples, "podtally_waiting_connections")
        if (verdict.is_exact and not waiting) or time.monotonic() >= end:
            return verdict
        time.sleep(0.5)


def verdict_on(soak: Soak, but: Collection[str] = ()) -> Callable[[Samples], Verdict]:
    return lambda samples: judge(samples, soak.lived, but)
