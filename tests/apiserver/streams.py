# SPDX-License-Identifier: Apache-2.0
"""The test API server's WebSockets into pods: ports forwarded to real ones, commands really run.

As the kubelet's v4.channel.k8s.io (k8s.io/kubelet, pkg/cri/streaming/portforward and remotecommand).
"""

import base64
import hashlib
import json
import socket
import struct
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BufferedIOBase
from typing import Any, NamedTuple

PROTOCOL = "v4.channel.k8s.io"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_BINARY, _CLOSE = 2, 8


@dataclass
class PodBackend:
    """What stands behind a pod: real ports by its own numbers, and what a command runs as."""

    ports: Mapping[int, tuple[str, int]] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()  # before a command's words
    environment: Mapping[str, str] = field(default_factory=dict)
    silent: bool = False  # takes the connection, and never answers


class Frame(NamedTuple):
    opcode: int
    data: bytes


class ChannelSocket:
    """The server's end of a WebSocket; messages begin with a channel number."""

    def __init__(self, reader: BufferedIOBase, writer: BufferedIOBase) -> None:
        self._reader = reader
        self._writer = writer
        self._lock = threading.Lock()

    def send(self, channel: int, data: bytes) -> None:
        self._frame(_BINARY, bytes([channel]) + data)

    def close(self) -> None:
        self._frame(_CLOSE, struct.pack("!H", 1000))

    def receive(self) -> Frame:
        """Return the next message; a closed connection is a close."""
        head = self._reader.read(2)
        if len(head) < 2:
            return Frame(_CLOSE, b"")
        size = head[1] & 0x7F
        if size >= 126:
            form = "!H" if size == 126 else "!Q"
            (size,) = struct.unpack(form, self._reader.read(struct.calcsize(form)))
        assert head[1] & 0x80, "a client masks what it sends (RFC 6455, 5.1)"
        mask = self._reader.read(4)
        data = self._reader.read(size)
        return Frame(head[0] & 0xF, bytes(b ^ mask[i % 4] for i, b in enumerate(data)))

    def _frame(self, opcode: int, data: bytes) -> None:
        size = len(data)
        head = bytes([0x80 | opcode])
        if size < 126:
            head += bytes([size])
        elif size < 1 << 16:
            head += struct.pack("!BH", 126, size)
        else:
            head += struct.pack("!BQ", 127, size)
        with self._lock:
            self._writer.write(head + data)


def accept_key(key: str) -> str:
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()


def forward(client: ChannelSocket, backend: PodBackend, port: int) -> None:
    """Connect the client with a port, until one of them closes."""
    for channel in (0, 1):
        client.send(channel, struct.pack("<H", port))
    if backend.silent:
        client.receive()
        client.receive()
        return
    try:
        target = socket.create_connection(backend.ports[port], timeout=30)
    except (OSError, KeyError) as error:
        client.send(1, f"failed to connect to localhost:{port} inside namespace: {error}".encode())
        client.close()
        return
    with target:
        back = threading.Thread(target=_pump, args=(target, client), daemon=True)
        back.start()
        while (frame := client.receive()).opcode != _CLOSE:
            if frame.opcode == _BINARY and frame.data[0] == 0:
                target.sendall(frame.data[1:])
        target.shutdown(socket.SHUT_RDWR)
        back.join(30)


def _pump(target: socket.socket, client: ChannelSocket) -> None:
    try:
        while data := target.recv(1 << 15):
            client.send(0, data)
        client.close()
    except (OSError, ValueError):
        return  # the client has gone


def execute(client: ChannelSocket, backend: PodBackend, command: list[str]) -> None:
    """Run the command; its output, then its end as a Status."""
    done = subprocess.run(
        [*backend.prefix, *command],
        capture_output=True, check=False, timeout=300, env=dict(backend.environment) or None,
    )  # fmt: skip
    for channel, data in ((1, done.stdout), (2, done.stderr)):
        client.send(channel, b"")
        for start in range(0, len(data), 1 << 15):
            client.send(channel, data[start : start + (1 << 15)])
    status: dict[str, Any] = {"metadata": {}, "status": "Success"}
    if done.returncode:
        cause = {"reason": "ExitCode", "message": str(done.returncode)}
        status = {
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": f"command terminated with non-zero exit code {done.returncode}",
            "details": {"causes": [cause]},
        }  # fmt: skip
    client.send(3, json.dumps(status).encode())
    client.close()
