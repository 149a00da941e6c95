# SPDX-License-Identifier: Apache-2.0
"""Exact books under mixed load, kill -9, upgrades, a full table and churn.

Every scenario runs the real agent over pods in network namespaces, and ends by holding
its books against the links' own counters, read before its first start and after the
last packet.
"""

import argparse
import random
import shutil
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import steady
from bench.report import Cell, Report, progress, show
from tests.e2e.agents import SOURCES, Agent, Places, Scraper, assert_books_close, gaps, value
from tests.e2e.churn import Churn, churn, footprint
from tests.e2e.conftest import free_port
from tests.e2e.pods import Counters, Node, counters, node, pod_socket
from tests.e2e.traffic import flood, mixed
from tests.e2e.upgrade import other_release
from tests.kernel import packets

EXAMPLE = "scripts/bench soak --seconds 60 --kills 100"
COLUMNS = ("scenario", "attach", "figure", "value", "target", "ok")
PIN_DIR = Path("/sys/fs/bpf/ptl-soak")
RATE = 50_000  # packets/s of the full table
TAGGED_FRAMES = 23
GROWTH_MIB = 4  # the series of pods that are gone stay for the grace, some 16 KiB for each
UPGRADE_KILLS = 20  # for each hundred of --kills
AF_PACKET, SOCK_RAW = 17, 3


@dataclass
class Stage:
    """One scenario's node and agent, and the rows that it fills."""

    name: str
    attach: str
    report: Report
    node: Node
    agent: Agent
    opening: Counters
    scraper: Scraper

    def row(self, figure: str, number: Cell, target: Cell = "", ok: bool = True) -> None:
        self.report.rows.append((self.name, self.attach, figure, number, target, ok))

    def close(self) -> None:
        """The rows that all scenarios have; call when the traffic has stopped."""
        closing = self.node.quiet()
        self.agent.wait_ready()
        try:
            samples, words = assert_books_close(self.agent, self.opening), ""
        except AssertionError as error:
            samples, words = self.agent.samples(), str(error).partition("\n")[0]
        moved = sum(closing.values()) - sum(self.opening.values())
        worst = max((abs(gap) for gap in gaps(samples).values()), default=0)
        self.row("bytes counted by the links", moved)
        self.row("largest gap, bytes", worst, 0, worst == 0)
        self.row("books equal the links' counters", words or "all", "all", not words)
        for fault in self.scraper.faults[:5]:
            progress(fault)
        faults = len(self.scraper.faults)
        self.row(f"series that went down in {self.scraper.scrapes} scrapes", faults, 0, not faults)
        self.row("longest scrape, s", self.scraper.longest)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=60.0, help="of mixed load, and of churn")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--dead", type=float, default=30.0, help="seconds left dead, once")
    parser.add_argument("--pods", type=int, default=200, help="that come and go")
    parser.add_argument("--attach", choices=("tcx", "clsact", "both"), default="both")
    parser.add_argument(
        "--churn", action="store_true", help="only this: a pod a second, and what the agent holds"
    )
    parser.add_argument("--only", choices=tuple(SCENARIOS), help="one scenario")
    parser.add_argument("--seed", type=int, default=23)


def main(arguments: argparse.Namespace) -> int:
    if arguments.churn:
        return steady.main(arguments)
    report = Report(COLUMNS, [])
    chosen = [arguments.only] if arguments.only else list(SCENARIOS)
    modes = ("tcx", "clsact") if arguments.attach == "both" else (arguments.attach,)
    for name in chosen:
        for attach in modes:
            progress(f"{name}, {attach}")
            try:
                with stage(name, attach, report) as each:
                    SCENARIOS[name](each, arguments)
            except AssertionError as error:  # go on with the other scenarios
                progress(str(error))
                report.rows.append((name, attach, "ended early", "yes", "no", False))
    show(report, arguments.output)
    return 0 if report.met else 1


@contextmanager
def stage(name: str, attach: str, report: Report) -> Iterator[Stage]:
    """A node, at rest, and an agent that has not been started."""
    with node() as made, tempfile.TemporaryDirectory(prefix="podtally-soak-") as scratch:
        places = Places(PIN_DIR, Path(scratch) / "state", free_port())
        agent = Agent(places, ("--attach", attach), log=Path(scratch) / "agent.log")
        scraper = Scraper(places.url)
        for pod in () if name == "churn" else "abc":
            made.bridged_pod(pod)
        try:
            yield Stage(name, attach, report, made, agent, made.quiet(), scraper)
        finally:
            agent.end()
            try:
                agent.detach()
            finally:
                shutil.rmtree(PIN_DIR, ignore_errors=True)


# -- the scenarios ----------------------------------------------------------------------


def mixed_load(on: Stage, arguments: argparse.Namespace) -> None:
    on.agent.start()
    on.agent.wait_ready()
    with on.scraper.running(), mixed(on.node, "--fast"):
        time.sleep(arguments.seconds)
    on.close()


