# SPDX-License-Identifier: Apache-2.0
"""Cost of verdicts under many policies, and of updating them after a change.

A big cluster: pods of deployments with addresses of both families, policies of
five rules in their namespaces, some over the whole cluster. Flows are between pods, and from and
to addresses outside; each of them is a pair of ends that comes again and again. What
is judged is compared with the reference engine on some of the pairs. Times are CPU time.
"""

import argparse
import ctypes
import gc
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from bench import differential, policy_names
from bench import policy_cluster as cluster
from bench import policy_denials as denials
from bench.report import Report, progress, show
from podtally.dns.candidates import NameColumn
from podtally.errors import PodtallyError
from podtally.policy.model import ADDRESS, Policy, PolicyEndpoint
from podtally.policy.reference.engine import Engine
from podtally.policy.vector.evaluator import Evaluator, PackedConnections

EXAMPLE = "scripts/bench judge --rounds 5; scripts/bench judge --differential 1000000"
COLUMNS = ("figure", "value", "target", "ok")
FLOWS, CHECKED = 1_000_000, 5_000
SECONDS_COLD_TARGET, SECONDS_WARM_TARGET = 5.0, 0.5
SECONDS_COMPILE_TARGET, SECONDS_AGAIN_TARGET = 2.0, 0.1
NEW, NEW_PAIRS, NODE_PODS, MILLISECONDS_NEW_TARGET = 10, 1_000, 100, 10.0
SECONDS_NAMES_TARGET = 2.0
MEMORY_MIB_TARGET = 40.0
SECONDS_FIRST_EPOCH_TARGET, SECONDS_EPOCH_TARGET = 2.0, 1.0

T = TypeVar("T")


class World(NamedTuple):
    policies: list[Policy]
    endpoints: list[PolicyEndpoint]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument(
        "--differential", type=int, metavar="PROBES", help="only compare with the plain engine"
    )


def main(arguments: argparse.Namespace) -> int:
    report = Report(COLUMNS, [])
    if arguments.differential:
        _differential(arguments.differential, report)
    else:
        _measure(arguments.rounds, report)
    show(report, arguments.output)
    return 0 if report.met else 1


def _differential(probes: int, report: Report) -> None:
    outcome = differential.run(probes)
    for cause, count in outcome.causes.most_common():
        report.rows.append((cause, count, "", True))
    report.rows.append(("another verdict where TTLs are enforced", outcome.strict, "", True))
    for found in outcome.differences[:3]:
        progress(str(found))
    wrong = len(outcome.differences)
    report.rows.append((f"of {outcome.probes:,} probes with another verdict", wrong, 0, not wrong))


def _measure(rounds: int, report: Report) -> None:
    progress(f"{cluster.PODS:,} pods, {cluster.POLICIES:,} policies of {cluster.RULES} rules")
    chance = random.Random(4)
    endpoints = cluster.endpoints()
    before = _kept_bytes()
    policies = cluster.policies(chance)
    seconds, judge = _timed(lambda: Evaluator(policies, endpoints))
    pairs = cluster.pairs(chance, endpoints)
    flows = _take(pairs, np.random.default_rng(4).integers(0, cluster.PAIRS, FLOWS))
    before += _bytes(pairs) + _bytes(flows)
    compiled_mib = (_kept_bytes() - before) / (1 << 20)
    judge.judge(flows)
    loose_mib = (_anonymous_bytes() - before) / (1 << 20)
    filled_mib = (_kept_bytes() - before) / (1 << 20)
    _row(report, "compiling, s", seconds, SECONDS_COMPILE_TARGET)
    progress(f"{FLOWS:,} flows of {cluster.PAIRS:,} pairs")
    cold = [_timed(lambda: Evaluator(policies, endpoints).judge(flows))[0] for _ in range(rounds)]
    compiling = [_timed(lambda: Evaluator(policies, endpoints))[0] for _ in range(rounds)]
    spent = statistics.median(cold) - statistics.median(compiling)
    _row(report, f"{FLOWS:,} flows, cold, s", spent, SECONDS_COLD_TARGET)
    warm = statistics.median(_timed(lambda: judge.judge(flows))[0] for _ in range(rounds))
    _row(report, f"{FLOWS:,} flows, warm, s", warm, SECONDS_WARM_TARGET)
    _changes(report, judge, World(policies, endpoints), pairs)
    _additions(report, judge, endpoints, pairs)
    _row(report, "policies, compiled; MiB", compiled_mib, MEMORY_MIB_TARGET)
    _row(report, "and with all pairs remembered; MiB", filled_mib, MEMORY_MIB_TARGET)
    _row(report, "and with what the allocator has free then; MiB", loose_mib, None)
    _check(report, judge, World(policies, endpoints), pairs)
    _names(report, rounds)
    _denials(report, denials.few(policies))


