# SPDX-License-Identifier: Apache-2.0
"""``podtally top``: shows live traffic by workload and peer, with its verdict."""

import argparse
import signal
import sys
import time
from collections import deque
from typing import NoReturn

from podtally.commands.shared import agent_query
from podtally.commands.shared.screen import Screen
from podtally.commands.traffic import top_table
from podtally.commands.traffic.conversation_rows import ConversationFilter, rows
from podtally.commands.traffic.conversations import TrafficReader, TrafficSnapshot
from podtally.commands.traffic.past_traffic import snapshot_since
from podtally.commands.traffic.top_options import add_options, chosen_rows
from podtally.commands.traffic.top_table import TopPage
from podtally.errors import PodtallyError

_EPILOG = """\
examples:
  podtally top                             live, until Ctrl-C
  podtally top --outside --denied          what leaves the cluster against policy
  podtally top --since yesterday           from the history; podtally flows has more
  podtally top --once | awk '$6 == "denied"'

Reads /metrics of the running agent. A line is the traffic of a workload with one peer on one
server port. -> the workload opened the connections, <- the peer did, <> both did, -- unknown.
FAILED counts connections that were refused, rejected, half open, or (TCP) not answered.
SENT and RECEIVED are the workload's bytes since counting started; RATE is both together, over
the last few intervals. With --once, and if the output is not a terminal, counters are exact.
If both workloads are on this host, each has a line and counts the connections. Traffic beyond
series_limit is `other`; --egress, --outside and --denied never hide it.
Exit codes: 0 fine, 1 the books do not close (--once, -o json), 2 usage error, or a fixable
problem (no agent answers), 130 interrupted.
"""
_RATE_INTERVALS = 3  # a rate spans these: one epoch more or less matters less


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    agent_query.add_arguments(parser)
    add_options(parser)
    parser.add_argument(
        "--since", metavar="TIME", help="print the traffic since then, from the history, and exit"
    )


def main(args: argparse.Namespace) -> int:
    """Return 0, or 1 if the books do not close."""
    agent = _AgentReader(agent_query.agent_address(args))
    chosen = chosen_rows(args)
    screen = Screen(sys.stdout)
    if screen.live and not args.once and not args.since and args.output == "text":
        # the only way to end it, even for a background job that inherited SIGINT as ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            _watch(agent, chosen, args, screen)
        finally:
            screen.leave()
    now = agent.read()
    if args.since:
        now = snapshot_since(agent.address, args.since, now.books)
    page = TopPage(now, rows(now, None, chosen), args.limit)
    show = top_table.as_json if args.output == "json" else top_table.once
    show(page, sys.stdout)
    return 1 if now.book_summary().gaps else 0


class _AgentReader:
    """Reads the agent's metrics, page after page."""

    def __init__(self, address: agent_query.AgentAddress) -> None:
        self.address = address
        self._reader = TrafficReader()

    def read(self) -> TrafficSnapshot:
        """Return its present counts; PodtallyError."""
        text, at = agent_query.fetch_metrics(self.address), time.monotonic()
        try:
            return self._reader.read(text, at)
        except ValueError as error:
            raise PodtallyError(
                f"/metrics of {self.address} is not podtally's: {str(error)[:200]!a}",
                "choose the agent with --listen",
            ) from None


def _watch(
    agent: _AgentReader, chosen: ConversationFilter, args: argparse.Namespace, screen: Screen
) -> NoReturn:
    """Show page after page until Ctrl-C; wait for an agent that does not answer for a while."""
    pages: deque[TrafficSnapshot] = deque(maxlen=_RATE_INTERVALS + 1)
    while True:
        trouble = ""
        try:
            pages.append(agent.read())
        except PodtallyError as error:
            if not pages:
                raise
            trouble = str(error)
        now, before = pages[-1], pages[0] if len(pages) > 1 else None
        found = rows(now, before, chosen)
        counted = f"{len(found)} of {len(now.conversations)} conversations"
        page = TopPage(now, found, args.limit, f"podtally top  {agent.address}  {counted}", trouble)
        screen.show(top_table.live(page, screen.style()))
        time.sleep(args.interval)
