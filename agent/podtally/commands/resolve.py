# SPDX-License-Identifier: Apache-2.0
"""``podtally resolve``: shows the owners of an address, now or at a given time."""

import argparse
import datetime
import sys
from collections.abc import Sequence
from typing import TextIO

from podtally.api import schema
from podtally.commands import agent_query, times
from podtally.commands.arguments import print_json
from podtally.commands.tables import print_table
from podtally.errors import PodtallyError

_EPILOG = """\
examples:
  podtally resolve 10.0.0.7
  podtally resolve 10.0.0.7 --at 14:05
  podtally resolve 2001:db8::7 --at '5m ago'

Queries the running agent for the current owner and earlier ones, as far back as unread flows
may need them. `-` under FROM: unknown; under UNTIL: it still has the address.
Exit codes: 0 an owner is known, 1 none is, 2 usage error, or a fixable problem (no agent
answers).
"""
HEADS = ("KIND", "NAMESPACE", "NAME", "WORKLOAD", "SCOPE", "FROM", "UNTIL")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    add_address(parser)
    agent_query.add_arguments(parser)


def add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="ADDRESS", help="an IPv4 or IPv6 address")
    parser.add_argument(
        "--at",
        metavar="TIME",
        help="the owner at that time: RFC 3339, HH:MM[:SS] of today, 90s or '5m ago'",
    )


def query(args: argparse.Namespace) -> dict[str, str]:
    """Return the query that the arguments ask for; PodtallyError."""
    try:
        asked = {"address": schema.plain_address(args.address)}
    except ValueError as error:
        raise PodtallyError(str(error), "for example: podtally resolve 10.0.0.7") from None
    if args.at is not None:
        at = times.parse(args.at, datetime.datetime.now().astimezone())
        asked["at"] = at.isoformat()
    return asked


def main(args: argparse.Namespace) -> int:
    """Return 0 if an owner is known, else 1."""
    agent = agent_query.agent_address(args)
    reply = agent_query.query(agent, schema.RESOLVE, schema.ResolveReply, **query(args))
    if args.output == "json":
        print_json(reply, sys.stdout)
    elif reply.owners:
        show(reply.owners, sys.stdout)
    else:
        then = f" at {reply.at}" if reply.at else ""
        print(f"no known owner of {reply.address}{then}", file=sys.stderr)
    return 0 if reply.owners else 1


def show(owners: Sequence[schema.AddressOwner], out: TextIO) -> None:
    """Write the table: the current owner first, then earlier ones, the latest first."""
    past_last = sorted(owners, key=lambda each: (not each.until, each.until, each.from_))[::-1]
    marked = [each.kind == "unknown" for each in past_last]
    print_table(HEADS, [cells(each) for each in past_last], marked, out)


def cells(each: schema.AddressOwner) -> tuple[str, ...]:
    names = (each.kind, each.namespace, each.name, each.workload, each.scope)
    return (*names, each.from_, each.until)
