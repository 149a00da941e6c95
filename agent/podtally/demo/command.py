# SPDX-License-Identifier: Apache-2.0
"""``podtally demo``: sets up, runs agent and traffic, shows the tables, cleans up."""

import argparse
import signal
import sys
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

from podtally.commands import suggest
from podtally.commands.shared.arguments import add_output
from podtally.commands.shared.screen import Screen
from podtally.demo import agent, history, network, stage
from podtally.demo.address import DemoAddress, address
from podtally.demo.processes import Children, Process, exit_reason, last_lines
from podtally.demo.say import say
from podtally.demo.servers import ROLES
from podtally.demo.snapshot import Snapshot, faults
from podtally.demo.stop import Stop
from podtally.demo.topology import (
    AGENT_PORT,
    CANDIDATES,
    EVENT_LOG,
    HOSTS,
    PODS,
    POLICIES,
    SHOP,
    STATE_DIR,
    STRAY,
)
from podtally.demo.view import render, to_json
from podtally.errors import PodtallyError

_DESCRIPTION = """\
Run podtally on a small shop in network namespaces: real requests, and a pod that leaks data.
A live table shows connections, their verdicts, events, and the books. The host's own network
is not touched."""

_EPILOG = """\
examples:
  podtally demo                        live table, until Ctrl-C
  podtally demo --seconds 10 -o json   the final table as JSON
  podtally demo --seconds 60 --suggest  policies written from the traffic, and proven

You can edit the policies while it runs: new connections are evaluated against them.
At the end it stops the traffic, waits until all of it is booked, prints the final table and what
the stray pod did, which is gone by then, and removes everything it created.
Exit codes: 0 fine (the books close, all pods were seen, the stray pod was denied), 1 one of
these does not hold, 2 usage error, or a fixable problem, 130 interrupted before any traffic.
"""

_REFRESH_SECONDS = 0.5  # the counts shown may be older by this and an epoch
_RATE_TABLES = 6  # a rate spans these: one epoch more or less matters less
_PLAIN_REFRESH_SECONDS = 10.0  # if the table cannot be redrawn in place
_TRAFFIC_LOG = STATE_DIR / "traffic.log"


class _Show(NamedTuple):
    """A running demo: the agent, the processes that make traffic, and when it started."""

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
        "--seconds",
        type=_positive,
        metavar="N",
        help="stop after N seconds of traffic (default: at Ctrl-C)",
    )
    parser.add_argument(
        "--listen",
        type=address,
        default=DemoAddress("127.0.0.1", AGENT_PORT),
        metavar="ADDR:PORT",
        help=f"address of /metrics (default: 127.0.0.1:{AGENT_PORT}, or a free port if in use)",
    )
    add_output(parser)
    parser.add_argument(
        "--suggest",
        action="store_true",
        help="at the end, write policies for the shop from what was seen, with the proof",
    )
    parser.add_argument(
        "--keep-agent-log", type=Path, metavar="FILE", help="keep the agent's log in FILE"
    )


def _positive(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise ValueError(text)
    return seconds


def main(args: argparse.Namespace) -> int:
    """Run the demo and return its exit code; PodtallyError if it cannot run."""
    if args.suggest and args.output == "json":
        raise PodtallyError("--suggest prints YAML, not JSON", "drop -o json")
    stage.check_requirements()
    stop = Stop()
    with stage.exclusive():
        stage.clear()
        try:
            return _perform(args, stop)
        finally:
            stage.clear()


def _perform(args: argparse.Namespace, stop: Stop) -> int:
    say(f"creating {len(PODS)} pods, an outside host and a resolver: namespaces on a bridge")
    stage.build()
    with Children() as children:
        running = agent.start(children, args.listen, args.keep_agent_log or STATE_DIR / "agent.log")
        agent.await_ready(running, stop)
        if stop.requested:
            return 128 + signal.SIGINT
        say(f"policies: {POLICIES}; to try: {CANDIDATES}; event log: {EVENT_LOG}")
        say(f"the agent is ready; metrics: {running.where.url}")
        screen = Screen(sys.stdout) if args.output == "text" else None
        show = _Show(running, _start_traffic(children), running.snapshot(0), time.monotonic())
        _watch(show, stop, screen, args.seconds or float("inf"))
        seconds = show.seconds()
        children.stop(show.traffic)
        if screen:
            screen.note("traffic stopped; waiting until all of it is booked")
        code = _finish(running.settled(seconds), show, screen)
        return max(code, _suggest(running)) if args.suggest else code


def _suggest(running: agent.DemoAgent) -> int:
    """Print what `podtally suggest` writes for the shop; return its exit code."""
    words = [SHOP, "--listen", f"{running.where.reachable}:{running.where.port}", "--since", "1h"]
    say(f"podtally suggest {' '.join([*words, '--policies', str(POLICIES)])}")
    parser = argparse.ArgumentParser()
    suggest.add_arguments(parser)
    return suggest.main(parser.parse_args([*words, "--policies", str(POLICIES)]))


def _start_traffic(children: Children) -> list[Process]:
    netns = {host.name: host.netns for host in HOSTS}
    with _TRAFFIC_LOG.open("wb") as log:
        return [
            children.python(netns[role], ["podtally.demo.servers", role], log) for role in ROLES
        ]


def _watch(show: _Show, stop: Stop, screen: Screen | None, seconds: float) -> None:
    """Show table after table until the time is over or a signal arrives."""
    refresh = _REFRESH_SECONDS if screen and screen.live else _PLAIN_REFRESH_SECONDS
    shown = deque([show.first], _RATE_TABLES)
    while True:
        stop.pause(min(refresh, seconds - show.seconds()))
        if stop.requested or show.seconds() >= seconds:
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
        network.remove_pod(STRAY.netns)
        lines = render(final, show.first, show.agent.where.url, whole)
        screen.final([*lines, "", *history.lines(show.agent, STRAY.pod, whole)])
    else:
        print(to_json(final))
    return 1 if faults(final) else 0
