# SPDX-License-Identifier: Apache-2.0
"""HTTP to a port of a pod, forwarded by the API server and the kubelet.

The kubelet connects from the pod's own loopback, so the agent takes the client for a local one.
"""

import http.client
import io
from collections.abc import Callable
from urllib.parse import urlencode

from podtally.kube.access import Access
from podtally.kube.pod_channels import PodChannels

_DATA, _ERROR = 0, 1
_PORT_BYTES = 2  # a channel begins with its port, little-endian


class ForwardedConnection(http.client.HTTPConnection):
    """Requests to ``127.0.0.1:port`` of a pod.

    ``connect`` raises ApiError, ContactError; later failures are OSError, HTTPException.
    """

    def __init__(self, access: Access, pod: str, port: int, timeout_seconds: float) -> None:
        """``pod``: the path of the pod in the API."""
        super().__init__("localhost", port)
        self.auto_open = 0
        self._access = access
        self.target = f"{pod}/portforward?{urlencode({'ports': port})}"
        self._seconds = timeout_seconds

    def connect(self) -> None:
        channels = PodChannels(self._access, self.target, self._seconds)
        self.sock = _ForwardedSocket(channels)


class _ForwardedSocket:
    """What http.client uses of a socket.

    Like a socket's, its files outlive ``close``: http.client closes it as soon as a response says
    that it is the last, before the body is read.
    """

    def __init__(self, channels: PodChannels) -> None:
        self._channels = channels
        self._users = 1  # itself, and its files
        self._closed = False

    def sendall(self, data: bytes) -> None:
        self._channels.send(_DATA, bytes(data))

    def makefile(self, mode: str) -> io.BufferedReader:
        self._users += 1
        return io.BufferedReader(_ForwardedReader(self._channels, self._release), 1 << 16)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._release()

    def _release(self) -> None:
        self._users -= 1
        if not self._users:
            self._channels.close()


class _ForwardedReader(io.RawIOBase):
    """The bytes that the pod's port sends; OSError with what the kubelet reports."""

    def __init__(self, channels: PodChannels, release: Callable[[], None]) -> None:
        self._channels = channels
        self._release = release
        self._rest = b""
        self._begun: set[int] = set()

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._release()

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        while not self._rest:
            try:
                channel, data = self._channels.receive()
            except EOFError:
                return 0
            if channel not in self._begun:
                self._begun.add(channel)
                data = data[_PORT_BYTES:]
            if channel == _ERROR and data:
                raise ConnectionError(data.decode(errors="replace").strip())
            self._rest = data if channel == _DATA else b""
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size
