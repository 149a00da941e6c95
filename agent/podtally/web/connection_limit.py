# SPDX-License-Identifier: Apache-2.0
"""Limits the connections of the HTTP server: beyond it, the longest-idle one is closed."""

import contextlib
import resource
import socket
import threading

MAX_CONNECTIONS = 100  # each needs a thread
_MAX_SHARE = 4  # connections may use this part of the process's descriptors: one in four


def max_connections() -> int:
    """Return the limit; it leaves descriptors for all else that the agent does."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, descriptors // _MAX_SHARE))


class ConnectionLimit:
    """The open connections, the longest-idle first.

    A client that sends its request at once is never the one to be closed.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._connected: dict[socket.socket, None] = {}  # the last active, last
        self._lock = threading.Condition()

    def __len__(self) -> int:
        return len(self._connected)

    def add(self, client: socket.socket) -> None:
        """Add a connection; beyond the limit, close the longest-idle one."""
        with self._lock:
            self._connected[client] = None
            limit = max_connections() if self._limit is None else self._limit
            if len(self._connected) > limit:
                self._close_idlest()

    def close_idlest(self) -> None:
        """Close the longest-idle connection, if there is one, for its descriptor."""
        with self._lock:
            if self._connected:
                self._close_idlest()

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

    def _close_idlest(self) -> None:
        idlest = next(iter(self._connected))
        del self._connected[idlest]
        _shut_down(idlest, socket.SHUT_RDWR)

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