def _changes(report: Report, judge: Evaluator, world: World, pairs: PackedConnections) -> None:
    """Return the time from a change until all pairs are judged or looked up."""
    policies, endpoints = world

    def relabelled() -> None:
        labels = (("app", "changed"), ("team", "none"))
        judge.set_endpoint(17, endpoints[17]._replace(labels=labels))
        judge.judge(pairs)

    def namespaced() -> None:
        changed = policies[cluster.CLUSTER_POLICIES]
        judge.set_policies([p for p in policies if p is not changed])
        judge.judge(pairs)

    def everywhere() -> None:
        judge.set_policies(policies[1:])
        judge.judge(pairs)

    def restored() -> None:
        judge.set_endpoint(17, endpoints[17])
        judge.set_policies(policies)
        judge.judge(pairs)

    for title, change in (
        ("a pod's labels", relabelled),
        ("a policy of a namespace", namespaced),
        ("a policy over all pods", everywhere),
    ):
        seconds = []
        for _ in range(3):
            seconds.append(_timed(change)[0])
            restored()
        figure = f"after a change of {title}, s"
        _row(report, figure, statistics.median(seconds), SECONDS_AGAIN_TARGET)


def _additions(
    report: Report, judge: Evaluator, endpoints: list[PolicyEndpoint], pairs: PackedConnections
) -> None:
    """New endpoints, and their first connections with the pods of a node."""
    chance = np.random.default_rng(5)
    local = chance.choice(cluster.PODS, NODE_PODS, replace=False).astype(np.int32)
    for title, end in (("addresses", PolicyEndpoint(ADDRESS)), ("pods of new kinds", endpoints[0])):
        seconds = []
        for turn in range(5):
            labels = [(("app", f"new-{turn}-{number}"),) for number in range(NEW)]
            fresh = [end._replace(labels=each) for each in labels]
            asked = _take(pairs, np.arange(turn * NEW_PAIRS, (turn + 1) * NEW_PAIRS))
            asked = asked._replace(local=chance.choice(local, NEW_PAIRS))
            seconds.append(_timed(partial(_add, judge, fresh, asked))[0])
        figure = f"{NEW} new {title}, {NEW_PAIRS:,} connections of theirs, ms"
        _row(report, figure, 1000 * statistics.median(seconds), MILLISECONDS_NEW_TARGET)


def _add(judge: Evaluator, fresh: list[PolicyEndpoint], asked: PackedConnections) -> None:
    first = judge.add_endpoints(fresh)
    judge.judge(asked._replace(peer=first + np.arange(NEW_PAIRS, dtype=np.int32) % NEW))


def _names(report: Report, rounds: int) -> None:
    """Rules by domain name, under which every flow has names of its own."""
    progress(f"{policy_names.LISTS:,} lists of domain names, {policy_names.NAMES:,} names")
    given = policy_names.world()
    asked = policy_names.flows(given, FLOWS, cluster.PAIRS, seed=7)
    cold, _ = _timed(lambda: given.evaluator.judge(asked))
    warm = statistics.median(_timed(lambda: given.evaluator.judge(asked))[0] for _ in range(rounds))
    _row(report, f"{FLOWS:,} flows with names, cold, s", cold, SECONDS_COLD_TARGET)
    _row(report, f"{FLOWS:,} flows with names, warm, s", warm, SECONDS_NAMES_TARGET)
    fresh = [policy_names.flows(given, NEW_PAIRS, cluster.PAIRS, seed) for seed in range(8, 13)]
    again = [_timed(partial(given.evaluator.judge, each))[0] for each in fresh]
    figure = f"{NEW_PAIRS:,} new connections with names, ms"
    _row(report, figure, 1000 * statistics.median(again), MILLISECONDS_NEW_TARGET)


def _denials(report: Report, policies: list[Policy]) -> None:
    """A pod that is denied thousands of connections a second under thousands of rules."""
    progress(f"{denials.DENIALS:,} denials an epoch, {denials.RULES:,} rules")
    for shape in denials.SHAPES:
        epochs = denials.run(shape, policies)
        first, *others = epochs.seconds
        _row(report, f"denied {shape}, first epoch, s", first, SECONDS_FIRST_EPOCH_TARGET)
        _row(
            report, f"denied {shape}, slowest epoch after it, s", max(others), SECONDS_EPOCH_TARGET
        )
        missing = denials.DENIALS * denials.EPOCHS - epochs.denied
        report.rows.append((f"denied {shape}, without a reason", missing, 0, not missing))


def _check(report: Report, judge: Evaluator, world: World, pairs: PackedConnections) -> None:
    engine, judged = Engine(world.policies), judge.judge(pairs)
    wrong = sum(
        engine.direction_verdict(judge.rule_input(pairs, index))
        != judge.outcome(int(judged.outcome[index]))
        for index in range(CHECKED)
    )
    report.rows.append(
        (f"of {CHECKED:,} pairs judged otherwise by the engine", wrong, 0, not wrong)
    )
    for code, word in enumerate(("allowed", "denied", "undeclared", "unknown")):
        share = float(np.mean(judged.verdict == code))
        report.rows.append((f"share {word}", share, None, True))


def _row(report: Report, figure: str, value: float, target: float | None) -> None:
    report.rows.append((figure, value, target, target is None or value <= target))


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    gc.collect()
    start = time.process_time()
    made = work()
    return time.process_time() - start, made


def _take(pairs: PackedConnections, index: NDArray[np.int64]) -> PackedConnections:
    return PackedConnections._make(column[index] for column in pairs)


def _bytes(connections: PackedConnections) -> int:
    return sum(column.nbytes for column in connections if not isinstance(column, NameColumn))


def _kept_bytes() -> int:
    """Return memory in use, without what the allocator keeps."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return _anonymous_bytes()


def _anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) << 10
    raise PodtallyError("/proc/self/status has no RssAnon")
