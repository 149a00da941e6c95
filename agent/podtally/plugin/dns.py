# SPDX-License-Identifier: Apache-2.0
"""``kubectl podtally dns``: shows live who queries which names in a cluster, and the answers."""

import argparse
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NoReturn

import msgspec

from podtally.api import schema
from podtally.api.dns_schema import DnsQueries, DnsQuery
from podtally.commands import dns
from podtally.commands.shared.arguments import print_json
from podtally.commands.shared.screen import Screen
from podtally.commands.traffic import dns_table
from podtally.plugin import fleet
from podtally.plugin.fleet import Fleet, NodeReply, UnreachableNode, short_list

EPILOG = """\
examples:
  kubectl podtally dns                        live, until Ctrl-C
  kubectl podtally dns --failed -n shop       what is not answered with NOERROR, of one namespace
  kubectl podtally dns --once | awk '$5 == "unanswered"'
  kubectl podtally dns --once -o json | jq '.queries[] | select(.seconds > 1) | .node'

Queries all agents; each remembers the last 8,192 questions of its node. A line sums questions of
one workload for one name and type, with the same answer of the same resolver, over all nodes; a
question is seen on the node of the endpoint that asks. Nodes that do not answer are listed.
Otherwise as `podtally dns`.
Exit codes: 0 fine, 1 a node did not answer (--once, -o json), 2 usage error, or a fixable problem
(no agent answers, DNS is captured nowhere), 130 interrupted.
"""


class NodeQuery(DnsQuery, frozen=True, kw_only=True):
    node: str


class ClusterQueries(msgspec.Struct, frozen=True):
    """The latest questions of all nodes, the last first."""

    queries: list[NodeQuery]
    remembered: int  # by all nodes, whatever is selected
    left_off: int  # selected, but beyond the limit
    unreachable: list[UnreachableNode]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    dns.add_options(parser)


def main(args: argparse.Namespace, agents: Fleet) -> int:
    """Return 0, or 1 if a node did not answer."""
    words, screen = dns.query_words(args), Screen(sys.stdout)
    if screen.live and not args.once and args.output == "text":
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            _watch(agents, words, args, screen)
        finally:
            screen.leave()
    found = agents.query(schema.DNS, DnsQueries, **words)
    found.require()
    if args.output == "json":
        merged = merge(found.replies, args.limit)
        print_json(msgspec.structs.replace(merged, unreachable=found.unreachable), sys.stdout)
    else:
        dns_table.once(_plain(merge(found.replies)), args.limit, sys.stdout)
    fleet.report_unreachable(found.unreachable, sys.stderr)
    return 1 if found.unreachable else 0


def merge(replies: Sequence[NodeReply[DnsQueries]], limit: int | None = None) -> ClusterQueries:
    """Return the questions of all nodes, the last first, at most ``limit``."""
    queries = [
        NodeQuery(**msgspec.structs.asdict(each), node=node)
        for node, reply in replies
        for each in reply.queries
    ]
    queries.sort(key=lambda each: each.at, reverse=True)
    kept = queries[:limit]
    left_off = sum(reply.left_off for _, reply in replies) + len(queries) - len(kept)
    return ClusterQueries(kept, sum(reply.remembered for _, reply in replies), left_off, [])


def _plain(merged: ClusterQueries) -> DnsQueries:
    return DnsQueries([*merged.queries], merged.remembered, merged.left_off)


def _watch(
    agents: Fleet, words: Mapping[str, str], args: argparse.Namespace, screen: Screen
) -> NoReturn:
    """Show page after page until Ctrl-C; of a node that does not answer, its last reply."""
    latest: dict[str, DnsQueries] = {}
    while True:
        found = agents.query(schema.DNS, DnsQueries, **words)
        if not latest:
            found.require()
        latest |= dict(found.replies)
        reply = _plain(merge([NodeReply(*each) for each in latest.items()]))
        head = f"kubectl podtally dns  {len(found.replies)} of {len(agents.nodes)} nodes"
        trouble = short_list(found.unreachable)
        screen.show(dns_table.live(reply, args.limit, screen.style(), head, trouble))
        time.sleep(args.interval)
