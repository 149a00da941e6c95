# SPDX-License-Identifier: Apache-2.0
"""``podtally detach``: takes the programs off every interface, and unpins everything."""

import argparse
import json

from podtally import config
from podtally.commands.arguments import add_output, add_places

_EPILOG = """\
example:
  podtally detach --pin-dir /sys/fs/bpf/podtally

Stop `podtally run` first. What was counted up to now is booked in the checkpoint, so a
later `podtally run` goes on from there.
Exit codes: 0 done, or there was nothing to take off; 2 could not be done.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    add_places(parser)
    add_output(parser)


def main(args: argparse.Namespace) -> int:
    from podtally.runtime.detach import detach

    removed = detach(config.from_arguments(args))
    if args.output == "json":
        print(json.dumps({"detached": [each._asdict() for each in removed]}, indent=2))
        return 0
    for each in removed:
        print(f"ifindex {each.ifindex}\t{each.hook}\t{each.mode}\tdetached")
    print(f"{len(removed)} programs detached; nothing is pinned any more")
    return 0
