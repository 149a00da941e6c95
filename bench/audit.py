# SPDX-License-Identifier: Apache-2.0
"""The enforcement audit under random policies, with a data plane that enforces and without one.

Pods in namespaces of their own connect to each other, first past a node that lets everything
through, then past nftables rules that this module compiles from the policies. Without enforcement
all denied connections are to be found `not_enforced`, with it none.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bench.node import NODE, ip, remove_pins
from bench.outcomes_world import Run, samples
from bench.report import Report, progress, show

EXAMPLE = "scripts/bench audit --policies 50"
COLUMNS = ("figure", "value", "target", "ok")
NAMESPACES, PODS_EACH, IN_BATCH = 6, 2, 25
LABELS = ("a", "b")
SETTLE_SECONDS = 17.0  # policies are read again within 2 s, and count from 10 s later on
# Until connections are decided: after 3 s what policy denies and was answered, after 10 s of
# silence what was dropped.
DECIDED_SECONDS = {"without enforcement": 5.5, "with enforcement": 14.0}
BASES = {"without enforcement": 8000, "with enforcement": 9000}
SEED = 23


class Pod(NamedTuple):
    name: str  # of its network namespace
    namespace: str
    label: str
    address: str


class Peer(NamedTuple):
    """What a rule allows: pods of a namespace (None: its own) with a label (None: any)."""

    namespace: str | None
    label: str | None
    port: int | None  # None: all


class Rules(NamedTuple):
    """A policy: pods that it selects (None: all of its namespace), in one direction."""

    namespace: str
    label: str | None
    ingress: bool
    peers: tuple[Peer, ...]

    def selects(self, pod: Pod) -> bool:
        return pod.namespace == self.namespace and self.label in (None, pod.label)

    def allows(self, other: Pod, port: int) -> bool:
        return any(
            other.namespace == (each.namespace or self.namespace)
            and each.label in (None, other.label)
            and each.port in (None, port)
            for each in self.peers
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policies", type=int, default=500)


def main(arguments: argparse.Namespace) -> int:
    chance, report = random.Random(SEED), Report(COLUMNS, [])
    expected: Counter[tuple[str, str]] = Counter()
    pods = [
        Pod(f"ptl-bench-a{i}", f"n{i // PODS_EACH}", LABELS[i % 2], f"10.99.{100 + i}.2")
        for i in range(NAMESPACES * PODS_EACH)
    ]
    with tempfile.TemporaryDirectory() as state, made(pods) as running:
        file = Path(state) / "policies.yaml"
        file.write_text("")
        run = Run(state, (*_configuration(state, pods), "--policies", str(file)), 0)
        for first in range(0, arguments.policies, IN_BATCH):
            progress(f"policies {first} to {first + IN_BATCH - 1}")
            rules = [_random(chance) for _ in range(IN_BATCH)]
            temporary = file.with_suffix(".new")
            temporary.write_text(yaml.safe_dump_all(map(_object, range(IN_BATCH), rules)))
            temporary.rename(file)
            time.sleep(SETTLE_SECONDS)
            for mode, base in BASES.items():
                _enforce(_denied(rules, pods, base) if mode == "with enforcement" else [])
                _talk(chance, rules, pods, running, mode, expected)
                time.sleep(DECIDED_SECONDS[mode])
            _enforce([])
        found = _found()
        run.stop()
    for mode in BASES:
        at_ends = expected[mode, "denied at an end"]
        target = at_ends if mode == "without enforcement" else 0
        count = found[mode, "not_enforced"]
        report.rows.append((f"connections {mode}", expected[mode, "connections"], None, True))
        report.rows.append((f"denied at an end {mode}", at_ends, None, True))
        report.rows.append((f"found not enforced {mode}", count, target, count == target))
        for result in ("enforced", "blocked", "unavailable", "passed", "inconclusive"):
            report.rows.append((f"{result} {mode}", found[mode, result], None, True))
    show(report, arguments.output)
    return 0 if report.met else 1


def _random(chance: random.Random) -> Rules:
    def any_of(values: Any) -> Any:
        return chance.choice([None, *values])

    names = [f"n{i}" for i in range(NAMESPACES)]
    peers = tuple(
        Peer(any_of(names), any_of(LABELS), any_of(range(4))) for _ in range(chance.randrange(1, 6))
    )
    return Rules(chance.choice(names), any_of(LABELS), chance.random() < 0.5, peers)


def _denies(rules: list[Rules], own: Pod, other: Pod, port: int, ingress: bool) -> bool:
    selecting = [each for each in rules if each.ingress == ingress and each.selects(own)]
    return bool(selecting) and not any(each.allows(other, port) for each in selecting)


def _denied(rules: list[Rules], pods: list[Pod], base: int) -> list[tuple[str, str, int]]:
    """Return what the data plane drops: source, destination and port."""
    return [
        (source.address, target.address, base + port)
        for source in pods
        for target in pods
        for port in range(4)
        if source is not target
        and (
            _denies(rules, source, target, port, False)
            or _denies(rules, target, source, port, True)
        )
    ]


def _object(number: int, rules: Rules) -> dict[str, Any]:
    def selector(label: str | None) -> dict[str, Any]:
        return {} if label is None else {"matchLabels": {"app": label}}

    def peer(each: Peer) -> dict[str, Any]:
        rule: dict[str, Any] = {"podSelector": selector(each.label)}
        if each.namespace is not None:
            name = {"kubernetes.io/metadata.name": each.namespace}
            rule["namespaceSelector"] = {"matchLabels": name}
        return rule

    side = "ingress" if rules.ingress else "egress"
    listed = []
    for each in rules.peers:
        rule: dict[str, Any] = {"from" if rules.ingress else "to": [peer(each)]}
        if each.port is not None:
            rule["ports"] = [
                {"protocol": "TCP", "port": base + each.port} for base in BASES.values()
            ]
        listed.append(rule)
    spec = {
        "podSelector": selector(rules.label),
        "policyTypes": [side.capitalize()],
        side: listed,
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"random-{number}", "namespace": rules.namespace},
        "spec": spec,
    }


def _talk(  # noqa: PLR0913, PLR0917 - one call site
    chance: random.Random,
    rules: list[Rules],
    pods: list[Pod],
    running: list[subprocess.Popen[str]],
    mode: str,
    expected: Counter[tuple[str, str]],
) -> None:
    """Connect each pod to each other one, at a port by chance."""
    for source, process in zip(pods, running, strict=True):
        targets = []
        for target in pods:
            if target is not source:
                port = chance.randrange(4)
                targets.append((target.address, BASES[mode] + port))
                expected[mode, "connections"] += 1
                denied = _denies(rules, source, target, port, False)
                expected[mode, "denied at an end"] += denied
                denied = _denies(rules, target, source, port, True)
                expected[mode, "denied at an end"] += denied
        assert process.stdin is not None
        process.stdin.write(json.dumps(targets) + "\n")
        process.stdin.flush()
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()


def _found() -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    modes = {str(base)[0]: mode for mode, base in BASES.items()}
    for labels, value in samples("podtally_policy_enforcement_total"):
        if labels["port"][0] in modes:
            found[modes[labels["port"][0]], labels["result"]] += int(value)
    return found


def _configuration(state: str, pods: list[Pod]) -> tuple[str, ...]:
    endpoints = [
        {
            "netns": pod.name,
            "namespace": pod.namespace,
            "name": pod.name,
            "labels": {"app": pod.label},
        }
        for pod in pods
    ]
    path = Path(state) / "podtally.yaml"
    path.write_text(yaml.safe_dump({"kubernetes": "off", "endpoints": endpoints}))
    nothing = ("--cri-socket", "off", "--pod-logs", str(Path(state) / "no-logs"))
    return ("--config", str(path), *nothing)


def _enforce(denied: list[tuple[str, str, int]]) -> None:
    """Replace the data plane's rules."""
    text = "table inet audit {}\ndelete table inet audit\n"
    if denied:
        elements = ", ".join(f"{a} . {b} . {port}" for a, b, port in denied)
        text += (
            "table inet audit {\n set denied { type ipv4_addr . ipv4_addr . inet_service\n"
            f" elements = {{ {elements} }} }}\n chain forward {{\n"
            " type filter hook forward priority 0\n"
            " ip saddr . ip daddr . tcp dport @denied drop\n }\n}\n"
        )
    command = ["nsenter", f"--net=/run/netns/{NODE}", "nft", "-f", "-"]
    subprocess.run(command, input=text.encode(), check=True)


