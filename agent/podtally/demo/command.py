# SPDX-License-Identifier: Apache-2.0
"""The command ``podtally demo``: sets the stage, lets agent and traffic run, shows the books."""

import argparse
import signal
import sys
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

from podtally.commands.screen import Screen
from podtally.demo import agent, stage
from podtally.demo.address import DemoAddress, address
from podtally.demo.processes import Children, Process, exit_reason, last_lines
from podtally.demo.say import say
from podtally.demo.servers import ROLES
from podtally.demo.snapshot import Snapshot, faults
from podtally.demo.stop import Stop
from podtally.demo.topology import AGENT_PORT, EVENT_LOG, HOSTS, PODS, POLICIES, STATE_DIR
from podtally.demo.view import render, to_json
from podtally.errors import PodtallyError

_DESCRIPTION = """\
Shows podtally at work: a small shop in network namespaces, real requests, a pod that
leaks, a live table of who talks to whom, what the declared policies say of it, and the
books. The host's own network is not touched."""

_EPILOG = """\
examples:
  podtally demo                              until Ctrl-C, a table that is redrawn in place
  podtally demo --seconds 10 --output json   ends by itself, with the last table as JSON

While it runs, the policies can be edited: the next connections are judged by them.
Either way it stops the traffic at the end, waits until the agent has booked the last of
it, prints the final table, and removes everything it made.

exit codes:
  0  the books close, every pod was seen, and the stray was seen as denied
  1  one of these does not hold
  2  the demo could not run
  130  interrupted before there was traffic"""

_REFRESH_SECONDS = 0.5  # and an epoch: what the agent has not booked yet is older by that
_RATE_TABLES = 6  # between the two that a rate is of: an epoch more or less shows less
_PLAIN_REFRESH_SECONDS = 10.0  # where a table cannot be redrawn in place
_TRAFFIC_LOG = STATE_DIR / "traffic.log"


class _Show(NamedTuple):
    """One performance: the agent, who makes its traffic, and since when."""

    agent: agent.DemoAgent
    traffic: list[Process]
    first: Snapshot
    began: float

    def seconds(self) -> float:
        return time.monotonic() - self.began


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.add_argument(
        "--seconds", type=_positive, metavar="N", help="end after N seconds of traffic"
    )
    parser.add_argument(
        "--listen",
        type=address,
        default=DemoAddress("127.0.0.1", AGENT_PORT),
        metavar="ADDR:PORT",
        help=f"where /metrics is to be had (default 127.0.0.1:{AGENT_PORT}); where the port"
        " is in use, a free one is taken",
    )
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.add_argument(
        "--keep-agent-log", type=Path, metavar="FILE", help="where the agent's log is to stay"
    )


def _positive(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise ValueError(text)
    return seconds


def main(args: argparse.Namespace) -> int:
    """Run the demo and return its exit code; raises PodtallyError where it cannot run."""
    stage.check_requirements()
    stop = Stop()
    with stage.exclusive():
        stage.clear()
        try:
            return _perform(args, stop)
        finally:
            stage.clear()


def _perform(args: argparse.Namespace, stop: Stop) -> int:
    say(f"making {len(PODS)} pods and a host outside: network namespaces on a bridge")
    stage.build()
    with Children() as children:
        running = agent.start(children, args.listen, args.keep_agent_log or STATE_DIR / "agent.log")
        agent.await_ready(running, stop)
        if stop.asked:
            return 128 + signal.SIGINT
        say(f"its policies: {POLICIES}; its events: {EVENT_LOG}")
        say(f"the agent is ready; its metrics: {running.where.url}")
        screen = Screen(sys.stdout) if args.output == "table" else None
        show = _Show(running, _start_traffic(children), running.snapshot(0), time.monotonic())
        _watch(show, stop, screen, args.seconds or float("inf"))
        seconds = show.seconds()
        children.stop(show.traffic)
        if screen:
            screen.note("the traffic has stopped; the agent books the last of it")
        return _finish(running.settled(seconds), show, screen)


def _start_traffic(children: Children) -> list[Process]:
    netns = {host.name: host.netns for host in HOSTS}
    with _TRAFFIC_LOG.open("wb") as log:
        return [
            children.python(netns[role], ["podtally.demo.servers", role], log) for role in ROLES
        ]


def _watch(show: _Show, stop: Stop, screen: Screen | None, seconds: float) -> None:
    """Show what the agent says until the time is over or somebody asks to end."""
    refresh = _REFRESH_SECONDS if screen and screen.live else _PLAIN_REFRESH_SECONDS
    shown = deque([show.first], _RATE_TABLES)
    while True:
        stop.pause(min(refresh, seconds - show.seconds()))
        if stop.asked or show.seconds() >= seconds:
            return
        _check_traffic(show.traffic)
        now = show.agent.snapshot(show.seconds())
        if screen:
            screen.show(render(now, shown[0], show.agent.where.url, screen.style()))
        shown.append(now)


def _check_traffic(traffic: list[Process]) -> None:
    for role, process in zip(ROLES, traffic, strict=True):
        if process.poll() is not None:
            raise PodtallyError(
                f"the demo's {role} ended ({exit_reason(process)}): {last_lines(_TRAFFIC_LOG)}"
            )


def _finish(final: Snapshot, show: _Show, screen: Screen | None) -> int:
    if screen:
        whole = screen.style()._replace(rows=None)
        screen.final(render(final, show.first, show.agent.where.url, whole))
    else:
        print(to_json(final))
    return 1 if faults(final) else 0
