# SPDX-License-Identifier: Apache-2.0
"""Runs the agent as an operator would, and reads its metrics and event log."""

import http.client
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from podtally.demo.address import DemoAddress, listen
from podtally.demo.events import EventTail
from podtally.demo.processes import Children, Process, exit_reason, last_error, last_lines
from podtally.demo.say import say
from podtally.demo.snapshot import Snapshot, faults, make_snapshot
from podtally.demo.stage import CONFIG
from podtally.demo.stop import Stop
from podtally.demo.topology import (
    AGENT_PORT,
    CANDIDATES,
    EPOCH_SECONDS,
    EVENT_LOG,
    NODE,
    PIN_DIR,
    PODS,
    POLICIES,
    STATE_DIR,
    WATCHED,
)
from podtally.errors import PodtallyError
from podtally.kernel.load_error import LOG_NAME
from podtally.web.client import get_plain

_READY_SECONDS = 660.0  # on a starved machine minutes
_PROGRESS_AFTER_SECONDS = 2.0
_SETTLE_SECONDS = 15.0
_POLL_SECONDS = 0.2
_EVENTS_SECONDS = 5.0  # the default, a minute, is too long for a demo


class DemoAgent(NamedTuple):
    """The running agent, its log and events, and its address on the host."""

    process: Process
    log: Path
    where: DemoAddress
    events: EventTail

    def check(self) -> None:
        """Raise PodtallyError with its last error if it has ended."""
        if self.process.poll() is not None:
            error = _with_load_log_kept(last_error(self.log))
            raise PodtallyError(f"the agent ended ({exit_reason(self.process)}): {error}")

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of ``path``; PodtallyError if it has ended or does not answer."""
        try:
            status, body = get_plain(self.where.reachable, self.where.port, path)
            return status, body.decode()
        except (OSError, http.client.HTTPException) as error:
            self.check()
            raise PodtallyError(
                f"the agent runs, but {self.where.url} does not answer: {error!r}",
                "see its log: --keep-agent-log FILE keeps it",
            ) from None

    def snapshot(self, at_seconds: float) -> Snapshot:
        status, text = self.get("/metrics")
        if status != http.client.OK:
            raise PodtallyError(f"{self.where.url} answered {status}: {text[:200].strip()}")
        return make_snapshot(text, self.events.latest(), PODS, at_seconds)

    def settled(self, at_seconds: float) -> Snapshot:
        """Wait until all traffic is booked, which must have ended.

        That is when two scrapes two epochs apart are equal; books that still do not close
        are returned after a timeout.
        """
        deadline = time.monotonic() + _SETTLE_SECONDS
        before = self.snapshot(at_seconds)
        while True:
            time.sleep(2 * EPOCH_SECONDS)
            now = self.snapshot(at_seconds)
            if now == before and (not faults(now) or time.monotonic() > deadline):
                return now
            if time.monotonic() > deadline + _SETTLE_SECONDS:
                return now
            before = now


def _with_load_log_kept(error: str) -> str:
    """Copy the log that ``error`` names, if any: the demo removes its state directory."""
    log = STATE_DIR / LOG_NAME
    if str(log) not in error:
        return error
    with tempfile.NamedTemporaryFile(prefix="podtally-load-", suffix=".log", delete=False) as copy:
        copy.write(log.read_bytes())
    return error.replace(str(log), copy.name)


def start(children: Children, wanted: DemoAddress, log: Path) -> DemoAgent:
    """Start the agent in the node's namespace, and the relay that makes it reachable.

    PodtallyError if ``log`` cannot be written, or ``wanted`` is not an address of this host.
    """
    try:
        stream = log.open("wb")
    except OSError as error:
        raise PodtallyError(
            f"cannot write the agent's log {log}: {error.strerror}",
            "give --keep-agent-log a file in a directory that exists",
        ) from None
    with stream:
        where = _start_relay(children, wanted)
        process = children.python(NODE, _command(), stream)
        return DemoAgent(process, log, where, EventTail(EVENT_LOG))


def _command() -> Sequence[str]:
    settings = {
        "--config": CONFIG,
        "--listen": f"127.0.0.1:{AGENT_PORT}",
        "--state-dir": STATE_DIR,
        "--pin-dir": PIN_DIR,
        "--interfaces": WATCHED,
        "--epoch": EPOCH_SECONDS,
        "--policies": POLICIES,
        "--candidate": CANDIDATES,
        "--events": EVENT_LOG,
        "--history": STATE_DIR / "history.db",
        "--events-interval": _EVENTS_SECONDS,
    }
    flags = (word for flag, value in settings.items() for word in (flag, str(value)))
    return ["podtally", "run", *flags]


def _start_relay(children: Children, wanted: DemoAddress) -> DemoAddress:
    with listen(wanted) as listener:
        where = wanted._replace(port=listener.getsockname()[1])
        if where.port != wanted.port and wanted.port:
            say(f"port {wanted.port} is in use; /metrics is on port {where.port}")
        fd = listener.fileno()
        module = ["podtally.demo.relay", str(fd), str(AGENT_PORT)]
        children.python(NODE, module, sys.stderr.fileno(), pass_fds=[fd])
    return where


def await_ready(agent: DemoAgent, stop: Stop) -> None:
    """Wait for /readyz, or for ``stop``; PodtallyError after a timeout."""
    begin, announced = time.monotonic(), False
    while not stop.requested and not _ready(agent):
        waited = time.monotonic() - begin
        if waited > _READY_SECONDS:
            raise PodtallyError(
                f"the agent is not ready after {waited:.0f} s: {last_lines(agent.log)}",
                "see its log: --keep-agent-log FILE keeps it",
            )
        if waited > _PROGRESS_AFTER_SECONDS and not announced:
            say("the agent is loading its kernel programs")
            announced = True
        stop.pause(_POLL_SECONDS)


def _ready(agent: DemoAgent) -> bool:
    """Return whether it is ready; until it listens, the relay closes each connection."""
    agent.check()
    try:
        status, _ = get_plain(agent.where.reachable, agent.where.port, "/readyz")
    except (OSError, http.client.HTTPException):
        return False
    return status == http.client.OK
