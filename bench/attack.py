# SPDX-License-Identifier: Apache-2.0
"""One pod attacks the agent: are the denials of another reported in time, by name?

The attacker scans ports and addresses, floods, claims addresses and forges SYNs, all at
once, behind a real agent; the victim begins denied connections meanwhile. Nothing leaves
the network namespaces that are made for it.
"""

import argparse
import json
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.agent import cpu_seconds, memory
from bench.report import Cell, Report, progress, show
from bench.shares import AGENT_SHARES, ATTACKER_SHARES, group
from podtally.errors import PodtallyError
from tests.e2e.agents import Agent, Places, Samples, assert_books_close, value
from tests.e2e.conftest import free_port
from tests.e2e.pods import Node, Pod, counters, ip, node, pod_socket
from tests.e2e.policy_world import Static, configuration

EXAMPLE = "scripts/bench attack --seconds 30"
COLUMNS = ("figure", "measured", "asked", "ok")
PIN_DIR = Path("/sys/fs/bpf/ptl-attack")
SPRAY = Path(__file__).with_name("spray.c")
DENY_OUT = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: shut, namespace: shop}
spec: {podSelector: {}, policyTypes: [Egress]}
"""
NOWHERE = ("198.18.0.0/15", "203.0.113.0/24")  # what is sent there is dropped by the node
SCANNED, ADDRESSES, PORTS = "198.18.0.1", 200, 65535
FLOODED, FLOOD_ADDRESSES, FLOOD_RATE = "198.19.0.1", 60_000, 60_000
SCAN_RATE = 20_000
CLAIMS, FORGED = 10_000, 1000
DENIALS, DENIED_ADDRESSES = 100, 10
REPORTED_SECONDS = 2.0
CORES, RSS_MIB = 1.0, 200.0
LATE_SECONDS = "1.0"  # a bound of the histogram
SETTLE_SECONDS = 5.0
TCP, UDP = "6", "17"


@dataclass
class Watcher:
    """Reads the agent's events and metrics in its own thread."""

    agent: Agent
    events: Path
    event_at: dict[tuple[str, int], float] = field(default_factory=dict)  # by address and port
    metric_at: list[float] = field(default_factory=list)  # when the sum reached this count
    scans: int = 0  # events that sum up many
    peak_mib: float = 0.0
    failed_scrapes: int = 0
    _read: int = 0

    def look(self) -> None:
        self._look_at_events()
        self._look_at_metrics()
        assert self.agent.process is not None
        now = memory(self.agent.process.pid)
        self.peak_mib = max(self.peak_mib, now.rss - now.tables)

    def _look_at_events(self) -> None:
        with self.events.open("rb") as file:
            file.seek(self._read)
            *lines, rest = file.read().split(b"\n")
            self._read = file.tell() - len(rest)
        at = time.monotonic()
        for line in map(json.loads, lines):
            if line["endpoint"]["workload"] == "victim":
                self.event_at.setdefault((line["peer"]["address"], line["port"]), at)
            self.scans += "scan" in line

    def _look_at_metrics(self) -> None:
        try:
            samples = self.agent.samples()
        except OSError:
            self.failed_scrapes += 1
            return
        at = time.monotonic()
        count = int(value(samples, "podtally_policy_denied_total", workload="victim"))
        self.metric_at += [at] * (count - len(self.metric_at))

    @contextmanager
    def running(self) -> Iterator[None]:
        stop = threading.Event()

        def run() -> None:
            while not stop.wait(0.25):
                self.look()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=30.0, help="of the attack")
    parser.add_argument("--attach", choices=("auto", "tcx", "clsact"), default="auto")
    parser.add_argument("--epoch", default="1", help="the agent's, in seconds (default: 1)")
    parser.add_argument("--show-log", action="store_true", help="the agent's own lines, at the end")


def main(arguments: argparse.Namespace) -> int:
    report = Report(COLUMNS, [])
    with node() as made, tempfile.TemporaryDirectory(prefix="podtally-attack-") as scratch:
        attack(made, Path(scratch), arguments, report)
    show(report, arguments.output)
    return 0 if report.met else 1


