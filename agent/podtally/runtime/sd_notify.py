# SPDX-License-Identifier: Apache-2.0
"""Notifies the service manager of the agent's state: sd_notify(3)."""

import logging
import os
import socket
import time
from collections.abc import MutableMapping

from podtally.supervision.conditions import Condition

log = logging.getLogger(__name__)

_SEND_SECONDS = 1.0  # a manager that does not read delays an epoch by this at most


class ServiceManager:
    """Does nothing without $NOTIFY_SOCKET.

    ``watchdog_seconds`` is how long the manager waits for a ``beat``, None without a watchdog.
    """

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        """Remove the variables from ``environ``: child processes must not notify."""
        self._address = environ.pop("NOTIFY_SOCKET", "")
        self.watchdog_seconds = _watchdog_seconds(environ)
        self._status = ""
        self._unreachable = Condition(log, logging.WARNING)
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(_SEND_SECONDS)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ready(self, status: str) -> None:
        """Report that the start or the reload is complete."""
        self._status = status
        self._send("READY=1", f"STATUS={_line(status)}")

    def status(self, status: str) -> None:
        """Report one line for ``systemctl status``; sent only if it has changed."""
        if status != self._status:
            self._status = status
            self._send(f"STATUS={_line(status)}")

    def beat(self) -> None:
        """Feed the watchdog."""
        if self.watchdog_seconds is not None:
            self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """Report a reload; ``ready`` must follow. Type=notify-reload needs the time."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        self._status = status
        self._send("STOPPING=1", f"STATUS={_line(status)}")

    def _send(self, *lines: str) -> None:
        if self._socket is None:
            return
        # A leading @ stands for the NUL of an abstract address, unix(7).
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            self._socket.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            self._unreachable.met(
                "cannot notify the service manager at %s: %s", self._address, error
            )
        else:
            self._unreachable.over("the service manager at %s is notified again", self._address)


def _watchdog_seconds(environ: MutableMapping[str, str]) -> float | None:
    """Return the interval as sd_watchdog_enabled(3) does: None if $WATCHDOG_PID is another."""
    interval, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    if not interval.isdecimal() or not int(interval) or (pid and pid != str(os.getpid())):
        return None
    return int(interval) / 1e6


def _line(text: str) -> str:
    """Return the text on one line: a line break would start another assignment."""
    return " ".join(text.splitlines())
