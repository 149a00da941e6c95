# SPDX-License-Identifier: Apache-2.0
"""Suggested policies against hidden true ones, and the cost for a big cluster.

Worlds are random clusters with hidden policies and the traffic that these allow, plus scans,
strays and denials. Each suggestion has to prove itself, and to deny again what the hidden
policies deny.
"""

import argparse
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench.report import Report, progress, show
from bench.suggest_worlds import WINDOW, HiddenWorld, WorldMaker
from podtally.errors import PodtallyError
from podtally.policy.model import DENIED, TCP, PolicyEndpoint, Question
from podtally.policy.reference.engine import Engine
from podtally.suggest.flows import FlowSums
from podtally.suggest.proof import Proof, prove
from podtally.suggest.suggestion import SuggestedPolicy, SuggestionMaker
from podtally.suggest.workloads import Workloads

EXAMPLE = "scripts/bench suggest --worlds 50"
COLUMNS = ("case", "figure", "value", "target", "ok")
SCALE_WORKLOADS, SCALE_ROWS = 1_000, 100_000
SECONDS_TARGET, MEMORY_TARGET_MIB = 10.0, 200.0
DENIED_TARGET, RULES_TARGET = 0.9, 1.0
_PROBES = 300  # of a world
_TIMEOUT_SECONDS = 300.0


class WorldResult(NamedTuple):
    proof: Proof
    denied_again: float  # of what the hidden policies deny
    more_rules: list[int]  # of each policy, than the hidden one


class ScaleResult(msgspec.Struct, frozen=True):
    seconds: float
    peak_mib: float
    policies: int
    newly_denied: int
    removable: int
    findings: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--worlds", type=int, default=300)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--workloads", type=int, default=SCALE_WORKLOADS)
    parser.add_argument("--rows", type=int, default=SCALE_ROWS)


def main(arguments: argparse.Namespace) -> int:
    results = []
    for number in range(arguments.worlds):
        seed = arguments.first_seed + number
        results.append(run_world(WorldMaker(seed).world(), seed))
        if number % 50 == 49:
            progress(f"{number + 1} worlds")
    report = Report(COLUMNS, [])
    if results:
        _add_worlds(report, results)
    if arguments.rows:
        scale = _scale_apart(arguments.workloads, arguments.rows)
        case = f"{arguments.workloads:,} workloads, {arguments.rows:,} conversations"
        proven = not (scale.newly_denied or scale.removable or scale.findings)
        report.rows.extend(
            [
                (case, "policies", scale.policies, None, scale.policies > 0),
                (case, "proven", proven, True, proven),
                (case, "seconds", scale.seconds, SECONDS_TARGET, scale.seconds <= SECONDS_TARGET),
                (
                    *(case, "memory, MiB", scale.peak_mib, MEMORY_TARGET_MIB),
                    scale.peak_mib <= MEMORY_TARGET_MIB,
                ),
            ]
        )
    show(report, arguments.output)
    return 0 if report.met else 1


def _add_worlds(report: Report, results: list[WorldResult]) -> None:
    case, count = f"{len(results)} worlds", len(results)
    replayed = sum(not each.proof.newly_denied for each in results) / count
    minimal = sum(not each.proof.removable for each in results) / count
    checked = sum(not each.proof.findings for each in results) / count
    again = statistics.mean(each.denied_again for each in results)
    worst = min(each.denied_again for each in results)
    rules = [more for each in results for more in each.more_rules]
    middle = statistics.median(rules)
    report.rows.extend(
        [
            (case, "(a) nothing seen is denied", replayed, 1.0, replayed == 1),
            (case, "(b) denials denied again", again, DENIED_TARGET, again >= DENIED_TARGET),
            (case, "(b) of the worst world", worst, None, True),
            (case, "(c) nothing can be left out", minimal, 1.0, minimal == 1),
            (case, "(d) podtally check finds nothing", checked, 1.0, checked == 1),
            (
                case,
                "rules more than the truth, median",
                middle,
                RULES_TARGET,
                middle <= RULES_TARGET,
            ),
            (case, "rules more than the truth, most", max(rules), None, True),
        ]
    )


def run_world(world: HiddenWorld, seed: int) -> WorldResult:
    suggested, proof = suggest(world)
    chance = random.Random(seed)
    truth, found = Engine(world.policies), Engine([each.policy for each in suggested])
    pods = [member.endpoint for member in world.cluster.members]
    denied = again = 0
    for _ in range(_PROBES):
        question = _question(chance, pods, world)
        if truth.judge(question).verdict == DENIED:
            denied += 1
            again += found.judge(question).verdict == DENIED
    hidden = {policy.name: policy for policy in world.policies}
    more = [
        len(each.rules) - len(getattr(hidden[f"true-{each.policy.name}"], each.direction))
        for each in suggested
    ]
    return WorldResult(proof, again / denied if denied else 1.0, more)


def suggest(world: HiddenWorld) -> tuple[list[SuggestedPolicy], Proof]:
    workloads = Workloads(world.cluster, world.conversations)
    sums = FlowSums(workloads)
    sums.add(world.conversations)
    flows = sums.flows()
    suggested = SuggestionMaker(workloads, WINDOW, {}).suggest(flows, workloads.names)
    return suggested, prove(suggested, WINDOW, flows, (), workloads)


def _question(chance: random.Random, pods: list[PolicyEndpoint], world: HiddenWorld) -> Question:
    source, destination = chance.choice(pods), chance.choice(pods)
    edge = chance.choice(world.edges)
    port = edge.port if chance.random() < 0.8 else chance.randrange(1, 65536)
    protocol = edge.protocol if chance.random() < 0.9 else TCP
    return Question(source, destination, protocol, port, source.ips[0], destination.ips[0])


def _scale_apart(workloads: int, rows: int) -> ScaleResult:
    command = [sys.executable, "-m", "bench.suggest", str(workloads), str(rows)]
    done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_SECONDS, check=False)
    if done.returncode:
        raise PodtallyError(f"measuring in a process apart failed: {done.stderr.decode()}")
    return msgspec.json.decode(done.stdout, type=ScaleResult)


def _scale(workloads: int, rows: int) -> ScaleResult:
    world = WorldMaker(1, workloads, rows).world()
    world.conversations[rows:] = []
    start = time.process_time()
    suggested, proof = suggest(world)
    seconds = time.process_time() - start
    peak = next(
        int(line.split()[1]) / 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return ScaleResult(
        seconds,
        peak,
        len(suggested),
        len(proof.newly_denied),
        len(proof.removable),
        len(proof.findings),
    )


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(_scale(*map(int, sys.argv[1:]))))
