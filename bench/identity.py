# SPDX-License-Identifier: Apache-2.0
"""Memory and CPU time of a big cluster's objects.

Each run is an interpreter of its own, which decodes the lists page by page, as they come
from the API server, and keeps what the agent keeps. The whole agent is not measured here.
"""

import argparse
import gc
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench import cluster_objects
from bench.report import Report, progress, show
from podtally.errors import PodtallyError
from podtally.identity.addresses import ClaimBook
from podtally.identity.cluster.state import Clocks, ClusterState
from podtally.kube.model import ObjectPage, WatchedResource
from podtally.kube.objects import RESOURCES

EXAMPLE = "scripts/bench identity --rounds 5"
COLUMNS = ("figure", "pods", "value", "unit", "target", "ok")
MEMORY_TARGET_MIB = 60.0
LIST_TARGET_SECONDS = 1.0
TIMEOUT_SECONDS = 120


class Figures(NamedTuple):
    """Of one run: what it took, memory in MiB, times in CPU seconds."""

    pods: int
    grown_mib: float
    peak_mib: float
    list_seconds: float
    tables_seconds: float
    again_seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3, help="runs (default: %(default)s)")


def main(arguments: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as name:
        progress("writing lists")
        cluster_objects.write(Path(name))
        progress("running")
        runs = [_run_apart(Path(name)) for _ in range(arguments.rounds)]
    pods = runs[0].pods
    if pods != cluster_objects.PODS:
        raise PodtallyError(f"{pods} pods are known of the {cluster_objects.PODS} that were listed")
    middle = Figures._make(statistics.median(column) for column in zip(*runs, strict=True))
    report = Report(COLUMNS, [])
    for figure, value, unit, target in (
        ("memory kept, tables included", middle.grown_mib, "MiB", MEMORY_TARGET_MIB),
        ("its peak meanwhile", middle.peak_mib, "MiB", None),
        ("CPU of a full list of pods", middle.list_seconds, "s", LIST_TARGET_SECONDS),
        ("CPU of the tables made of all lists", middle.tables_seconds, "s", None),
        ("CPU of the same pods listed again", middle.again_seconds, "s", None),
    ):
        met = target is None or value <= target
        report.rows.append((figure, pods, value, unit, target, met))
    show(report, arguments.output)
    return 0 if report.met else 1


def _run_apart(folder: Path) -> Figures:
    command = [sys.executable, "-m", "bench.identity", str(folder)]
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_SECONDS, check=False)
    if done.returncode:
        raise PodtallyError(f"measuring in a process apart failed: {done.stderr.decode()}")
    return msgspec.json.decode(done.stdout, type=Figures)


def _measure(folder: Path) -> Figures:
    cluster, book = ClusterState("node-0"), ClaimBook()
    gc.collect()
    before, list_seconds = _memory_mib("VmRSS"), 0.0
    start = time.process_time()
    for resource in RESOURCES:
        decoding = time.process_time()
        # As the agent: read by a thread, then taken in page by page; none is kept.
        for page in _pages(resource, folder):
            if resource.name == "pods":
                list_seconds += time.process_time() - decoding
            cluster.apply(page, _clocks())
            decoding = time.process_time()
    for key, claims in cluster.changed_claims():
        book.put(key, claims)
    table, services = book.table(), cluster.services()
    whole = time.process_time() - start
    # No collection here: the agent has no such moment either.
    grown, peak = _memory_mib("VmRSS") - before, _memory_mib("VmHWM") - before
    again = time.process_time()
    for page in _pages(next(r for r in RESOURCES if r.name == "pods"), folder):
        cluster.apply(page, _clocks())
    again = time.process_time() - again
    if not table.owners or not services.nodeports:
        raise PodtallyError("the tables are empty")
    pods = cluster.counts().pods
    return Figures(pods, grown, peak, list_seconds, whole - list_seconds, again)


def _pages(resource: WatchedResource, folder: Path) -> Iterator[ObjectPage]:
    paths = sorted(folder.glob(f"{resource.name}-*.json"))
    for path in paths:
        objects = resource.decode_list(path.read_bytes()).objects
        first, last = path is paths[0], path is paths[-1]
        yield ObjectPage(resource.name, objects, first, last, time.monotonic_ns())


def _clocks() -> Clocks:
    return Clocks(time.time_ns(), time.monotonic_ns())


def _memory_mib(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) / 1024
    raise PodtallyError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(_measure(Path(sys.argv[1]))))
