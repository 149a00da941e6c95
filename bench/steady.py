# SPDX-License-Identifier: Apache-2.0
"""Memory and descriptors of an agent over a long time, with one new pod a second."""

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.report import Report, progress, show
from tests.e2e.agents import Agent, Places, assert_books_close, gaps
from tests.e2e.churn import churn
from tests.e2e.conftest import free_port
from tests.e2e.pods import node

COLUMNS = ("figure", "measured", "asked", "ok")
PIN_DIR = Path("/sys/fs/bpf/ptl-steady")
PODS_A_SECOND = 1.0
GRACE_SECONDS = 300.0  # series of pods that are gone stay so long; less in a short run
GRACES = 6  # in a run that is shorter than that many
SAMPLE_SECONDS = 2.0
GROWTH_MIB_AN_HOUR = 5.0
BOOKED_SECONDS = 30.0  # until the last pod is booked
RECENT_PODS = 100  # their series are still there


class Sample(NamedTuple):
    seconds: float
    anonymous_kb: int  # without the mapped tables
    fds: int


class Sampler:
    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._started = time.monotonic()
        self.samples: list[Sample] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        stop = threading.Event()

        def run() -> None:
            while not stop.wait(SAMPLE_SECONDS):
                self._take()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _take(self) -> None:
        status = Path(f"/proc/{self._pid}/status").read_text().splitlines()
        (line,) = (each for each in status if each.startswith("RssAnon:"))
        fds = len(os.listdir(f"/proc/{self._pid}/fd"))
        now = time.monotonic() - self._started
        self.samples.append(Sample(now, int(line.split()[1]), fds))
        if len(self.samples) % 30 == 0:
            progress(f"{now:.0f} s: {int(line.split()[1]) / 1024:.1f} MiB, {fds} descriptors")

    def after(self, seconds: float) -> list[Sample]:
        return [each for each in self.samples if each.seconds >= seconds]


def main(arguments: argparse.Namespace) -> int:
    report, seconds = Report(COLUMNS, []), arguments.seconds
    grace = min(GRACE_SECONDS, seconds / GRACES)
    settle = min(GRACE_SECONDS, 2 * grace)
    attach = "auto" if arguments.attach == "both" else arguments.attach
    with ExitStack() as opened:
        made = opened.enter_context(node())
        scratch = opened.enter_context(tempfile.TemporaryDirectory(prefix="podtally-steady-"))
        agent = Agent(
            Places(PIN_DIR, Path(scratch) / "state", free_port()),
            (
                *("--attach", attach, "--series-grace", str(grace)),
                *("--flow-log", str(Path(scratch) / "flows")),
            ),
            log=Path(scratch) / "agent.log",
        )
        coming = opened.enter_context(churn(made, PIN_DIR, attach))
        opening = made.quiet()
        try:
            agent.start()
            agent.wait_ready()
            assert agent.process is not None
            sampler = Sampler(agent.process.pid)
            with sampler.running():
                coming.run(int(seconds * PODS_A_SECOND), seconds)
            _fill(report, sampler.after(settle), len(coming.moved), settle)
            end = time.monotonic() + BOOKED_SECONDS
            while (misfits := coming.misfits(agent.samples())) and time.monotonic() < end:
                if not misfits.keys() & list(coming.moved)[-RECENT_PODS:]:
                    break
                time.sleep(0.5)
            recent = dict(list(coming.moved.items())[-RECENT_PODS:])
            wrong = sum(pod in misfits for pod in recent)
            late = sum(pod in coming.late for pod in recent)
            report.rows.append(
                (f"of the last {len(recent)} pods, sent before they were watched", late, "", True)
            )
            report.rows.append(
                ("of the others, booked differently from their own counts", wrong, 0, not wrong)
            )
            samples = assert_books_close(agent, opening, 30.0)
            worst = max((abs(gap) for gap in gaps(samples).values()), default=0)
            report.rows.append(("largest gap, bytes", worst, 0, worst == 0))
        finally:
            agent.end()
            agent.detach()
    show(report, arguments.output)
    return 0 if report.met else 1


def _fill(report: Report, samples: list[Sample], pods: int, settle: float) -> None:
    seconds, kb, fds = (np.array(column, float) for column in zip(*samples, strict=True))
    slope = float(np.polyfit(seconds, kb, 1)[0]) * 3600 / 1024
    half = len(fds) // 2
    # A checkpoint or a scrape has a descriptor of its own for a moment: the fewest are compared.
    grown = int(fds[half:].min() - fds[:half].min())
    report.rows.extend(
        [
            ("pods that came and went", pods, "", True),
            ("seconds measured", float(seconds[-1] - seconds[0]), "", True),
            ("anonymous memory, MiB, at first", kb[0] / 1024, "", True),
            ("anonymous memory, MiB, at last", kb[-1] / 1024, "", True),
            (
                f"growth after {settle:.0f} s, MiB an hour",
                slope,
                GROWTH_MIB_AN_HOUR,
                slope <= GROWTH_MIB_AN_HOUR,
            ),
            ("file descriptors, fewest", int(fds.min()), "", True),
            ("fewest in the second half more than in the first", grown, 0, grown <= 0),
        ]
    )