def attack(made: Node, folder: Path, arguments: argparse.Namespace, report: Report) -> None:
    spray = compile_spray(folder)
    attacker, victim = made.routed_pod("attacker", 5), made.routed_pod("victim", 6)
    for network in NOWHERE:
        ip("route", "add", "blackhole", network)
    flags = ("--attach", arguments.attach, "--epoch", arguments.epoch)
    agent, events = _agent(folder, {"attacker": attacker, "victim": victim}, *flags)
    opening = counters()
    with (
        group("agent", AGENT_SHARES) as favour,
        group("attackers", ATTACKER_SHARES) as confine,
        ended(agent),
    ):
        agent.start()
        agent.wait_ready()
        assert agent.process is not None
        favour(agent.process.pid)
        events.touch()
        time.sleep(SETTLE_SECONDS)
        before, cpu, began = agent.samples(), cpu_seconds(agent.process.pid), time.monotonic()
        watcher = Watcher(agent, events)
        with watcher.running():
            with _attacking(spray, attacker, victim, arguments.seconds, confine) as sent:
                made_at = _denied(victim, arguments.seconds - 2)
            attacked_cpu = cpu_seconds(agent.process.pid) - cpu
            attacked_seconds = time.monotonic() - began
            time.sleep(SETTLE_SECONDS)
        after = agent.samples()
        rows = _Rows(report)
        rows.figures(sent)
        rows.reported(watcher, made_at)
        rows.cost(attacked_cpu, attacked_seconds, watcher.peak_mib)
        rows.epochs(before, after)
        try:
            assert_books_close(agent, opening, 30.0)
            rows.add("the books close", "yes", "yes")
        except AssertionError as error:
            rows.add("the books close", str(error).partition("\n")[0], "yes", ok=False)
    if arguments.show_log:
        progress(agent.said())


