# SPDX-License-Identifier: Apache-2.0
"""Names of pods that reuse addresses, with late answers, kills and no API for a while.

Each pod counts for itself what it moves, with whom; the agent has only interfaces, cgroups
and the late API. Pods without API objects have to be ``unknown``, and nothing else.
"""

import argparse
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.report import Cell, Report, progress, show
from tests.e2e.address_reuse import Plan, Soak, sinks
from tests.e2e.agents import Agent, Places, Scraper, assert_books_close, gaps
from tests.e2e.conftest import free_port
from tests.e2e.kube_node import kube_node
from tests.e2e.naming import (
    FOREVER_NS,
    SECOND_NS,
    NameWatch,
    Outages,
    Span,
    excused,
    flags,
    settled,
    verdict_on,
)
from tests.e2e.pod_truth import Verdict
from tests.e2e.pods import Counters

EXAMPLE = "scripts/bench reuse --pods 500 --seconds 60 --kills 3"
COLUMNS = ("figure", "value", "target", "ok")
PIN_DIR = Path(f"/sys/fs/bpf/ptl-reuse-{os.getpid()}")
NAME_WAIT_SECONDS = 10.0
NEW_TRUTH_SECONDS = 5.0
SCRAPE_SECONDS = 5.0  # parsing 10,000 series takes a second of a CPU
PACE_SECONDS = 1.0  # by which a pod may be late
AWAY_MARGIN_SECONDS = 10.0  # with the API, before it goes and after it is back
LATE_POD = "late"  # comes while the API is away, and is still there when it is back
LATE_POD_SECONDS = 2.0  # before the API is back


@dataclass
class Stage:
    """One run; ``away``: when the API was away."""

    soak: Soak
    agent: Agent
    opening: Counters
    scraper: Scraper
    names: NameWatch
    outages: Outages
    away: list[Span] = field(default_factory=list)

    def go_away(self) -> None:
        progress("the API goes away")
        self.away.append((time.monotonic_ns(), FOREVER_NS))
        self.soak.node.api.away()

    def come_back(self, lose_history: bool) -> None:
        progress("the API is back")
        if lose_history:
            self.soak.node.api.store.compact()
        self.soak.node.api.back()
        self.away[-1] = (self.away[-1][0], time.monotonic_ns())

    def excused(self, lag: float) -> set[str]:
        return excused(self.soak.lived, [*self.outages.spans, *self.away], lag)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pods", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=60.0, help="that the pods come in")
    parser.add_argument(
        "--lag", type=float, default=5.0, help="seconds that the API is late, at most"
    )
    parser.add_argument("--kills", type=int, default=0, help="kill -9 of the agent")
    parser.add_argument("--away", type=float, default=0.0, help="seconds without an API, amid it")
    parser.add_argument(
        "--lose-history", action="store_true", help="of the API, while it is away: 410 Gone"
    )
    parser.add_argument("--epoch", type=float, default=1.0)
    parser.add_argument("--attach", choices=("auto", "tcx", "clsact"), default="auto")
    parser.add_argument("--seed", type=int, default=23)


def main(arguments: argparse.Namespace) -> int:
    report = Report(COLUMNS, [])
    with stage(arguments) as on:
        _arrange(on, arguments)
        progress(f"{arguments.pods} pods in {on.soak.plan.seconds:.0f} s")
        with on.scraper.running(), on.names.running():
            on.soak.run()
            but = on.excused(arguments.lag)
            progress("waiting for the last names")
            wait = NAME_WAIT_SECONDS + arguments.lag + 5.0
            verdict = settled(on.agent, on.soak, wait, verdict_on(on.soak, but))
        _rows(report, on, verdict, but)
    show(report, arguments.output)
    return 0 if report.met else 1


