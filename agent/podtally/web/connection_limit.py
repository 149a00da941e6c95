# SPDX-License-Identifier: Apache-2.0
"""Limits the connections of the HTTP server: beyond it, the longest-idle one is closed."""

import contextlib
import socket
import threading

MAX_CONNECTIONS = 100  # each needs a thread


class ConnectionLimit:
    """The open connections, the longest-idle first.

    A client that sends its request at once is never the one to be closed.
    """

    def __init__(self, limit: int = MAX_CONNECTIONS) -> None:
        self._limit = limit
        self._connected: dict[socket.socket, None] = {}  # the last active, last
        self._lock = threading.Condition()

    def __len__(self) -> int:
        return len(self._connected)

    def add(self, client: socket.socket) -> None:
        """Add a connection; beyond the limit, close the longest-idle one."""
        with self._lock:
            self._connected[client] = None
            if len(self._connected) > self._limit:
                idlest = next(iter(self._connected))
                del self._connected[idlest]
                _shut_down(idlest, socket.SHUT_RDWR)

    def touch(self, client: socket.socket) -> None:
        """Note that it is active."""
        with self._lock:
            if client in self._connected:
                del self._connected[client]
                self._connected[client] = None

    def replace(self, client: socket.socket, secured: socket.socket) -> None:
        """Replace the socket by its TLS socket; its idle time continues."""
        with self._lock:
            self._connected = {
                secured if each is client else each: None for each in self._connected
            }

    def remove(self, client: socket.socket) -> None:
        """Remove a connection before it is closed: its descriptor may be reused at once."""
        with self._lock:
            self._connected.pop(client, None)
            self._lock.notify_all()

    def drain(self, seconds: float) -> None:
        """Accept no more requests, wait for replies under way, then close all."""
        with self._lock:
            for client in self._connected:
                _shut_down(client, socket.SHUT_RD)
            self._lock.wait_for(lambda: not self._connected, seconds)
            for client in self._connected:
                _shut_down(client, socket.SHUT_RDWR)


def _shut_down(client: socket.socket, how: int) -> None:
    """Shut the socket down; its own thread closes it. Not SSLSocket.shutdown(), which would
    remove the TLS state while a thread reads.
    """
    with contextlib.suppress(OSError):
        socket.socket.shutdown(client, how)
