# SPDX-License-Identifier: Apache-2.0
"""``podtally top``: who talks to whom right now, how much, and whether policy lets them."""

import argparse
import signal
import sys
import time
from collections import deque
from typing import NoReturn

from podtally.commands import agent_query, top_table
from podtally.commands.conversations import (
    ConversationFilter,
    TrafficSnapshot,
    rows,
    series_reader,
    snapshot,
)
from podtally.commands.screen import Screen
from podtally.commands.top_table import TopPage
from podtally.errors import PodtallyError

_EPILOG = """\
examples:
  podtally top                             what moves now, until Ctrl-C
  podtally top --outside --denied          what leaves the cluster, and should not
  podtally top --once | awk '$6 == "denied"'

Asks the running agent for its /metrics. A line is a conversation of a workload with one peer,
on the server's port. -> the workload began it, <- its peer did, <> both did, -- nobody saw who.
SENT and RECEIVED are the workload's bytes since the agent counts, RATE is both together over the
last looks. --once, and what is no terminal, has the counters as they are.
Two workloads of this host that talk have a line each, and each counts the connections. What is
over series_limit is `other`, and is never left out by --egress, --outside or --denied.
Exit codes: 0 fine, 1 the books do not close (--once, --output json), 2 wrong use or no agent
answers, 130 interrupted.
"""
_INTERVAL_SECONDS = 2.0
_LEAST_SECONDS, _MOST_SECONDS = 0.1, 86400.0
_RATE_INTERVALS = 3  # that a rate is over: an epoch more or less shows less


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    agent_query.add_arguments(parser)
    parser.add_argument(
        "--interval", type=_seconds, default=_INTERVAL_SECONDS, metavar="SECONDS",
        help=f"between two looks ({_INTERVAL_SECONDS:.0f})",
    )  # fmt: skip
    parser.add_argument("--once", action="store_true", help="print the totals, and end")
    parser.add_argument(
        "--egress", action="store_true", help="only what workloads here begin, or nobody saw who"
    )
    parser.add_argument(
        "--outside", action="store_true", help="only with peers outside of cluster and host"
    )
    parser.add_argument("--denied", action="store_true", help="only what is denied or undeclared")
    parser.add_argument(
        "-n", "--namespace", metavar="NAMESPACE", help="only workloads of this namespace"
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="at most so many lines")


def main(args: argparse.Namespace) -> int:
    """Return 0, or 1 if the books of the one look do not close."""
    agent = _AgentReader(agent_query.agent_address(args))
    wanted = ConversationFilter(args.egress, args.outside, args.denied, args.namespace)
    screen = Screen(sys.stdout)
    if screen.live and not args.once and args.output == "text":
        # its only end, also where a script's background job inherited it as ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            _watch(agent, wanted, args, screen)
        finally:
            screen.leave()
    now = agent.look()
    page = TopPage(now, rows(now, None, wanted), args.limit)
    show = top_table.as_json if args.output == "json" else top_table.once
    show(page, sys.stdout)
    return 1 if now.books.gaps else 0


class _AgentReader:
    """Who is asked, and what of its pages is understood already."""

    def __init__(self, where: agent_query.AgentAddress) -> None:
        self.where = where
        self._reader = series_reader()

    def look(self) -> TrafficSnapshot:
        """Return what it says now; raises PodtallyError where it does not."""
        text, at = agent_query.fetch_metrics(self.where), time.monotonic()
        try:
            return snapshot(self._reader.read(text), at)
        except ValueError as error:
            raise PodtallyError(
                f"what {self.where} has as /metrics is not podtally's: {str(error)[:200]!a}",
                "choose the agent with --listen",
            ) from None


def _watch(
    agent: _AgentReader, wanted: ConversationFilter, args: argparse.Namespace, screen: Screen
) -> NoReturn:
    """Show look after look until Ctrl-C; an agent that is away for a while is waited for."""
    looks: deque[TrafficSnapshot] = deque(maxlen=_RATE_INTERVALS + 1)
    while True:
        trouble = ""
        try:
            looks.append(agent.look())
        except PodtallyError as error:
            if not looks:
                raise
            trouble = str(error)
        now, before = looks[-1], looks[0] if len(looks) > 1 else None
        found = rows(now, before, wanted)
        counted = f"{len(found)} of {len(now.conversations)} conversations"
        page = TopPage(now, found, args.limit, f"podtally top  {agent.where}  {counted}", trouble)
        screen.show(top_table.live(page, screen.style()))
        time.sleep(args.interval)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not _LEAST_SECONDS <= seconds <= _MOST_SECONDS:
        raise ValueError(text)
    return seconds


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number
