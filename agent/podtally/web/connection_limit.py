# SPDX-License-Identifier: Apache-2.0
"""Who is connected to the HTTP server: so many at most, and who has waited longest goes first."""

import contextlib
import socket
import threading

MAX_CONNECTIONS = 100  # each costs a thread


class ConnectionLimit:
    """Who is just accepted and asks at once is never the one to go, however many just sit."""

    def __init__(self, most: int = MAX_CONNECTIONS) -> None:
        self._most = most
        self._connected: dict[socket.socket, None] = {}  # who was last heard of, last
        self._lock = threading.Condition()

    def __len__(self) -> int:
        return len(self._connected)

    def enter(self, client: socket.socket) -> None:
        """Take one in; if there are too many, the one who was silent longest is hung up on."""
        with self._lock:
            self._connected[client] = None
            if len(self._connected) > self._most:
                eldest = next(iter(self._connected))
                del self._connected[eldest]
                _hang_up(eldest, socket.SHUT_RDWR)

    def heard(self, client: socket.socket) -> None:
        """It has asked, or was answered."""
        with self._lock:
            if client in self._connected:
                del self._connected[client]
                self._connected[client] = None

    def becomes(self, client: socket.socket, secured: socket.socket) -> None:
        """It is another object from now on, and waits since when it waited."""
        with self._lock:
            self._connected = {
                secured if each is client else each: None for each in self._connected
            }

    def leave(self, client: socket.socket) -> None:
        """Before it is closed: its descriptor may be another's at once."""
        with self._lock:
            self._connected.pop(client, None)
            self._lock.notify_all()

    def part(self, seconds: float) -> None:
        """Ask nobody for more, and give so long for the answers that are on their way."""
        with self._lock:
            for client in self._connected:
                _hang_up(client, socket.SHUT_RD)
            self._lock.wait_for(lambda: not self._connected, seconds)
            for client in self._connected:
                _hang_up(client, socket.SHUT_RDWR)


def _hang_up(client: socket.socket, how: int) -> None:
    """Its own thread closes it. Not SSLSocket.shutdown(), which takes the TLS state away from
    under a reader.
    """
    with contextlib.suppress(OSError):
        socket.socket.shutdown(client, how)