def compile_spray(folder: Path) -> Path:
    binary = folder / "spray"
    done = subprocess.run(
        ["cc", "-O2", "-Wall", "-o", binary, SPRAY], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise PodtallyError(f"cannot compile {SPRAY}: {done.stderr}", "install a C compiler")
    return binary


def _agent(folder: Path, pods: dict[str, Pod], *more: str) -> tuple[Agent, Path]:
    policy, events = folder / "policy.yaml", folder / "events.jsonl"
    policy.write_text(DENY_OUT)
    known = {pod.netns: Static("shop", name, {}) for name, pod in pods.items()}
    flags = (
        *configuration(folder / "podtally.yaml", known),
        *("--policies", str(policy), "--events", str(events), *more),
    )
    places = Places(PIN_DIR, folder / "state", free_port())
    return Agent(places, flags, log=folder / "agent.log"), events


@contextmanager
def ended(agent: Agent, pins: Path = PIN_DIR) -> Iterator[None]:
    try:
        yield
    finally:
        agent.end()
        try:
            agent.detach()
        finally:
            shutil.rmtree(pins, ignore_errors=True)


@contextmanager
def _attacking(
    spray: Path, attacker: Pod, victim: Pod, seconds: float, confine: Callable[[int], None]
) -> Iterator[dict[str, int]]:
    """Run all attacks at once; yields a mapping that gets the amount of each at the end."""
    (link,) = json.loads(ip("-j", "link", "show", attacker.link))
    inside = ["ip", "netns", "exec", attacker.netns]

    def sprayed(*words: object) -> subprocess.Popen[str]:
        command = [*inside, str(spray), "eth0", link["address"], *map(str, words)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    own, claims = attacker.ipv4, _claims()
    with ExitStack() as running:
        scan = running.enter_context(
            sprayed(TCP, own, SCANNED, ADDRESSES, PORTS, SCAN_RATE, seconds)
        )
        flood = running.enter_context(
            sprayed(UDP, own, FLOODED, FLOOD_ADDRESSES, 40, FLOOD_RATE, seconds)
        )
        forged = running.enter_context(
            sprayed(TCP, victim.ipv4, SCANNED, DENIED_ADDRESSES, 100, FORGED / 5, seconds, FORGED)
        )
        claiming = running.enter_context(
            subprocess.Popen(
                ["ip", "-n", attacker.netns, "-batch", "-"], stdin=subprocess.PIPE, text=True
            )
        )
        for each in (scan, flood, forged, claiming):
            running.callback(each.kill)
            confine(each.pid)
        typing = threading.Thread(target=claiming.communicate, args=(claims,))
        typing.start()
        done: dict[str, int] = {}
        yield done
        for figure, process in (
            ("scanned, of 65,535 ports on 200 addresses", scan),
            ("flooded, packets", flood),
            ("forged SYNs", forged),
        ):
            done[figure] = int(process.communicate(timeout=seconds + 30)[0])
        typing.join()
        done["claimed addresses"] = _claimed(attacker)


def _claims() -> str:
    addresses = (f"10.98.{n >> 8}.{n & 255}" for n in range(CLAIMS))
    return "".join(f"addr add {address}/32 dev eth0\n" for address in addresses)


def _claimed(pod: Pod) -> int:
    return ip("-n", pod.netns, "-o", "-4", "addr", "show", "dev", "eth0").count("10.98.")


def _denied(victim: Pod, seconds: float) -> dict[tuple[str, int], float]:
    """Open denied connections evenly over the time; return when each was opened."""
    made: dict[tuple[str, int], float] = {}
    sockets = []
    started = time.monotonic()
    for number in range(DENIALS):
        place = (f"203.0.113.{1 + number % DENIED_ADDRESSES}", 4000 + number // DENIED_ADDRESSES)
        connecting = pod_socket(victim, socket.AF_INET, socket.SOCK_STREAM)
        connecting.setblocking(False)
        sockets.append(connecting)
        made[place] = time.monotonic()
        connecting.connect_ex(place)
        time.sleep(max(0.0, started + (number + 1) * seconds / DENIALS - time.monotonic()))
    for connecting in sockets:
        connecting.close()
    return made


class _Rows:
    def __init__(self, report: Report) -> None:
        self._report = report

    def add(self, figure: str, measured: Cell, asked: Cell = "", ok: bool = True) -> None:
        self._report.rows.append((figure, measured, asked, ok))

    def figures(self, sent: dict[str, int]) -> None:
        for figure, count in sent.items():
            self.add(figure, count)

    def reported(self, watcher: Watcher, made_at: dict[tuple[str, int], float]) -> None:
        by_event = [watcher.event_at.get(place, float("inf")) - at for place, at in made_at.items()]
        counted = [*watcher.metric_at[:DENIALS], *[float("inf")] * DENIALS]
        by_metric = [seen - at for seen, at in zip(counted, made_at.values(), strict=False)]
        for what, delays in (("event", by_event), ("metric", by_metric)):
            in_time = sum(delay <= REPORTED_SECONDS for delay in delays)
            figure = f"denials of the other pod by {what}, by name within {REPORTED_SECONDS:.0f} s"
            self.add(figure, in_time, DENIALS, in_time == DENIALS)
            self.add(f"longest until its {what}, s", max(delays))
        self.add("lines of events that stand for many", watcher.scans, "> 0", watcher.scans > 0)
        failed = watcher.failed_scrapes
        self.add("scrapes without an answer", failed, 0, not failed)

    def cost(self, cpu: float, seconds: float, peak_mib: float) -> None:
        self.add("agent's CPU, cores", cpu / seconds, CORES, cpu / seconds <= CORES)
        self.add("agent's RSS beside the tables, MiB", peak_mib, RSS_MIB, peak_mib <= RSS_MIB)

    def epochs(self, before: Samples, after: Samples) -> None:
        def grown(name: str, **labels: str) -> float:
            return value(after, name, **labels) - value(before, name, **labels)

        epochs = grown("podtally_epoch_lateness_seconds_count")
        late = epochs - grown("podtally_epoch_lateness_seconds_bucket", le=LATE_SECONDS)
        self.add("epochs", int(epochs))
        self.add("of them more than 1 s late", int(late), 0, late == 0)
        took = grown("podtally_epoch_duration_seconds_sum") / max(1.0, epochs)
        self.add("an epoch's work on average, s", took)
        overflow = grown("podtally_table_overflow_packets_total")
        self.add("packets without a slot", int(overflow))
        series = sum(name == "podtally_flow_bytes_total" for name, _ in after)
        self.add("flow series", series)