def kills(on: Stage, arguments: argparse.Namespace) -> None:
    chance = random.Random(arguments.seed)
    on.agent.start()
    on.agent.wait_ready()
    with on.scraper.running(), mixed(on.node):
        for kill in range(arguments.kills):
            if kill % 2:  # else it may be killed while it starts, too
                on.agent.wait_ready()
            time.sleep(chance.uniform(0, 1))
            on.agent.kill()
            if kill == arguments.kills // 2:
                progress(f"left dead for {arguments.dead:.0f} s")
                time.sleep(arguments.dead)
            on.agent.start()
        on.agent.wait_ready()
    on.row("kills", arguments.kills)
    on.close()


def upgrades(on: Stage, arguments: argparse.Namespace) -> None:
    """To another flow layout and back, killed in the middle of it most times."""
    chance = random.Random(arguments.seed)
    times = max(4, arguments.kills * UPGRADE_KILLS // 100)
    releases = (other_release(on.agent.places.state_dir.parent), SOURCES)
    on.agent.start()
    on.agent.wait_ready()
    with on.scraper.running(), mixed(on.node):
        for upgrade in range(times):
            on.agent.kill()
            on.agent.forget_said()
            on.agent.sources = releases[upgrade % 2]
            on.agent.start()
            on.agent.wait_said("compiled and loaded", "taking over", "watching")
            time.sleep(chance.uniform(0, 0.4))
        on.agent.wait_ready()
    on.row("upgrades killed", times)
    on.row("changes of generation", on.agent.said().count("the kernel programs have changed"))
    on.close()


def full_table(on: Stage, arguments: argparse.Namespace) -> None:
    on.agent.start("--max-flows", "1024")
    on.agent.wait_ready()
    a, b = on.node.pods["a"], on.node.pods["b"]
    with on.scraper.running():
        reached = flood(a, b, int(RATE * min(arguments.seconds, 20)), RATE)
    on.close()
    on.row("packets/s into 20,000 flows", reached)
    closing, samples = counters(), on.agent.samples()
    for key in (("ptl-a", "egress"), ("ptl-b", "ingress")):
        labels = dict(zip(("interface", "direction"), key, strict=True))
        over = value(samples, "podtally_books_bytes_total", account="overflow", **labels)
        share = over / (closing[key] - on.opening[key])
        on.row(f"overflow, {' '.join(key)}, share", share, "> 0", share > 0)
    for pod in (a, b):
        for direction in ("egress", "ingress"):
            key = (pod.link, direction)
            reported = value(
                samples, "podtally_pod_bytes_total", pod=pod.netns, direction=direction
            )
            off = int(reported) - closing[key] + on.opening[key]
            on.row(f"pod total less counter, {' '.join(key)}", off, 0, off == 0)


def churned(on: Stage, arguments: argparse.Namespace) -> None:
    with churn(on.node, PIN_DIR, on.attach) as coming:
        _churned(on, coming, arguments)


def _churned(on: Stage, coming: Churn, arguments: argparse.Namespace) -> None:
    on.opening = on.node.quiet()
    on.agent.start()
    on.agent.wait_ready()
    assert on.agent.process is not None
    pid, third = on.agent.process.pid, arguments.pods // 3
    started = time.monotonic()
    with on.scraper.running():
        coming.run(third, arguments.seconds / 3)
        before = footprint(pid)
        coming.run(arguments.pods - third, arguments.seconds * 2 / 3)
        took = time.monotonic() - started
        time.sleep(1)
        after = footprint(pid)
    misfits = coming.misfits(on.agent.samples())
    for pod, (own, booked) in list(misfits.items())[:5]:
        progress(f"{pod}: its own end counts {own}, booked are {booked}")
    on.row(f"pods not booked as they count, of {len(coming.moved)}", len(misfits), 0, not misfits)
    on.row("of them, sent before they were watched", len(coming.late))
    on.row("seconds that the pods took", took)
    grown = after.fds - before.fds
    on.row("file descriptors more than after a third", grown, 0, grown <= 0)
    on.row("anonymous memory, MiB", after.anonymous_kb / 1024)
    growth = (after.anonymous_kb - before.anonymous_kb) / 1024
    on.row("of it more than after a third, MiB", growth, GROWTH_MIB, growth <= GROWTH_MIB)
    expected = 2 if on.attach == "tcx" else 0  # the sink's
    left = len(list((PIN_DIR / "links").iterdir())) - expected
    on.row("pinned links left behind", left, 0, left == 0)
    on.close()


def tagged_frames(on: Stage, arguments: argparse.Namespace) -> None:
    """The tag of a frame that carries it in its data is taken out between the link's counter
    and the tc hook; the books find its 4 bytes by the counter.
    """
    on.agent.start()
    on.agent.wait_ready()
    frame = packets.vlan(packets.ipv4(packets.UDP, packets.ports(more=23)))
    frame = b"\xff" * 6 + struct.pack("!6B", 2, 0, 0, 0, 0, 1) + frame[12:]
    with pod_socket(on.node.pods["a"], AF_PACKET, SOCK_RAW) as raw:
        for _ in range(TAGGED_FRAMES):
            raw.sendto(frame, ("eth0", 0))
    on.close()


SCENARIOS: dict[str, Callable[[Stage, argparse.Namespace], None]] = {
    "mixed": mixed_load,
    "kills": kills,
    "upgrades": upgrades,
    "full-table": full_table,
    "churn": churned,
    "tagged": tagged_frames,
}