@contextmanager
def stage(arguments: argparse.Namespace) -> Iterator[Stage]:
    """A node with sinks, at rest, and an agent that watches it."""
    with kube_node() as node, tempfile.TemporaryDirectory(prefix="podtally-reuse-") as scratch:
        folder = Path(scratch)
        places = Places(PIN_DIR, folder / "state", free_port())
        seconds = max(arguments.seconds, arguments.away + 2 * AWAY_MARGIN_SECONDS)
        words = flags(node, folder, arguments.epoch, NAME_WAIT_SECONDS)
        agent = Agent(places, (*words, "--attach", arguments.attach), log=folder / "agent.log")
        try:
            with sinks(node) as those:
                opening = node.node.quiet()
                agent.start()
                agent.wait_ready()
                node.api.lag_seconds = arguments.lag
                soak = Soak(node, Plan(arguments.pods, seconds, arguments.seed), those)
                scraper = Scraper(places.url, SCRAPE_SECONDS)
                yield Stage(soak, agent, opening, scraper, NameWatch(agent), Outages(agent))
        finally:
            agent.end()
            try:
                agent.detach()
            finally:
                shutil.rmtree(PIN_DIR, ignore_errors=True)


def _arrange(on: Stage, arguments: argparse.Namespace) -> None:
    """Return what happens during the run."""
    chance, seconds = random.Random(arguments.seed), on.soak.plan.seconds
    for kill in range(arguments.kills):
        on.soak.at(seconds * (kill + chance.uniform(0.2, 0.9)) / arguments.kills, on.outages.kill)
    if arguments.away:
        gone = (seconds - arguments.away) / 2
        back = gone + arguments.away
        life = LATE_POD_SECONDS + NEW_TRUTH_SECONDS + arguments.lag + 2.0
        on.soak.at(gone, on.go_away)
        on.soak.at(back - LATE_POD_SECONDS, lambda: on.soak.come(LATE_POD, life))
        on.soak.at(back, lambda: on.come_back(arguments.lose_history))


def _rows(report: Report, on: Stage, verdict: Verdict, but: set[str]) -> None:
    def row(figure: str, value: Cell, target: Cell = "", ok: bool = True) -> None:
        report.rows.append((figure, value, target, ok))

    soak, scraper, samples = on.soak, on.scraper, on.agent.samples()
    whole = not on.outages.spans
    row("pods", len(soak.lived))
    row("of them never reported by the API", sum(not each.pod.has_object for each in soak.lived))
    row("bytes that they moved", sum(x.report.sent + x.report.received for x in soak.lived))
    row("a pod was late by, s", soak.late_seconds, PACE_SECONDS, soak.late_seconds < PACE_SECONDS)
    row("an address was free for, least, ms", min(soak.reuse_seconds) * 1000)
    row("an address was free for, median, ms", statistics.median(soak.reuse_seconds) * 1000)
    if on.outages.spans or on.away:
        row("kills", len(on.outages.spans))
        row("pods that came about then", len(but))
    for misfit in [*verdict.wrong[:10], *verdict.short[:10]]:
        progress(str(misfit))
    row(
        "bytes under a wrong name",
        sum(m.booked - m.own for m in verdict.wrong),
        0,
        not verdict.wrong,
    )
    row("bytes missing", sum(m.own - m.booked for m in verdict.short), 0, not verdict.short)
    rightly, unknown = verdict.unknown_own_bytes, verdict.unknown_bytes
    is_right = unknown == rightly or bool(but)
    row("bytes booked unknown", unknown, rightly if not but else f">= {rightly}", is_right)
    worst = max((abs(gap) for gap in gaps(samples).values()), default=0)
    row("largest gap, bytes", worst, 0, worst == 0)
    if whole:
        row("books equal the links' counters", *_closing(on))
    faults = len(scraper.faults)
    row(f"series that went down in {scraper.scrapes} scrapes", faults, 0, not faults)
    row("latest name, s after the link", on.names.latest_seconds(soak.lived))
    if on.away:
        seconds = (on.names.first_ns.get(LATE_POD, FOREVER_NS) - on.away[0][1]) / SECOND_NS
        is_soon = seconds <= NEW_TRUTH_SECONDS
        row("new truth, s after the API is back", seconds, NEW_TRUTH_SECONDS, is_soon)
    row("agent's RSS, MiB", _rss_mib(on.agent))
    row("errors in its log", errors := on.agent.said().count("ERROR"), 0, not errors)


def _closing(on: Stage) -> tuple[Cell, Cell, bool]:
    try:
        assert_books_close(on.agent, on.opening)
    except AssertionError as error:
        return str(error).partition("\n")[0], "all", False
    return "all", "all", True


def _rss_mib(agent: Agent) -> float:
    assert agent.process is not None
    pages = int(Path(f"/proc/{agent.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
