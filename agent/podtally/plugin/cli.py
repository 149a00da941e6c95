# SPDX-License-Identifier: Apache-2.0
"""The command line of ``kubectl podtally``; only the command that is run is imported."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

from podtally import __version__
from podtally.commands.shared.exit_codes import OK, exit_code

DESCRIPTION = "Query the podtally agents of a Kubernetes cluster, with your kubeconfig."
COMMANDS = {
    "top": "show live traffic of the cluster by workload and peer, with verdicts",
    "endpoints": "list the endpoints of all nodes",
    "resolve": "show the owner of an address, or the addresses of a domain name, now or earlier",
    "explain": "explain why policies allow or deny a connection",
    "flows": "show what was connected to what, and when, from all nodes' histories",
    "dns": "show live who queries which names, and how they are answered",
    "candidates": "show what candidate policies would change (dry run)",
    "health": "check whether all agents are healthy",
    "doctor": "check host requirements on every node",
}
_EPILOG = "Run `kubectl podtally COMMAND --help` for the options of a command, and examples."


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        build_parser(()).print_help()
        return OK
    command = next((word for word in arguments if word in COMMANDS), None)
    args = build_parser(() if command is None else (command,)).parse_args(arguments)
    return exit_code(lambda: _run(args))


def build_parser(complete: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser; only commands in ``complete`` get their arguments."""
    parser = argparse.ArgumentParser(
        prog="kubectl podtally", description=DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument("--version", action="version", version=f"podtally {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in complete:
            module = _module(name)
            command.epilog = module.EPILOG
            module.add_arguments(command)
            shaped = not getattr(module, "HAS_OUTPUT", False)
            importlib.import_module("podtally.plugin.fleet").add_arguments(command, shaped)
    return parser


def _run(args: argparse.Namespace) -> int:
    agents = importlib.import_module("podtally.plugin.fleet").open_fleet(args)
    try:
        return int(_module(args.command).main(args, agents))
    finally:
        agents.close()


def _module(command: str) -> ModuleType:
    return importlib.import_module(f"podtally.plugin.{command}")


if __name__ == "__main__":
    sys.exit(main())
