# SPDX-License-Identifier: Apache-2.0
"""``podtally resolve``: shows the owners of an address, and the addresses of a domain name.

Both now or at a given time.
"""

import argparse
import datetime
import sys
from collections.abc import Sequence
from typing import TextIO

from podtally.api import schema
from podtally.api.dns_schema import NameAnswer, NameAnswers
from podtally.api.name_lookup import is_domain_name
from podtally.commands.shared import agent_query, times
from podtally.commands.shared.arguments import print_json
from podtally.commands.shared.tables import print_table, printable
from podtally.errors import PodtallyError

_EPILOG = """\
examples:
  podtally resolve 10.0.0.7
  podtally resolve 10.0.0.7 --at 14:05
  podtally resolve 2001:db8::7 --at '5m ago'
  podtally resolve api.example.com --at 14:05

Queries the running agent. Of an address: the current owner and earlier ones, as far back as unread
flows may need them. `-` under FROM: unknown; under UNTIL: it still has the address.
Of a domain name: which endpoints got which addresses, when, and from which resolver; with --at
what they knew then. TRUST: `trusted`, `untrusted` (the answer does not count for verdicts), or
`hint` (of a service record: rules by name do not count it). The agent keeps the first and the
latest answers of each endpoint; a name has a dot.
Exit codes: 0 an owner or an answer is known, 1 none is, 2 usage error, or a fixable problem (no
agent answers).
"""
NAME_HEADS = (
    *("NAMESPACE", "POD", "ADDRESS", "RESOLVER", "TRUST", "AT", "TTL", "EXPIRES", "ALIASES"),
)
HEADS = ("KIND", "NAMESPACE", "NAME", "WORKLOAD", "SCOPE", "FROM", "UNTIL")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    add_address(parser, "ADDRESS|NAME", "an IPv4 or IPv6 address, or a domain name")
    agent_query.add_arguments(parser)


def add_address(
    parser: argparse.ArgumentParser,
    what: str = "ADDRESS",
    text: str = "an IPv4 or IPv6 address",
) -> None:
    parser.add_argument("address", metavar=what, help=text)
    parser.add_argument(
        "--at",
        metavar="TIME",
        help="at that time: RFC 3339, HH:MM[:SS] of today, 90s or '5m ago'",
    )


def query(args: argparse.Namespace) -> dict[str, str]:
    """Return the query of the arguments; PodtallyError."""
    try:
        asked = {"address": schema.plain_address(args.address)}
    except ValueError as error:
        raise PodtallyError(str(error), "for example: podtally resolve 10.0.0.7") from None
    return asked | _at(args)


def name_query(args: argparse.Namespace) -> dict[str, str]:
    """Return the query for a domain name; PodtallyError."""
    return {"name": args.address} | _at(args)


def _at(args: argparse.Namespace) -> dict[str, str]:
    if args.at is None:
        return {}
    return {"at": times.parse(args.at, datetime.datetime.now().astimezone()).isoformat()}


def main(args: argparse.Namespace) -> int:
    """Return 0 if an owner or an answer is known, else 1."""
    agent = agent_query.agent_address(args)
    if is_name(args.address):
        return _name(args, agent)
    reply = agent_query.query(agent, schema.RESOLVE, schema.ResolveReply, **query(args))
    if args.output == "json":
        print_json(reply, sys.stdout)
    elif reply.owners:
        show(reply.owners, sys.stdout)
    else:
        then = f" at {reply.at}" if reply.at else ""
        print(f"no known owner of {reply.address}{then}", file=sys.stderr)
    return 0 if reply.owners else 1


def is_name(text: str) -> bool:
    """Return whether it can only be a domain name: no top-level domain is a number."""
    return is_domain_name(text) and not text.rstrip(".").rpartition(".")[2].isdigit()


def _name(args: argparse.Namespace, agent: agent_query.AgentAddress) -> int:
    words = name_query(args)
    reply = agent_query.query(agent, schema.NAMES, NameAnswers, **words)
    if args.output == "json":
        print_json(reply, sys.stdout)
    elif reply.answers:
        show_answers(reply.answers, sys.stdout)
        if reply.left_off:
            print(f"and {reply.left_off} earlier answers", file=sys.stderr)
    else:
        then = f" at {reply.at}" if reply.at else ""
        print(f"no DNS answer for {printable(reply.name)} is known{then}", file=sys.stderr)
    return 0 if reply.answers else 1


def show_answers(answers: Sequence[NameAnswer], out: TextIO) -> None:
    """Write the table, the last answer first; untrusted ones stand out."""
    marked = [not each.trusted for each in answers]
    print_table(NAME_HEADS, [answer_cells(each) for each in answers], marked, out)


def answer_cells(each: NameAnswer) -> tuple[str, ...]:
    trust = ("hint" if each.hint else "trusted") if each.trusted else "untrusted"
    resolver = each.resolver_name or each.resolver
    expires = f"{each.expires},expired" if each.expired else each.expires
    about = (each.namespace, each.pod, each.address, resolver, trust, each.at)
    return (*about, f"{each.ttl}s", expires, ",".join(each.chain))


def show(owners: Sequence[schema.AddressOwner], out: TextIO) -> None:
    """Write the table: the current owner first, then earlier ones, the latest first."""
    past_last = sorted(owners, key=lambda each: (not each.until, each.until, each.from_))[::-1]
    marked = [each.kind == "unknown" for each in past_last]
    print_table(HEADS, [cells(each) for each in past_last], marked, out)


def cells(each: schema.AddressOwner) -> tuple[str, ...]:
    names = (each.kind, each.namespace, each.name, each.workload, each.scope)
    return (*names, each.from_, each.until)
