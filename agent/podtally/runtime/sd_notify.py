# SPDX-License-Identifier: Apache-2.0
"""Tells the service manager how the agent is, as sd_notify(3) has it; when is for ``agent``."""

import logging
import os
import socket
import time
from collections.abc import MutableMapping

from podtally.supervision.conditions import Condition

log = logging.getLogger(__name__)

_SEND_SECONDS = 1.0  # a manager that does not read must not hold up an epoch for longer


class ServiceManager:
    """Says nothing where nobody listens: without $NOTIFY_SOCKET.

    ``watchdog_seconds`` is how long the manager waits for a ``beat``, None if it does not.
    """

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        """The variables are taken out: they are not for the processes that the agent starts."""
        self._address = environ.pop("NOTIFY_SOCKET", "")
        self.watchdog_seconds = _watchdog_seconds(environ)
        self._told = ""
        self._silence = Condition(log, logging.WARNING)
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(_SEND_SECONDS)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ready(self, status: str) -> None:
        """Started, or reloaded, to the end."""
        self._told = status
        self._say("READY=1", f"STATUS={_line(status)}")

    def status(self, status: str) -> None:
        """One line for ``systemctl status``; sent only if it is another than before."""
        if status != self._told:
            self._told = status
            self._say(f"STATUS={_line(status)}")

    def beat(self) -> None:
        """Still alive: for the watchdog."""
        if self.watchdog_seconds is not None:
            self._say("WATCHDOG=1")

    def reloading(self) -> None:
        """``ready`` has to follow. The time is what Type=notify-reload goes by."""
        self._say("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        self._told = status
        self._say("STOPPING=1", f"STATUS={_line(status)}")

    def _say(self, *lines: str) -> None:
        if self._socket is None:
            return
        # A leading @ stands for the NUL of an abstract address, unix(7).
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            self._socket.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            self._silence.met("cannot tell the service manager at %s: %s", self._address, error)
        else:
            self._silence.over("the service manager at %s is told again", self._address)


def _watchdog_seconds(environ: MutableMapping[str, str]) -> float | None:
    """sd_watchdog_enabled(3): not for this process if $WATCHDOG_PID is another."""
    interval, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    if not interval.isdecimal() or not int(interval) or (pid and pid != str(os.getpid())):
        return None
    return int(interval) / 1e6


def _line(text: str) -> str:
    """A line break would begin another assignment."""
    return " ".join(text.splitlines())
