# SPDX-License-Identifier: Apache-2.0
"""``podtally detach``: detaches the programs from every interface, and unpins everything."""

import argparse
import json
import socket
import sys

from podtally import config
from podtally.commands.shared.arguments import add_directories, add_output
from podtally.commands.shared.tables import print_table

_EPILOG = """\
examples:
  podtally detach --pin-dir /sys/fs/bpf/podtally
  podtally detach --purge      # to uninstall: nothing of podtally stays on this host

Stop `podtally run` first. All counts are saved in the checkpoint; the next `podtally run`
continues from them, unless --purge removed it.
Exit codes: 0 done, or nothing was attached; 2 usage error, or a fixable problem.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    add_directories(parser)
    parser.add_argument(
        "--purge",
        action="store_true",
        help="also remove the checkpoint and the history: the counts are lost",
    )
    add_output(parser)


def main(args: argparse.Namespace) -> int:
    from podtally.runtime.detach import detach, purge

    settings = config.from_arguments(args)
    removed = detach(settings)
    purged = purge(settings) if args.purge else []
    found = [{"interface": _interface(each.ifindex), **each._asdict()} for each in removed]
    if args.output == "json":
        report = {"detached": found, "removed": [str(path) for path in purged]}
        print(json.dumps(report, indent=2))
        return 0
    if found:
        rows = [(each["interface"], each["hook"], each["mode"]) for each in found]
        print_table(("INTERFACE", "HOOK", "MODE"), rows, [False] * len(rows), sys.stdout)
    print(f"programs detached: {len(removed)}; nothing is pinned any more")
    for path in purged:
        print(f"removed {path}")
    return 0


def _interface(ifindex: int) -> str:
    """Return the interface's name; its number if it is gone."""
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return f"ifindex:{ifindex}"