@contextmanager
def made(pods: list[Pod]) -> Iterator[list[subprocess.Popen[str]]]:
    """Make the node and its pods, each with a process that listens and connects."""
    running: list[subprocess.Popen[str]] = []
    try:
        ip(f"netns add {NODE}", f"-n {NODE} link set lo up")
        for number, pod in enumerate(pods):
            ip(
                f"netns add {pod.name}",
                f"-n {NODE} link add ptla{number} up type veth peer name eth0 netns {pod.name}",
                f"-n {pod.name} link set lo up",
                f"-n {pod.name} link set eth0 up",
                f"-n {pod.name} addr add {pod.address}/30 dev eth0",
                f"-n {NODE} addr add {pod.address[:-1]}1/30 dev ptla{number}",
                f"-n {pod.name} route add default via {pod.address[:-1]}1",
            )
        sysctl = ["nsenter", f"--net=/run/netns/{NODE}", "sysctl", "-qw", "net.ipv4.ip_forward=1"]
        subprocess.run(sysctl, check=True)
        for pod in pods:
            process = subprocess.Popen(
                [
                    "nsenter",
                    f"--net=/run/netns/{pod.name}",
                    sys.executable,
                    "-m",
                    "bench.audit_pod",
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            running.append(process)
            assert process.stdout is not None
            process.stdout.readline()
        yield running
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        remove_pins()
        for name in (*(pod.name for pod in pods), NODE):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
