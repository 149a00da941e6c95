# SPDX-License-Identifier: Apache-2.0
"""The address of the demo's ``/metrics`` on the host, and the socket that listens there."""

import errno
import socket
from typing import NamedTuple

from podtally.errors import PodtallyError

_HERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


class DemoAddress(NamedTuple):
    """Host and TCP port; the host is an IP address."""

    host: str
    port: int

    @property
    def reachable(self) -> str:
        """The host to connect to; a wildcard address is replaced by loopback."""
        return _HERE.get(self.host, self.host)

    @property
    def url(self) -> str:
        host = f"[{self.reachable}]" if ":" in self.reachable else self.reachable
        return f"http://{host}:{self.port}/metrics"


def address(text: str) -> DemoAddress:
    """Parse ``ADDR:PORT`` or ``[ADDR]:PORT``; ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ValueError(text)
    return DemoAddress(host.strip("[]"), int(port))


def listen(wanted: DemoAddress) -> socket.socket:
    """Listen at ``wanted``, or on a free port if that one is in use.

    PodtallyError if it is not an address of this host.
    """
    try:
        return _listening(wanted)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return _listening(wanted._replace(port=0))
        raise PodtallyError(
            f"cannot listen on {wanted.host}:{wanted.port}: {error.strerror or error}",
            "use an address of this host with --listen",
        ) from None


def _listening(where: DemoAddress) -> socket.socket:
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    return socket.create_server((where.host, where.port), family=family)
