# SPDX-License-Identifier: Apache-2.0
"""Measure podtally against its targets; each benchmark is a module of this package."""

import argparse
import sys
from typing import Protocol

from bench import (
    agent,
    attack,
    audit,
    dns,
    domains,
    drain,
    fleet,
    history,
    identity,
    judge,
    name,
    outcomes,
    packet,
    reuse,
    scrape,
    soak,
    start,
    suggest,
)
from podtally.errors import PodtallyError


class Benchmark(Protocol):
    """A module; the first line of its docstring is its help."""

    EXAMPLE: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def main(self, arguments: argparse.Namespace) -> int:
        """Measure and print; return 0, or 1 if a target is missed."""
        ...


BENCHMARKS: dict[str, Benchmark] = {
    "packet": packet,
    "drain": drain,
    "agent": agent,
    "scrape": scrape,
    "soak": soak,
    "attack": attack,
    "identity": identity,
    "name": name,
    "reuse": reuse,
    "judge": judge,
    "fleet": fleet,
    "history": history,
    "suggest": suggest,
    "outcomes": outcomes,
    "audit": audit,
    "domains": domains,
    "dns": dns,
    "start": start,
}


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog="scripts/bench",
        description=__doc__,
        epilog="example: scripts/bench packet",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=100),
    )
    commands = whole.add_subparsers(required=True, metavar="BENCHMARK")
    for title, module in BENCHMARKS.items():
        summary = (module.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(
            title, help=summary, description=summary, epilog=f"example: {module.EXAMPLE}"
        )
        module.add_arguments(command)
        command.add_argument("--output", choices=("table", "json"), default="table")
        command.set_defaults(main=module.main)
    return whole


def main() -> int:
    arguments = parser().parse_args()
    try:
        return int(arguments.main(arguments))
    except PodtallyError as error:
        print(f"scripts/bench: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
