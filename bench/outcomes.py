# SPDX-License-Identifier: Apache-2.0
"""Outcomes of real connections of every kind, against what each client saw.

A client and a server in namespaces of their own, behind a node that routes between them, drops
and rejects. The agent is killed again and again meanwhile. What it counts at the client's
interface, by port and outcome, must be what the clients saw, and the handshake times of its flow
log must be those of a packet capture beside it.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

from bench import outcomes_world as world
from bench.node import NODE
from bench.outcomes_ends import GRACEFUL
from bench.outcomes_raw import PING, TCP, Attempts
from bench.report import Cell, Report, progress, show

EXAMPLE = "scripts/bench outcomes --connections 20000"
COLUMNS = ("figure", "value", "target", "ok")
TARGET_MS = 0.1
DECIDED_SECONDS = 90.0
HANDSHAKE_PORTS = 40_000
_PROTOCOLS = {"icmp": PING, "icmpv6": PING}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--connections", type=int, default=100_000)
    parser.add_argument("--handshakes", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=10)


def main(arguments: argparse.Namespace) -> int:
    report = Report(COLUMNS, [])
    with tempfile.TemporaryDirectory() as state, world.made():
        flow_log = Path(state) / "flows.jsonl"
        run = world.Run(state, ("--flow-log", str(flow_log), "--name-wait", "1"), arguments.kills)
        progress(
            f"{arguments.connections} connections; the agent is killed {arguments.kills} times"
        )
        seen = run.connect(arguments.connections)
        report.rows.append(("times the agent was killed", run.killed, None, True))
        progress("waiting until all are decided")
        report.rows.extend(_outcome_rows(seen, _counted(sum(seen.outcomes.values()))))
        progress(f"{arguments.handshakes} handshakes, and a packet capture")
        captured = _captured(arguments.handshakes)
        time.sleep(8)
        run.stop()
        report.rows.extend(_handshake_rows(captured, _logged(flow_log)))
    show(report, arguments.output)
    return 0 if report.met else 1


def _counted(expected: int) -> Counter[tuple[str, int, str]]:
    """Return the connections that the agent has decided, by protocol, port and outcome."""
    deadline = time.monotonic() + DECIDED_SECONDS
    while True:
        counted: Counter[tuple[str, int, str]] = Counter()
        for labels, value in world.samples("podtally_connection_outcomes_total"):
            if labels["direction"] == "egress" and labels["port"].isdecimal():
                protocol = _PROTOCOLS.get(labels["protocol"], labels["protocol"])
                counted[protocol, int(labels["port"]), labels["outcome"]] += int(value)
        if sum(counted.values()) >= expected or time.monotonic() > deadline:
            return counted
        time.sleep(2)


def _outcome_rows(
    seen: world.Seen, counted: Counter[tuple[str, int, str]]
) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    kinds = {(kind.protocol, kind.port) for kind in world.KINDS}
    counted = Counter({key: count for key, count in counted.items() if key[:2] in kinds})
    for key in sorted(seen.outcomes | counted):
        found, expected = counted[key], seen.outcomes[key]
        name = f"{key[0]} {key[1]}".removesuffix(" 0")
        rows.append((f"{name}: {key[2]}", found, expected, found == expected))
    wrong = sum(((counted - seen.outcomes) | (seen.outcomes - counted)).values())
    total = sum(seen.outcomes.values())
    rows.append((f"connections of {total} with another outcome", wrong, 0, wrong == 0))
    endings: Counter[str] = Counter()
    for labels, value in world.samples("podtally_connection_endings_total"):
        if labels["direction"] == "egress":
            endings[labels["ending"]] += int(value)
    for ending in sorted(seen.endings | endings):
        found, expected = endings[ending], seen.endings[ending]
        rows.append((f"ending: {ending}", found, expected, found == expected))
    opened = sum(value for _, value in world.samples("podtally_connections_total"))
    decided = sum(value for _, value in world.samples("podtally_connection_outcomes_total"))
    rows.append(("sum of outcomes", decided, opened, decided == opened))
    return rows


def _captured(count: int) -> dict[int, tuple[float, float]]:
    """Make handshakes one after the other; return both steps in ms, by the client's port."""
    capture = world.background(NODE, ["capture", world.INTERFACE, str(GRACEFUL)])
    address = world.ADDRESSES[world.SERVER][0]
    for first in range(0, count, 20):
        some = min(20, count - first)
        world.run_client([Attempts(address, GRACEFUL, TCP, HANDSHAKE_PORTS + first, some)])
    capture.terminate()
    assert capture.stdout is not None
    found = {}
    for line in capture.stdout.read().splitlines():
        port, syn, syn_ack, ack = map(int, line.split())
        found[port] = ((syn_ack - syn) / 1e6, (ack - syn_ack) / 1e6)
    capture.wait()
    return found


def _logged(flow_log: Path) -> dict[int, tuple[float, float]]:
    """Return both steps in ms of the flow log's handshakes at the client, by its port."""
    found = {}
    for line in flow_log.read_text().splitlines():
        record = json.loads(line)
        if record["direction"] == "egress" and record["peer"]["port"] == GRACEFUL:
            steps = record.get("answer_seconds"), record.get("completion_seconds")
            if None not in steps and record["endpoint"]["port"] >= HANDSHAKE_PORTS:
                found[record["endpoint"]["port"]] = tuple(1e3 * step for step in steps)
    return found


def _handshake_rows(
    captured: dict[int, tuple[float, float]], logged: dict[int, tuple[float, float]]
) -> list[tuple[Cell, ...]]:
    both = sorted(set(captured) & set(logged))
    rows: list[tuple[Cell, ...]] = [("handshakes compared", len(both), len(captured), bool(both))]
    for step, name in enumerate(("SYN to SYN/ACK", "SYN/ACK to ACK")):
        differences = sorted(abs(captured[port][step] - logged[port][step]) for port in both)
        if differences:
            high = differences[int(0.99 * (len(differences) - 1))]
            middle = statistics.median(differences)
            rows.append((f"{name}: median difference, ms", middle, TARGET_MS, middle <= TARGET_MS))
            rows.append((f"{name}: 99th percentile, ms", high, TARGET_MS, high <= TARGET_MS))
    return rows
