# SPDX-License-Identifier: Apache-2.0
"""``kubectl podtally top``: shows the live traffic of a cluster, each connection once."""

import argparse
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

import msgspec

from podtally.api import schema
from podtally.commands.shared.arguments import print_json
from podtally.commands.shared.screen import Screen
from podtally.commands.traffic import top_table
from podtally.commands.traffic.conversation_rows import ConversationFilter, rows
from podtally.commands.traffic.conversations import TrafficSnapshot, TrafficTotal, snapshot_of
from podtally.commands.traffic.top_options import add_options, chosen_rows
from podtally.commands.traffic.top_table import ConversationRow, TopPage
from podtally.plugin import fleet
from podtally.plugin.agent_client import AgentClient
from podtally.plugin.fleet import Fleet, FleetReplies, UnreachableNode, short_list
from podtally.plugin.merged_traffic import merge

EPILOG = """\
examples:
  kubectl podtally top                        live, until Ctrl-C
  kubectl podtally top --outside --denied     what leaves the cluster against policy
  kubectl podtally top --node worker-3 --once

A line is the traffic of a workload with one peer on one server port, summed over all nodes. A
connection between two pods is shown once, as its opener sees it; between replicas of one
workload all bytes are under SENT. Nodes that do not answer are listed: while top runs, their
last counts stay in the sums. Otherwise as `podtally top`.
Exit codes: 0 fine, 1 the books of a node do not close, or a node did not answer (--once,
-o json), 2 usage error, or a fixable problem (no agent answers), 130 interrupted.
"""
_RATE_INTERVALS = 3


class NodeGap(msgspec.Struct, frozen=True):
    """A page of a node's books that does not close, in JSON."""

    node: str
    interface: str
    direction: str
    bytes: int | None  # None: not reported


class ClusterBooks(msgspec.Struct, frozen=True):
    bytes: int  # booked in total
    gaps: list[NodeGap]  # empty: they close


class ClusterTop(msgspec.Struct, frozen=True):
    """``totals`` and ``books`` are of all traffic of ``nodes``, whatever is selected."""

    conversations: list[ConversationRow]
    totals: Mapping[str, TrafficTotal]
    books: ClusterBooks
    nodes: list[str]
    unreachable: list[UnreachableNode]


class _NodePages(NamedTuple):
    by_node: Mapping[str, TrafficSnapshot]
    unreachable: list[UnreachableNode]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser)


def main(args: argparse.Namespace, agents: Fleet) -> int:
    """Return 0, or 1 if books do not close or a node did not answer."""
    screen = Screen(sys.stdout)
    chosen = chosen_rows(args)
    if screen.live and not args.once and args.output == "text":
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            _watch(agents, chosen, args, screen)
        finally:
            screen.leave()
    pages = _read(agents)
    now = merge(pages.by_node)
    page = TopPage(now, rows(now, None, chosen), args.limit)
    if args.output == "json":
        print_json(_json(page, pages), sys.stdout)
    else:
        top_table.once(page, sys.stdout)
    fleet.report_unreachable(pages.unreachable, sys.stderr)
    return 1 if pages.unreachable or now.book_summary().gaps else 0


def read_traffic(client: AgentClient) -> TrafficSnapshot:
    """Return the present counts of one agent; PodtallyError."""
    reply = client.query(schema.TRAFFIC, schema.Traffic)
    return snapshot_of(reply, time.monotonic())


def _read(agents: Fleet) -> _NodePages:
    """Return the counts of all nodes that answer; PodtallyError if none does."""
    found: FleetReplies[TrafficSnapshot] = agents.each(read_traffic)
    found.require()
    return _NodePages(dict(found.replies), found.unreachable)


def _watch(
    agents: Fleet, chosen: ConversationFilter, args: argparse.Namespace, screen: Screen
) -> NoReturn:
    """Show page after page until Ctrl-C."""
    latest: dict[str, TrafficSnapshot] = {}
    pages: deque[Mapping[str, TrafficSnapshot]] = deque(maxlen=_RATE_INTERVALS + 1)
    while True:
        found = agents.each(read_traffic)
        if not latest:
            found.require()
        latest |= dict(found.replies)
        pages.append(dict(latest))
        now = merge(latest)
        shown = rows(now, _before(pages), chosen)
        head = (
            f"kubectl podtally top  {len(found.replies)} of {len(agents.nodes)} nodes  "
            f"{len(shown)} of {len(now.conversations)} conversations"
        )
        page = TopPage(now, shown, args.limit, head, warning=short_list(found.unreachable))
        screen.show(top_table.live(page, screen.style()))
        time.sleep(args.interval)


def _before(pages: deque[Mapping[str, TrafficSnapshot]]) -> TrafficSnapshot | None:
    """Return the oldest counts; of a node that is new since then, its first ones."""
    if len(pages) < 2:
        return None
    first: dict[str, TrafficSnapshot] = {}
    for page in pages:
        first = {**page, **first}
    oldest = merge(first)
    return oldest._replace(at_seconds=merge(pages[0]).at_seconds)


def _json(page: TopPage, pages: _NodePages) -> ClusterTop:
    gaps = [
        NodeGap(node, *gap.page, gap.gap)
        for node, snapshot in pages.by_node.items()
        for gap in snapshot.books
        if gap.gap != 0
    ]
    books = ClusterBooks(page.traffic.book_summary().bytes, gaps)
    return ClusterTop(
        top_table.json_rows(page), page.traffic.totals, books, list(pages.by_node),
        pages.unreachable,
    )  # fmt: skip
