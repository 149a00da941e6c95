# SPDX-License-Identifier: Apache-2.0
"""Parses the command line and runs the command; only that command is imported."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

from podtally import __version__
from podtally.commands.shared.exit_codes import OK, exit_code


class Command(NamedTuple):
    """``module`` has add_arguments() and main(); ``text`` is the command's line in --help."""

    module: str
    text: str


# The groups of `podtally --help`, the most used commands first.
GROUPS: dict[str, dict[str, Command]] = {
    "start here": {
        "top": Command("commands.top", "show live traffic by workload and peer, with verdicts"),
        "explain": Command("commands.explain", "explain why policies allow or deny a connection"),
        "doctor": Command(
            "doctor.command", "check host requirements, and say how to fix what is missing"
        ),
        "flows": Command("commands.flows", "show what was connected to what, and when"),
    },
    "the agent": {
        "run": Command(
            "commands.run", "run the agent: count traffic, evaluate policies, export metrics"
        ),
        "demo": Command("demo.command", "run podtally on generated traffic, in network namespaces"),
        "health": Command("commands.health", "check whether the running agent is healthy"),
        "history": Command("commands.history", "export the history; print the ClickHouse schema"),
        "config": Command("commands.config_check", "check a configuration file"),
        "detach": Command("commands.detach", "remove the kernel programs and stop counting"),
    },
    "endpoints, addresses and names": {
        "endpoints": Command("commands.endpoints", "list the endpoint behind each interface"),
        "resolve": Command(
            "commands.resolve",
            "show the owner of an address, or the addresses of a name",
        ),
        "dns": Command("commands.dns", "show live DNS questions, answers and response times"),
    },
    "policies": {
        "check": Command("commands.check", "lint policies and run their test cases"),
        "suggest": Command(
            "commands.suggest", "write policies from observed traffic, and prove them"
        ),
        "audit": Command(
            "commands.audit",
            "show whether the cluster enforces its policies",
        ),
        "candidates": Command(
            "commands.candidates", "show what candidate policies would change (dry run)"
        ),
    },
    "other": {
        "version": Command("commands.version", "print the version"),
        "query": Command("commands.query", "print the agent's reply to one request, unchanged"),
        "completion": Command("commands.completion", "print shell completion, or the man page"),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}
DESCRIPTION = "Exact byte accounting of every pod's traffic, without touching a packet."
EPILOG = "Run `podtally COMMAND --help` for the options of a command, and examples."


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        print(build_parser(()).format_help(), end="")
        return OK
    command = next((word for word in arguments if word in COMMANDS), None)
    args = build_parser(() if command is None else (command,)).parse_args(arguments)
    return exit_code(lambda: int(_module(args.command).main(args)))


class _Parser(argparse.ArgumentParser):
    """Prints the commands in groups."""

    def format_help(self) -> str:
        width = max(map(len, COMMANDS))
        lines = [f"usage: {self.prog} COMMAND [OPTION ...]", "", DESCRIPTION]
        for group, commands in GROUPS.items():
            lines += ["", f"{group}:"]
            lines += [f"  {name:{width}}  {command.text}" for name, command in commands.items()]
        return "\n".join([*lines, "", EPILOG, ""])


def build_parser(complete: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser; only commands in ``complete`` get their arguments."""
    parser = _Parser(prog="podtally", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"podtally {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=argparse.ArgumentParser
    )
    for name, (_, text) in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in complete:
            _module(name).add_arguments(command)
    return parser


def _module(command: str) -> ModuleType:
    return importlib.import_module(f"podtally.{COMMANDS[command].module}")


if __name__ == "__main__":
    sys.exit(main())
