# SPDX-License-Identifier: Apache-2.0
"""DNS under attack: hostile messages, a flood from one pod beside others, and the table's size.

`hostile` hands mutated, truncated and looping messages, 64 KiB over TCP and damaged ClientHellos
to the parsers. `flood` sends 100,000 questions a second from one pod, behind a real agent, while
other pods ask a resolver: their names must be complete. `table` fills the table of names.
"""

import argparse
import json
import subprocess
import sys

from bench import dns_hostile
from bench.dns_flood import run as run_flood
from bench.report import Cell, Report, progress, show
from podtally.errors import PodtallyError

EXAMPLE = "scripts/bench dns --parts flood --seconds 20"
COLUMNS = ("figure", "measured", "asked", "ok")
PARTS = ("hostile", "flood", "table")
MESSAGE_MS, GROWTH_MB, TABLE_MB = 1.0, 5.0, 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), help="(default: all)"
    )
    parser.add_argument("--messages", type=int, default=1_000_000, help="hostile ones")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the flood")
    parser.add_argument("--rate", type=int, default=100_000, help="of the flood, a second")
    parser.add_argument("--pods", type=int, default=10, help="that ask meanwhile")
    parser.add_argument("--pairs", type=int, default=100_000, help="(endpoint, address) pairs")
    parser.add_argument("--seed", type=int, default=1)


def main(arguments: argparse.Namespace) -> int:
    if not 1 <= arguments.pods <= 100 or arguments.messages < 1 or arguments.pairs < 1:
        raise PodtallyError("--pods must be 1 to 100, --messages and --pairs at least 1")
    report = Report(COLUMNS, [])
    for part in arguments.parts:
        report.rows.extend(_FIGURES[part](arguments))
    show(report, arguments.output)
    return 0 if report.met else 1


def _hostile(arguments: argparse.Namespace) -> list[tuple[Cell, ...]]:
    progress(f"parsing {arguments.messages:,} hostile messages")
    found = dns_hostile.run(arguments.messages, arguments.seed)
    return [
        ("hostile messages", found.messages, "", True),
        ("of them that raised an error", found.raised, 0, not found.raised),
        ("longest one, ms of CPU", found.longest_ms, MESSAGE_MS, found.longest_ms <= MESSAGE_MS),
        ("longer than 1 ms", found.long, 0, not found.long),
        ("on average, µs of CPU", found.average_us, "", True),
        ("growth after a tenth, MB", found.growth_mb, GROWTH_MB, found.growth_mb <= GROWTH_MB),
    ]


def _flood(arguments: argparse.Namespace) -> list[tuple[Cell, ...]]:
    found = run_flood(arguments.pods, arguments.seconds, arguments.rate)
    rate = found.sent / arguments.seconds
    complete = found.answered == found.asked
    return [
        ("flood, messages a second", rate, arguments.rate, rate >= arguments.rate * 0.9),
        ("lost of the pod that floods", found.lost, "> 0", found.lost > 0),
        ("lost of other pods", found.lost_of_others, 0, not found.lost_of_others),
        ("questions of other pods", found.asked, "", True),
        ("of them counted with their answer", found.answered, found.asked, complete),
        ("names of other pods", found.names, "", True),
        ("of them known", found.known, found.names, found.known == found.names),
        ("epochs", found.epochs, "", True),
        ("of them more than 1 s late", found.late, 0, not found.late),
        ("agent's CPU, cores", found.cores, "", True),
    ]


def _table(arguments: argparse.Namespace) -> list[tuple[Cell, ...]]:
    progress(f"filling a table of {arguments.pairs:,} pairs")
    done = subprocess.run(
        [sys.executable, "-m", "bench.dns_table", str(arguments.pairs)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    return [
        ("pairs in the table", found["pairs"], arguments.pairs, found["pairs"] == arguments.pairs),
        ("names and aliases", found["texts"], "", True),
        ("memory, MB", found["mb"], TABLE_MB, found["mb"] <= TABLE_MB),
        ("an epoch's update of 1,000 answers, ms of CPU", found["update_ms"], "", True),
    ]


_FIGURES = {"hostile": _hostile, "flood": _flood, "table": _table}
