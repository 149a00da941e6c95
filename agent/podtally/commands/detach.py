# SPDX-License-Identifier: Apache-2.0
"""``podtally detach``: detaches the programs from every interface, and unpins everything."""

import argparse
import json
import sys

from podtally import config
from podtally.commands.arguments import add_directories, add_output
from podtally.commands.tables import print_table

_EPILOG = """\
example:
  podtally detach --pin-dir /sys/fs/bpf/podtally

Stop `podtally run` first. All counts are saved in the checkpoint; the next `podtally run`
continues from them.
Exit codes: 0 done, or nothing was attached; 2 usage error, or a fixable problem.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    add_directories(parser)
    add_output(parser)


def main(args: argparse.Namespace) -> int:
    from podtally.runtime.detach import detach

    removed = detach(config.from_arguments(args))
    if args.output == "json":
        print(json.dumps({"detached": [each._asdict() for each in removed]}, indent=2))
        return 0
    if removed:
        rows = [(str(each.ifindex), each.hook, each.mode) for each in removed]
        print_table(("IFINDEX", "HOOK", "MODE"), rows, [False] * len(rows), sys.stdout)
    print(f"programs detached: {len(removed)}; nothing is pinned any more")
    return 0
