# SPDX-License-Identifier: Apache-2.0
"""Scrapes of 10,000 and 100,000 series, and how late they make the epochs.

One pod sends to many ports of many declared networks, which makes a series for each port,
direction and metric. Then the agent is left alone for a while, and scraped again and again for as
long; lateness of the epochs is the agent's own histogram.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import yaml
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from bench import node
from bench.report import Report, progress, show
from podtally.errors import PodtallyError

EXAMPLE = "scripts/bench scrape --scrapes 50"
COLUMNS = ("figure", "value", "target", "ok")
LATE_SECONDS = 0.05

# A port makes a series for two directions and three metrics; a peer has 100 ports at most.
PORTS = 100
SEND = f"""
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for network in range(int(sys.argv[1])):
    for port in range(20000, 20000 + {PORTS}):
        s.sendto(b"x", (f"10.98.{{network}}.1", port))
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


class Size(NamedTuple):
    networks: int
    series: int  # at least
    seconds: float  # a scrape may take


SIZES = (Size(18, 10_000, 0.05), Size(170, 100_000, 0.5))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scrapes", type=int, default=50)


def main(arguments: argparse.Namespace) -> int:
    report = Report(COLUMNS, [])
    for size in SIZES:
        _measure(size, arguments.scrapes, report)
    show(report, arguments.output)
    return 0 if report.met else 1


def _measure(size: Size, scrapes: int, report: Report) -> None:
    with node.node(2) as names, tempfile.TemporaryDirectory() as state:
        join(names)
        config = Path(state, "podtally.yaml")
        config.write_text(yaml.safe_dump({"networks": networks(size.networks)}))
        flags = ("--config", str(config), "--series-limit", "1000000")
        with node.agent(state, *flags) as (process, _):
            node.until(node.ready, process)
            progress(f"making {size.series} series")
            run_in(names[0], SEND, str(size.networks))
            time.sleep(2.5)
            before = _scrape(1, 0.0)
            progress("an agent left alone")
            time.sleep(10.0)
            alone = _scrape(1, 0.0)
            progress(f"{scrapes} scrapes")
            scraped = _scrape(scrapes, 0.1)
    if before.series < size.series:
        raise PodtallyError(f"only {before.series} series were made")
    median = statistics.median(scraped.seconds)
    stock = _stock(scraped.body)
    rows = report.rows
    rows.append(("series", scraped.series, size.series, True))
    rows.append(("scrape, median s", median, size.seconds, median <= size.seconds))
    rows.append(("scrape, longest s", max(scraped.seconds), "", True))
    rows.append(("prometheus_client for the same, s", stock, "", True))
    rows.append(("ratio to prometheus_client", median / stock, "", True))
    rows.append(("epoch lateness without scrapes, s", _lateness(before, alone), "", True))
    late = _lateness(alone, scraped)
    rows.append(("epoch lateness with scrapes, s", late, LATE_SECONDS, late <= LATE_SECONDS))
    late_epochs = _late(alone, scraped)
    rows.append(("epochs late by over 50 ms, with scrapes", late_epochs, 0, late_epochs == 0))


def _stock(body: str) -> float:
    """Return how long the usual writer takes for what was scraped."""
    families = list(text_string_to_metric_families(body))

    class All(Collector):
        def collect(self) -> list[Metric]:
            return families

    registry = CollectorRegistry()
    registry.register(All())
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        generate_latest(registry)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def networks(count: int) -> dict[str, str]:
    return {f"n{number}": f"10.98.{number}.0/24" for number in range(count)}


def join(names: list[str]) -> None:
    """Join two pods by a bridge; the first reaches the networks by way of the second."""
    node.ip(f"-n {node.NODE} link add ptl-br0 up type bridge")
    for i, name in enumerate(names):
        node.ip(f"-n {node.NODE} link set ptlb{i} master ptl-br0")
        node.ip(f"-n {name} addr add 10.99.251.{i + 1}/24 dev eth0")
    node.ip(f"-n {names[0]} route add 10.98.0.0/16 via 10.99.251.2")


def run_in(namespace: str, code: str, *arguments: str) -> str:
    result = subprocess.run(
        ["nsenter", f"--net=/run/netns/{namespace}", sys.executable, "-Sc", code, *arguments],
        check=True,
        capture_output=True,
    )
    return result.stdout.decode()


def _scrape(times: int, pause: float) -> Scraped:
    lines = run_in(node.NODE, _SCRAPE, str(times), str(pause)).splitlines()
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
