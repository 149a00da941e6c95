# SPDX-License-Identifier: Apache-2.0
"""``podtally dns``: shows live who queries which names, how they are answered, and how soon."""

import argparse
import signal
import sys
import time
from typing import NoReturn

from podtally.api import schema
from podtally.api.dns_schema import DnsQueries
from podtally.commands.shared import agent_query
from podtally.commands.shared.arguments import add_namespace, print_json
from podtally.commands.shared.screen import Screen
from podtally.commands.traffic import dns_table
from podtally.commands.traffic.top_options import add_interval, positive
from podtally.errors import PodtallyError

_EPILOG = """\
examples:
  podtally dns                          live, until Ctrl-C
  podtally dns --failed -n shop         what is not answered with NOERROR, of one namespace
  podtally dns --once | awk '$5 == "unanswered"'
  podtally dns --once -o json | jq '.queries[] | select(.seconds > 1)'

Queries the running agent, which remembers the last 8,192 questions of this host. A line sums
questions of one workload for one name and type, with the same answer of the same resolver; MEDIAN
and MAX are response times, LAST is the time of the last question. `!` marks a resolver that is
not trusted: its answers do not count for verdicts. -o json prints each question.
Exit codes: 0 fine, 2 usage error, or a fixable problem (no agent answers, DNS is not captured),
130 interrupted.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    agent_query.add_arguments(parser)
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add how often and which questions, of one agent or of a cluster."""
    add_interval(parser)
    parser.add_argument("--once", action="store_true", help="print the table once, and exit")
    parser.add_argument(
        "--failed", action="store_true", help="only questions without the answer NOERROR"
    )
    add_namespace(parser, "questions of endpoints")
    parser.add_argument("--limit", type=positive, metavar="N", help="at most N lines")


def main(args: argparse.Namespace) -> int:
    agent, words = agent_query.agent_address(args), query_words(args)
    screen = Screen(sys.stdout)
    if screen.live and not args.once and args.output == "text":
        signal.signal(signal.SIGINT, signal.default_int_handler)  # as `top` does
        try:
            _watch(agent, words, args, screen)
        finally:
            screen.leave()
    reply = _read(agent, words)
    if args.output == "json":
        print_json(reply, sys.stdout)
    else:
        dns_table.once(reply, args.limit, sys.stdout)
    return 0


def query_words(args: argparse.Namespace) -> dict[str, str]:
    """Return the parameters of the API's query."""
    words = {}
    if args.namespace is not None:
        words["namespace"] = args.namespace
    if args.failed:
        words["failed"] = "1"
    if args.limit is not None and args.output == "json":
        words["limit"] = str(args.limit)
    return words


def _read(agent: agent_query.AgentAddress, words: dict[str, str]) -> DnsQueries:
    return agent_query.query(agent, schema.DNS, DnsQueries, **words)


def _watch(
    agent: agent_query.AgentAddress,
    words: dict[str, str],
    args: argparse.Namespace,
    screen: Screen,
) -> NoReturn:
    """Show page after page until Ctrl-C; wait for an agent that does not answer for a while."""
    reply: DnsQueries | None = None
    while True:
        trouble = ""
        try:
            reply = _read(agent, words)
        except PodtallyError as error:
            if reply is None:
                raise
            trouble = str(error)
        head = f"podtally dns  {agent}"
        screen.show(dns_table.live(reply, args.limit, screen.style(), head, trouble))
        time.sleep(args.interval)
