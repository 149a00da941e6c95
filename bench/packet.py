# SPDX-License-Identifier: Apache-2.0
"""Cost per packet, against a plain counter of 5-tuples.

In a loop each case runs every program in random order, again and again; the medians count,
less that of an empty program. One packet is turned into the next flow before every run.
The last case is the real packet path: bench/real_path.py.
"""

import argparse
import random
import socket
import statistics
import struct
from typing import NamedTuple

from bench import real_path
from bench.report import Cell, Report, progress, show
from bench.rig import MAX_FLOWS, Rig, loaded
from podtally.errors import PodtallyError

EXAMPLE = "scripts/bench packet --rounds 51 --output json"
COLUMNS = ("case", "plain_ns", "podtally_ns", "ratio", "target", "ok")
TIMES = 400_000  # packets a run: some 40 ms


class Case(NamedTuple):
    name: str
    flows: int
    target: float | None  # podtally's cost, as a part of the plain counter's; None: nothing asked
    is_new: bool = False  # every packet begins a flow


CASES = (
    Case("1 flow", 1, 0.35),
    Case("1,024 flows", 1024, 0.35),
    Case("8,192 flows", 8192, None),
    Case("65,536 flows", MAX_FLOWS, 0.8),
    Case("new flows", MAX_FLOWS, 0.7, is_new=True),
)
REAL_PATH = Case("1,024 flows", 1024, 0.5)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rounds", type=int, default=21, help="how often each case runs (default: %(default)s)"
    )


def main(arguments: argparse.Namespace) -> int:
    report = Report(COLUMNS, [])
    progress("loading")
    with loaded() as rig:
        for family, packet in (("IPv4 TCP", ipv4_tcp()), ("IPv6 UDP", ipv6_udp())):
            for case in CASES:
                progress(f"{family}, {case.name}")
                plain, podtally = measure(rig, packet, case, arguments.rounds)
                report.rows.append(_row(f"{family}, {case.name}", plain, podtally, case.target))
        name = f"real path, IPv4 UDP, {REAL_PATH.name}"
        progress(name)
        plain, podtally = real_path.measure(rig, REAL_PATH.flows, arguments.rounds)
        report.rows.append(_row(name, plain, podtally, REAL_PATH.target))
    show(report, arguments.output)
    return 0 if report.met else 1


def _row(name: str, plain: float, podtally: float, target: float | None) -> tuple[Cell, ...]:
    ratio = podtally / plain
    return (name, plain, podtally, ratio, target, target is None or ratio <= target)


def measure(rig: Rig, packet: bytes, case: Case, rounds: int) -> tuple[float, float]:
    """Nanoseconds a packet of the plain counter and of podtally, the empty program's taken off."""
    times = case.flows if case.is_new else TIMES
    taken: dict[str, list[float]] = {name: [] for name in rig.programs}
    rig.clear()
    if not case.is_new:
        rig.settle(lambda: rig.run("podtally", packet, case.flows, case.flows))
        for name in taken:
            rig.run(name, packet, case.flows, case.flows)
    for _ in range(rounds):
        for name in random.sample(list(taken), len(taken)):
            if case.is_new:
                rig.clear()
            taken[name].append(rig.run(name, packet, case.flows, times))
            if case.is_new and name == "podtally":
                _require_all_counted(rig, case, times)
    if not case.is_new:
        _require_all_counted(rig, case, case.flows + rounds * times)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    return medians["plain"] - medians["empty"], medians["podtally"] - medians["empty"]


def _require_all_counted(rig: Rig, case: Case, sent: int) -> None:
    counted = rig.counted()
    if counted != sent:
        raise PodtallyError(f"{case.name}: {sent} packets were sent, {counted} counted")


def ipv4_tcp() -> bytes:
    ends = socket.inet_aton("10.99.0.1") + socket.inet_aton("10.99.0.2")
    header = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, socket.IPPROTO_TCP, 0) + ends
    segment = struct.pack("!HHIIBBHHH", 0, 443, 1, 1, 0x50, 0x10, 1000, 0, 0)
    return bytes(12) + b"\x08\x00" + header + segment + bytes(20)


def ipv6_udp() -> bytes:
    ends = b"".join(socket.inet_pton(socket.AF_INET6, f"2001:db8::{i}") for i in (1, 2))
    header = struct.pack("!IHBB", 6 << 28, 28, socket.IPPROTO_UDP, 64) + ends
    return bytes(12) + b"\x86\xdd" + header + struct.pack("!HHHH", 0, 443, 28, 0) + bytes(20)
