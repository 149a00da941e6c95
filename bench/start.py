# SPDX-License-Identifier: Apache-2.0
"""A cold start: how long until the first packet counts and the listener answers, and its memory.

One endpoint sends a numbered packet each millisecond from before the start until after it. What
the agent has counted in the end says which was the first one. Nothing is pinned before a start.

Each row is a condition: files in the page cache; read from disk; beside busy processes in
cgroups, as pods that request no CPU are beside the DaemonSet's agent (20 shares to 2), with an
equal weight (a conversion to cgroup v2 may round both to 1), and without cgroups at nice 0.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from bench import node
from bench.agent import memory
from bench.report import Report, progress, show
from bench.shares import AGENT_SHARES, ATTACKER_SHARES, group
from podtally.attach.attacher import Attacher
from podtally.errors import PodtallyError
from podtally.kernel.pins import Pins
from podtally.web import client
from podtally.web.unix_socket import API_SOCKET

EXAMPLE = "scripts/bench start --rounds 5 --load 20"
COLUMNS = (
    *("condition", "first packet, s", "first answer, s", "livez ok, s", "peak, MiB"),
    *("target, s", "ok"),
)
FIRST_PACKET_SECONDS, FIRST_PACKET_SECONDS_BUSY = 0.5, 1.0
PEAK_MIB = 60.0
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
PORT = 9999
SETTLE_SECONDS = 2.5  # epochs that book the last packets

# Prints when it sent each packet; ends when its input does.
_SENDER = f"""
import json, select, socket, sys, time
udp, sent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), []
due = time.monotonic()
while not select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
    sent.append(time.monotonic())
    udp.sendto(b"x", ("10.99.250.1", {PORT}))
    due += 0.001
print(json.dumps(sent))
"""
_COUNTED = re.compile(rf'^podtally_flow_packets_total{{[^}}]*port="{PORT}"[^}}]*}} (\S+)$', re.M)
_BUSY = "while True: pass"


class Start(NamedTuple):
    first_packet: float  # seconds after exec
    first_answer: float
    counting: float  # /livez is 200
    peak_mib: float  # beside the mapped tables


class Condition(NamedTuple):
    """``load`` processes are busy; ``shares`` are theirs and the agent's, None: no cgroups."""

    name: str
    target: float | None
    load: int = 0
    shares: tuple[int, int] | None = None
    from_disk: bool = False


def _conditions(load: int) -> list[Condition]:
    quiet = [
        Condition("quiet", FIRST_PACKET_SECONDS),
        Condition("quiet, files from disk", None, from_disk=True),
    ]
    busy = [
        Condition("as pods", FIRST_PACKET_SECONDS_BUSY, load, (ATTACKER_SHARES, AGENT_SHARES)),
        Condition("equal weights", None, load, (ATTACKER_SHARES, ATTACKER_SHARES)),
        Condition("nice 0, no cgroups", None, load),
    ]
    busy = [each._replace(name=f"{load} busy processes, {each.name}") for each in busy]
    return quiet + (busy if load else [])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3, help="of each row (default: %(default)s)")
    parser.add_argument("--load", type=int, default=0, help="busy processes beside it (default: 0)")


def main(arguments: argparse.Namespace) -> int:
    report = Report(COLUMNS, [])
    with node.node(1) as (pod,):
        for condition in _conditions(arguments.load):
            progress(condition.name)
            starts = list(_starts(pod, condition, arguments.rounds))
            first = statistics.median(start.first_packet for start in starts)
            peak = max(start.peak_mib for start in starts)
            answer = statistics.median(start.first_answer for start in starts)
            counting = statistics.median(start.counting for start in starts)
            target = condition.target
            met = (target is None or first <= target) and peak <= PEAK_MIB
            report.rows.append((condition.name, first, answer, counting, peak, target, met))
    show(report, arguments.output)
    return 0 if report.met else 1


def _starts(pod: str, condition: Condition, rounds: int) -> Iterator[Start]:
    of_load, of_agent = condition.shares or (0, 0)
    grouped = condition.shares is not None
    with (
        group("agent", of_agent) if grouped else nullcontext() as enter,
        group("load", of_load) if grouped else nullcontext() as confine,
        _load(condition.load, confine),
    ):
        for _ in range(rounds):
            if condition.from_disk:
                os.sync()
                DROP_CACHES.write_text("3")
            yield _measure(pod, enter)


def _measure(pod: str, enter: Callable[[int], None] | None) -> Start:
    with tempfile.TemporaryDirectory() as state, ExitStack() as opened:
        sender = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{pod}", sys.executable, "-Sc", _SENDER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        opened.callback(sender.kill)
        time.sleep(0.3)
        process, started = opened.enter_context(
            node.agent(state, "--kubernetes", "off", enter=enter)
        )
        api = Path(state) / API_SOCKET
        answered = _until(process, api, lambda status: True)
        counting = _until(process, api, lambda status: status == 200)
        peak = _peak_mib(process.pid) - memory(process.pid).tables
        sent = json.loads(sender.communicate(timeout=60)[0])
        time.sleep(SETTLE_SECONDS)
        reply = client.get_local(api, "/metrics")
        assert reply is not None
        counted = sum(int(float(value)) for value in _COUNTED.findall(reply[1].decode()))
    Attacher(node.PIN_DIR, {}).detach_all()
    pins = Pins(node.PIN_DIR)
    pins.remove_all()
    pins.close()
    first = sent[len(sent) - counted] if counted else float("inf")
    return Start(first - started, answered - started, counting - started, peak)


def _until(process: subprocess.Popen[bytes], api: Path, is_wanted: Callable[[int], bool]) -> float:
    while True:
        if process.poll() is not None:
            said = process.stderr.read().decode() if process.stderr else ""
            raise PodtallyError(f"the agent ended: {said}")
        try:
            reply = client.get_local(api, "/livez")
        except OSError:
            reply = None
        if reply is not None and is_wanted(reply[0]):
            return time.monotonic()
        time.sleep(0.002)


def _peak_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (each for each in status if each.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


@contextmanager
def _load(processes: int, confine: Callable[[int], None] | None) -> Iterator[None]:
    busy = [subprocess.Popen([sys.executable, "-Sc", _BUSY]) for _ in range(processes)]
    try:
        for each in busy:
            if confine is not None:
                confine(each.pid)
        yield
    finally:
        for each in busy:
            each.kill()
            each.wait()
