"""Scraping a real agent that has at least 10,000 series, and what it does to the epochs.

One pod sends to many ports of another, which makes a series for each, direction and
metric. Then the agent is left alone for a while, and scraped again and again for as
long; lateness of the epochs is the agent's own histogram.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from bench import node
from bench.report import Report, progress, show
from podtally.errors import PodtallyError

EXAMPLE = "scripts/bench scrape --scrapes 50"
COLUMNS = ("figure", "value", "target", "ok")
PORTS = 900  # times two pods, two directions and three metrics
SERIES_WANTED = 10_000
SECONDS_TARGET = 0.1
LATE_SECONDS = 0.05

_SEND = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for port in range(20000, {20000 + PORTS}):
    s.sendto(b"x", ("10.99.251.2", port))
"""
_SCRAPE = f"""
import sys, time, urllib.request
for _ in range(int(sys.argv[1])):
    start = time.perf_counter()
    body = urllib.request.urlopen("http://{node.LISTEN}/metrics").read()
    print(time.perf_counter() - start, body.count(b"podtally_") , len(body))
    time.sleep(float(sys.argv[2]))
sys.stdout.flush()
print(body.decode())
"""


class Scraped(NamedTuple):
    seconds: list[float]
    body: str

    @property
    def series(self) -> int:
        return sum(line.startswith("podtally_") for line in self.body.splitlines())

    def value(self, sample: str) -> float:
        for line in self.body.splitlines():
            if line.startswith(sample + " "):
                return float(line.split()[-1])
        raise PodtallyError(f"/metrics has no {sample}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scrapes", type=int, default=50)


def main(arguments: argparse.Namespace) -> int:
    report = Report(COLUMNS, [])
    with node.node(2) as names, tempfile.TemporaryDirectory() as state:
        _join(names)
        with node.agent(state) as (process, _):
            node.until(node.ready, process)
            progress("making series")
            _in(names[0], _SEND)
            time.sleep(2.5)
            before = _scrape(1, 0.0)
            progress("an agent left alone")
            time.sleep(10.0)
            alone = _scrape(1, 0.0)
            progress(f"{arguments.scrapes} scrapes")
            scraped = _scrape(arguments.scrapes, 0.1)
    if before.series < SERIES_WANTED:
        raise PodtallyError(f"only {before.series} series were made")
    median = statistics.median(scraped.seconds)
    report.rows.append(("series", scraped.series, SERIES_WANTED, True))
    report.rows.append(("a scrape, median s", median, SECONDS_TARGET, median <= SECONDS_TARGET))
    report.rows.append(("a scrape, longest s", max(scraped.seconds), "", True))
    report.rows.append(("lateness of an epoch, alone, s", _lateness(before, alone), "", True))
    late = _lateness(alone, scraped)
    report.rows.append(("the same, scraped, s", late, LATE_SECONDS, late <= LATE_SECONDS))
    late_epochs = _late(alone, scraped)
    report.rows.append(("epochs late by over 50 ms, scraped", late_epochs, 0, late_epochs == 0))
    show(report, arguments.output)
    return 0 if report.met else 1


def _join(names: list[str]) -> None:
    """Two pods that reach each other through the node."""
    node.ip(f"-n {node.NODE} link add ptl-br0 up type bridge")
    for i, name in enumerate(names):
        node.ip(f"-n {node.NODE} link set ptlb{i} master ptl-br0")
        node.ip(f"-n {name} addr add 10.99.251.{i + 1}/24 dev eth0")


def _in(namespace: str, code: str, *arguments: str) -> str:
    result = subprocess.run(
        ["nsenter", f"--net=/run/netns/{namespace}", sys.executable, "-Sc", code, *arguments],
        check=True,
        capture_output=True,
    )
    return result.stdout.decode()


def _scrape(times: int, pause: float) -> Scraped:
    lines = _in(node.NODE, _SCRAPE, str(times), str(pause)).splitlines()
    return Scraped([float(line.split()[0]) for line in lines[:times]], "\n".join(lines[times:]))


def _lateness(first: Scraped, last: Scraped) -> float:
    name = "podtally_epoch_lateness_seconds"
    epochs = last.value(f"{name}_count") - first.value(f"{name}_count")
    return (last.value(f"{name}_sum") - first.value(f"{name}_sum")) / max(1.0, epochs)


def _late(first: Scraped, last: Scraped) -> int:
    name = "podtally_epoch_lateness_seconds"
    on_time = f'{name}_bucket{{le="0.05"}}'
    late = [each.value(f"{name}_count") - each.value(on_time) for each in (first, last)]
    return int(late[1] - late[0])
