# SPDX-License-Identifier: Apache-2.0
"""`kubectl podtally top` over 100 agents, through the test API server.

All pods lead to one real agent with some 1,000 conversations: it and the API server are one Python
process each and answer for a hundred, so a cluster is faster. The command is started as a person
would: interpreter, imports, connections, replies, merge, output.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from bench import node, scrape
from bench.report import Report, progress, show
from podtally.errors import PodtallyError

EXAMPLE = "scripts/bench fleet --agents 100"
COLUMNS = ("figure", "value", "target", "ok")
SECONDS = 3.0
_NETWORKS = 10
_ENTER = ("nsenter", f"--net=/run/netns/{node.NODE}", sys.executable, "-m")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agents", type=int, default=100)
    parser.add_argument("--times", type=int, default=5)


def main(arguments: argparse.Namespace) -> int:
    with node.node(2) as names, tempfile.TemporaryDirectory() as state:
        scrape.join(names)
        config = Path(state, "podtally.yaml")
        config.write_text(yaml.safe_dump({"networks": scrape.networks(_NETWORKS)}))
        with node.agent(state, "--config", str(config)) as (process, _):
            node.until(node.ready, process)
            scrape.run_in(names[0], scrape.SEND, str(_NETWORKS))
            time.sleep(2.5)
            with _api(Path(state, "kubeconfig"), arguments.agents) as kubeconfig:
                progress(f"{arguments.times} times {arguments.agents} agents")
                runs = [_top(kubeconfig, arguments.agents) for _ in range(arguments.times)]
    median = statistics.median(seconds for seconds, _ in runs)
    rows: list[tuple[str | int | float | bool | None, ...]] = [
        ("conversations of each agent", runs[0][1], "", True),
        (f"top of {arguments.agents} agents, median s", median, SECONDS, median <= SECONDS),
        ("longest s", max(seconds for seconds, _ in runs), "", True),
    ]
    report = Report(COLUMNS, rows)
    show(report, arguments.output)
    return 0 if report.met else 1


def _top(kubeconfig: Path, agents: int) -> tuple[float, int]:
    """Return the seconds that it took, and the conversations that it shows."""
    words = ("podtally.plugin.cli", "top", "-o", "json", "--kubeconfig", str(kubeconfig))
    started = time.perf_counter()
    done = subprocess.run([*_ENTER, *words], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    found = json.loads(done.stdout or "{}")
    if len(found.get("nodes", ())) != agents:
        raise PodtallyError(f"not all agents answered: {done.stderr}")
    return seconds, len(found["conversations"])


@contextmanager
def _api(path: Path, agents: int) -> Iterator[Path]:
    port = node.LISTEN.rpartition(":")[2]
    command = [*_ENTER, "bench.fleet_server", str(path), str(agents), port]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdout.readline()
        try:
            yield path
        finally:
            server.stdin.close()
            server.wait(timeout=20)
