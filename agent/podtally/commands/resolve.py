# SPDX-License-Identifier: Apache-2.0
"""``podtally resolve``: who has an address, or had it at a time."""

import argparse
import datetime
import sys
from collections.abc import Sequence
from typing import TextIO

from podtally.api import schema
from podtally.commands import agent_query, times
from podtally.commands.columns import print_columns
from podtally.errors import PodtallyError

_EPILOG = """\
examples:
  podtally resolve 10.0.0.7
  podtally resolve 10.0.0.7 --at 14:05
  podtally resolve 2001:db8::7 --at '5m ago'

Asks the running agent: who has the address, and who had it before, as far back as flows
can still be read. `-` under FROM: not known since when; under UNTIL: it has it now.
Exit codes: 0 somebody has or had it, 1 nobody known, 2 wrong use or no agent answers.
"""
_HEADS = ("KIND", "NAMESPACE", "NAME", "WORKLOAD", "SCOPE", "FROM", "UNTIL")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument("address", metavar="ADDRESS", help="IPv4 or IPv6")
    parser.add_argument(
        "--at",
        metavar="TIME",
        help="who had it then: RFC 3339, HH:MM[:SS] of today, 90s or '5m ago' (also --at=-90s)",
    )
    agent_query.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Return 0 if somebody has or had the address, 1 if not."""
    agent = agent_query.agent_address(args)
    try:
        query = {"address": schema.plain_address(args.address)}
    except ValueError as error:
        raise PodtallyError(str(error), "for example: podtally resolve 10.0.0.7") from None
    if args.at is not None:
        at = times.parse(args.at, datetime.datetime.now().astimezone())
        query["at"] = at.isoformat()
    told = agent_query.query(agent, schema.RESOLVE, schema.ResolveReply, **query)
    if args.output == "json":
        agent_query.print_json(told, sys.stdout)
    elif told.held:
        show(told.held, sys.stdout)
    else:
        then = f"had {told.address} at {told.at}" if told.at else f"has or had {told.address}"
        print(f"nobody known {then}", file=sys.stderr)
    return 0 if told.held else 1


def show(held: Sequence[schema.AddressOwner], out: TextIO) -> None:
    """Write the table: who has it now, then who had it last."""
    past_last = sorted(held, key=lambda each: (not each.until, each.until, each.from_))[::-1]
    doubtful = [each.kind == "unknown" for each in past_last]
    print_columns(_HEADS, [_words(each) for each in past_last], doubtful, out)


def _words(each: schema.AddressOwner) -> tuple[str, ...]:
    who = (each.kind, each.namespace, each.name, each.workload, each.scope)
    return (*who, each.from_, each.until)
