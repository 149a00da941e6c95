# SPDX-License-Identifier: Apache-2.0
"""An idle agent with 100 endpoints: memory, CPU, cold and warm start.

Makes network namespaces, each with a pair of interfaces into a namespace that stands
for the node, and runs the real agent there. They are silent but for a ping a second
from one of them, as a quiet node is.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench import node
from bench.report import Report, progress, show
from podtally.errors import PodtallyError

EXAMPLE = "scripts/bench agent --endpoints 100 --seconds 30"
COLUMNS = ("figure", "value", "target", "ok")
MIB = 1 << 20
RSS_TARGET_MIB = 70.0
CPU_TARGET = 1.0  # per cent of a core
CLUSTER_RSS_TARGET_MIB = 160.0  # with names of 10,000 pods from the API
CLUSTER_SETTLE_SECONDS = 15.0


class Memory(NamedTuple):
    """Resident memory in MiB: all of it, and the pages of the mapped tables among it."""

    rss: float
    tables: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--endpoints", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to watch it at rest")
    parser.add_argument("--attach", choices=("auto", "tcx", "clsact"), default="auto")


def main(arguments: argparse.Namespace) -> int:
    report, flags = Report(COLUMNS, []), ("--attach", arguments.attach)
    with node.node(arguments.endpoints), tempfile.TemporaryDirectory() as state:
        progress("cold start")
        with node.agent(state, *flags) as (process, started):
            node.until(_attached, process)
            report.rows.append(("cold start to counting, s", time.monotonic() - started, "", True))
            node.until(node.ready, process)
            report.rows.append(("cold start to ready, s", time.monotonic() - started, "", True))
        progress("warm start")
        with node.agent(state, *flags) as (process, started):
            node.until(node.ready, process)
            report.rows.append(("warm start to ready, s", time.monotonic() - started, "", True))
            progress(f"at rest for {arguments.seconds:.0f} s")
            time.sleep(3.0)
            cpu = _cpu_per_cent(process.pid, arguments.seconds)
            rested = memory(process.pid)
        progress("with a cluster's names from the API")
        with _api(Path(state)) as kubeconfig:
            cluster = ("--kubeconfig", str(kubeconfig), "--node-name", "node-0")
            with node.agent(state, *flags, *cluster) as (process, _):
                node.until(node.ready, process)
                time.sleep(CLUSTER_SETTLE_SECONDS)
                in_cluster = memory(process.pid)
                cluster_cpu = _cpu_per_cent(process.pid, arguments.seconds)
    beside = rested.rss - rested.tables
    report.rows.extend(
        [
            ("RSS, MiB", rested.rss, "", True),
            ("of it mapped tables, MiB", rested.tables, "", True),
            ("RSS beside the tables, MiB", beside, RSS_TARGET_MIB, beside <= RSS_TARGET_MIB),
            ("CPU, % of a core", cpu, CPU_TARGET, cpu <= CPU_TARGET),
            (
                "RSS with 10,000 pods from the API, MiB",
                in_cluster.rss,
                CLUSTER_RSS_TARGET_MIB,
                in_cluster.rss <= CLUSTER_RSS_TARGET_MIB,
            ),
            ("CPU with them, % of a core", cluster_cpu, CPU_TARGET, cluster_cpu <= CPU_TARGET),
        ]
    )
    show(report, arguments.output)
    return 0 if report.met else 1


@contextmanager
def _api(folder: Path) -> Iterator[Path]:
    """A server of a big cluster in the node's namespace; gives the kubeconfig."""
    path = folder / "kubeconfig"
    command = [f"--net=/run/netns/{node.NODE}", sys.executable, "-m", "bench.kube_server"]
    with subprocess.Popen(
        ["nsenter", *command, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        if server.stdout.readline() != b"ready\n":
            raise PodtallyError("the API server of the benchmark did not come up")
        yield path
        server.communicate(timeout=20)


def _attached() -> bool:
    """Return whether the first interface is watched: a pinned TCX link, or a filter on its hook."""
    links = node.PIN_DIR / "links"
    if links.is_dir() and any(links.iterdir()):
        return True
    shown = subprocess.run(
        [*f"nsenter --net=/run/netns/{node.NODE} tc filter show dev ptlb0 ingress".split()],
        check=False,
        capture_output=True,
    )
    return b"podtally/" in shown.stdout


def _cpu_per_cent(pid: int, seconds: float) -> float:
    before, start = cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    return 100 * (cpu_seconds(pid) - before) / (time.monotonic() - start)


def cpu_seconds(pid: int) -> float:
    """The scheduler's own sum, in ns: the ticks of /proc/PID/stat are too coarse for this."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def memory(pid: int) -> Memory:
    rss, tables, is_table = 0, 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, _, value = line.partition(":")
        if "-" in name and not name[0].isupper():
            is_table = "bpf-map" in line
        elif name == "Rss":
            size = int(value.split()[0]) << 10
            rss += size
            tables += size * is_table
    return Memory(rss / MIB, tables / MIB)
