# SPDX-License-Identifier: Apache-2.0
"""Names of peers outside, against what each client asked for and then connected to.

Pods ask a resolver for names that share addresses: short TTLs, rotation, aliases, IPv6, answers
that need TCP; half of the connections use TLS. Every tenth pod learns its addresses from
elsewhere. The agent is killed meanwhile. Each connection has a port of its own, by which its row
of the flow log is held against the client's own record.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench import domains_world as world
from bench.domains_ends import FIRST_PORT, PLAIN_PORT, PORTS, RESOLVERS, TLS_PORT, Truth, Work
from bench.outcomes_world import Run
from bench.report import Cell, Report, progress, show
from podtally.errors import PodtallyError

EXAMPLE = "scripts/bench domains --pods 20 --seconds 60"
COLUMNS = ("figure", "value", "target", "ok")
NAMED_PER_CENT = 99.0
SETTLE_SECONDS = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pods", type=int, default=50)
    parser.add_argument("--names", type=int, default=500)
    parser.add_argument("--names-per-pod", type=int, default=10)
    parser.add_argument("--addresses", type=int, default=50, help="that all names share")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument(
        "--interval", type=float, default=1.0, help="seconds between a pod's connections"
    )
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)


def main(arguments: argparse.Namespace) -> int:
    if not 1 <= arguments.pods <= 100 or not 1 <= arguments.addresses <= 250:
        raise PodtallyError("--pods must be 1 to 100, --addresses 1 to 250")
    with tempfile.TemporaryDirectory() as state:
        log = Path(state) / "flows.jsonl"
        with world.made(arguments.pods, arguments.addresses, Path(state)) as pods:
            flags = ("--interfaces", world.WATCHED, "--flow-log", str(log), "--name-wait", "1")
            run = Run(state, (*flags, "--resolvers", ",".join(RESOLVERS)), 0)
            try:
                seen = _connect(arguments, pods, run)
                truths = [Truth(*each) for each in seen.pop("truths")]
                rows = _settled(log, truths)
            finally:
                run.stop()
        failures: list[str] = seen.pop("failures")
        seen["connections over IPv6"] = sum(":" in row["peer"]["address"] for row in rows)
        counts: list[tuple[Cell, ...]] = [(*each, "", True) for each in seen.items()]
        report = Report(COLUMNS, counts + figures(truths, failures, rows, run.killed))
    show(report, arguments.output)
    return 0 if report.met else 1


def _connect(arguments: argparse.Namespace, pods: tuple[str, ...], run: Run) -> dict[str, Any]:
    """Return what the clients saw."""
    work = Work(
        pods,
        arguments.names,
        arguments.names_per_pod,
        arguments.addresses,
        arguments.seconds,
        arguments.interval,
        arguments.seed,
    )
    progress(f"{len(pods)} pods connect for {work.seconds:.0f} s")
    with world.clients(work) as process:
        for _ in range(arguments.kills):
            time.sleep(work.seconds / (arguments.kills + 1))
            run.kill()
        assert process.stdout is not None
        found: dict[str, Any] = json.loads(process.stdout.read())
    return found


def _settled(log: Path, truths: list[Truth]) -> list[dict[str, Any]]:
    """Wait until each connection has a row, or a while."""
    progress("waiting until all connections are in the flow log")
    deadline = time.monotonic() + SETTLE_SECONDS
    wanted = {truth.port for truth in truths}
    while True:
        rows = _rows(log)
        if wanted <= {row["endpoint"]["port"] for row in rows} or time.monotonic() > deadline:
            return rows
        time.sleep(1)


def _rows(log: Path) -> list[dict[str, Any]]:
    text = log.read_text() if log.exists() else ""
    rows = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    ports = range(FIRST_PORT, FIRST_PORT + 100 * PORTS)
    return [
        row
        for row in rows
        if row["peer"]["port"] in (PLAIN_PORT, TLS_PORT) and row["endpoint"]["port"] in ports
    ]


def figures(
    truths: list[Truth], failures: list[str], rows: list[dict[str, Any]], killed: int
) -> list[tuple[Cell, ...]]:
    by_port = {truth.port: truth for truth in truths}
    sums: Counter[str] = Counter()
    wrong: list[str] = []
    for row in rows:
        truth, peer = by_port[row["endpoint"]["port"]], row["peer"]
        size = sum(row["bytes"].values())
        result = _result(truth, peer.get("domain", ""), peer.get("domain_source", ""))
        sums["all"] += size
        sums[result] += size
        kind = _kind(truth)
        sums[f"{kind}: all"] += size
        sums[f"{kind}: {result}"] += size
        if result == "wrong":
            wrong.append(f"{truth} {peer}")
    for each in [*wrong[:5], *failures[:3]]:
        progress(each)
    logged = {row["endpoint"]["port"] for row in rows}
    missing = len(by_port.keys() - logged)
    made: list[tuple[Cell, ...]] = [
        ("connections", len(truths), "", True),
        ("of them over TLS", sum(truth.is_tls for truth in truths), "", True),
        ("of pods that use no DNS", sum(not truth.by_dns for truth in truths), "", True),
        ("that failed at the client", len(failures), "", True),
        ("not in the flow log", missing, 0, not missing),
        ("times the agent was killed", killed, "", True),
        ("bytes under a wrong name", sums["wrong"], 0, not sums["wrong"]),
    ]
    for kind, words in (
        ("plain", "asked DNS, address of one name"),
        ("TLS", "asked DNS, TLS"),
        ("rivals", "asked DNS, address of several names, no TLS"),
        ("no DNS", "asked no DNS"),
    ):
        made.append((f"{words}: bytes", sums[f"{kind}: all"], "", True))
        for result in ("named", "ambiguous", "unverified", "unnamed"):
            share = 100 * sums[f"{kind}: {result}"] / max(1, sums[f"{kind}: all"])
            is_target = result == "named" and kind in ("plain", "TLS")
            target = NAMED_PER_CENT if is_target else ""
            ok = not is_target or share >= NAMED_PER_CENT
            made.append((f"{words}: {result}, % of bytes", share, target, ok))
    return made


def _kind(truth: Truth) -> str:
    if not truth.by_dns:
        return "no DNS"
    return "TLS" if truth.is_tls else "rivals" if truth.rivals else "plain"


def _result(truth: Truth, domain: str, source: str) -> str:
    """Return what a row says of a connection: an ambiguous name is one of several."""
    if not domain:
        return "unnamed"
    if source in ("ambiguous", "unverified") and domain != truth.name:
        return source
    if domain != truth.name:
        return "wrong"
    return source if source in ("ambiguous", "unverified") else "named"
