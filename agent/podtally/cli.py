"""The command line: reads it, and hands over to the command; imports a command only to run it."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from podtally import __version__
from podtally.errors import PodtallyError

# Command: the module that has add_arguments() and main(), and its line in --help.
COMMANDS = {
    "run": ("podtally.commands.run", "count, name and export until stopped"),
    "demo": ("podtally.demo.command", "show it at work on traffic of its own"),
    "doctor": ("podtally.doctor.command", "say what this host offers and lacks"),
    "top": ("podtally.commands.top", "show what leaves the workloads here, and whether it may"),
    "endpoints": ("podtally.commands.endpoints", "show who is behind each interface"),
    "resolve": ("podtally.commands.resolve", "tell who has an address, or had it"),
    "check": ("podtally.commands.check", "read policies, and ask them what tests expect"),
    "explain": ("podtally.commands.explain", "say why policies let a connection pass, or not"),
    "candidates": ("podtally.commands.candidates", "show what candidate policies would change"),
    "config": ("podtally.commands.config_check", "check a configuration before an agent reads it"),
    "health": ("podtally.commands.health", "tell whether the agent here is well"),
    "detach": ("podtally.commands.detach", "take the kernel programs off, and end the counting"),
}
FINE, FINDING, WRONG_USE = 0, 1, 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser(arguments)
    args = parser.parse_args(arguments)
    module = _module(args.command)
    try:
        code = int(module.main(args))
        sys.stdout.flush()  # what nobody reads is found out now, not when the interpreter ends
        return code
    except PodtallyError as error:
        print(f"podtally: {error}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `podtally ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left of it
        return FINE


def _parser(arguments: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="podtally",
        description="Exact books of every pod's traffic, kept without touching a packet.",
        epilog="example: podtally run --interfaces 'veth*' --listen 127.0.0.1:9775",
    )
    parser.add_argument("--version", action="version", version=f"podtally {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    asked = next((word for word in arguments if word in COMMANDS), None)
    for name, (_, text) in COMMANDS.items():
        command = commands.add_parser(
            name, help=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name == asked:
            _module(name).add_arguments(command)
    return parser


def _module(command: str) -> ModuleType:
    return importlib.import_module(COMMANDS[command][0])


if __name__ == "__main__":
    sys.exit(main())
