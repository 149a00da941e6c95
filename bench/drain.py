# SPDX-License-Identifier: Apache-2.0
"""Cost per flow of an epoch: read, join, attribute, book and clear.

The flows are put into the table by packets. The first epoch makes them known
connections; the epochs after it are measured, step by step, in CPU time of this
process. The raw read, beside it, is the floor: the hot rows copied once.
"""

import argparse
import gc
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.packet import ipv4_tcp
from bench.report import Report, progress, show
from bench.rig import LOOPBACK, Rig, loaded
from podtally.errors import PodtallyError
from podtally.identity.addresses import ClaimBook
from podtally.identity.model import Endpoint
from podtally.identity.name_table import Names, build_names, build_networks
from podtally.kernel import abi
from podtally.ledger.checkpoint.checkpoint import Checkpoint, Position
from podtally.ledger.connections.connections import flags_of
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.ledger import Ledger, Limits
from podtally.runtime.extras import Extras

EXAMPLE = "scripts/bench drain --rounds 9"
COLUMNS = ("step", "flows", "cpu_s", "ns_per_flow", "target_s", "ok")
FLOWS = 1 << 20  # what the packets are turned into; as many of them as a case wants are sent


class Case(NamedTuple):
    flows: int
    target_seconds: float


CASES = (Case(1_000_000, 0.6), Case(100_000, 0.06))
MEMORY_TARGET = 400 << 20


class Times(NamedTuple):
    """CPU seconds of one epoch's steps."""

    raw: float
    book: float
    clear: float
    checkpoint: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rounds", type=int, default=7, help="epochs of each size (default: %(default)s)"
    )


def main(arguments: argparse.Namespace) -> int:
    report = Report(COLUMNS, [])
    progress("loading")
    with loaded(CASES[0].flows) as rig:
        for case in CASES:
            progress(f"{case.flows:,} flows")
            _measure(rig, case, arguments.rounds, report)
    show(report, arguments.output)
    return 0 if report.met else 1


def _measure(rig: Rig, case: Case, rounds: int, report: Report) -> None:
    layout = abi.current()
    ledger = Ledger(
        flags_of(layout),
        Limits(series=10_000, connections=2 * FLOWS, grace_ns=10**12),
    )
    ledger.interfaces.appeared(LOOPBACK, "bench0", (0, 0))
    networks = build_networks({})
    pod = Endpoint("shop", "web-0", "web", "Deployment", "static")
    names = build_names({LOOPBACK: pod}, {}, ClaimBook(networks.owners).table(), networks)
    rig.clear()
    _epoch(rig, case.flows, ledger, names)
    gc.collect()
    with _peak_of_anonymous_memory() as peak:
        taken = [_epoch(rig, case.flows, ledger, names) for _ in range(rounds)]
    overflow = int(rig.books.read().packets.sum()) // (rounds + 1)
    if len(ledger.connections) + overflow != case.flows:
        raise PodtallyError(f"{len(ledger.connections)} connections of {case.flows} flows")
    medians = Times(*(statistics.median(column) for column in zip(*taken, strict=True)))
    whole = medians.book + medians.clear
    for step, seconds, target in (
        ("raw read (floor)", medians.raw, 0.0),
        ("read, join, attribute, book", medians.book, 0.0),
        ("clear", medians.clear, 0.0),
        ("checkpoint (separate)", medians.checkpoint, 0.0),
        ("all without the checkpoint", whole, case.target_seconds),
    ):
        met = not target or seconds <= target
        nanoseconds = seconds / case.flows * 1e9
        report.rows.append((step, case.flows, round(seconds, 4), nanoseconds, target, met))
    if case is CASES[0]:
        mib, limit = peak[0] / (1 << 20), MEMORY_TARGET / (1 << 20)
        report.rows.append(
            ("peak memory without the tables, MiB", case.flows, mib, 0.0, limit, mib <= limit)
        )


def _epoch(rig: Rig, flows: int, ledger: Ledger, names: Names) -> Times:
    rig.run("podtally", ipv4_tcp(), FLOWS, flows)
    table = rig.table
    half = table.epoch & 1
    table.flip()
    table.fence()
    start = time.process_time()
    table.raw_rows(half)
    raw = time.process_time()
    present = EpochContext(names, time.monotonic_ns())
    for rows in table.read(half):
        ledger.book_rows(rows, table.cold, present)
    ledger.book_kernel_accounts(rig.books.read())
    ledger.settle(present, ())
    booked = time.process_time()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        Checkpoint(Path(directory)).write(
            Position("boot", "bench", 0), ledger.save() | Extras().save()
        )
    written = time.process_time()
    table.clear(half)
    cleared = time.process_time()
    return Times(raw - start, booked - raw, cleared - written, written - booked)


@contextmanager
def _peak_of_anonymous_memory() -> Iterator[list[int]]:
    """The highest RssAnon seen, in bytes, in a list of one: what the process has for itself."""
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon"):
                    peak[0] = max(peak[0], int(line.split()[1]) << 10)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
