# SPDX-License-Identifier: Apache-2.0
"""One gRPC call at a time over a unix socket: HTTP/2 by ``h2``, framing by hand.

Unary calls only, a connection each: a runtime that was restarted in between is no
special case. (``grpcio`` does much more, and takes 17 MB of memory where h2 takes 1.5.)
The framing is that of grpc/doc/PROTOCOL-HTTP2.md. h2 is imported at the first call:
where there is no runtime it is not needed.
"""

import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from h2.events import Event

UNIMPLEMENTED = 12  # grpc/doc/statuscodes.md
_OK = "0"
_PREFIX = struct.Struct(">BI")  # compressed or not, length
_ROOM = 1 << 16
_WINDOW_BYTES = 1 << 30
_MOST_BYTES = 16 << 20  # the limit that the kubelet sets itself for an answer


class CallError(Exception):
    """A call without an answer: nobody there, too late, or refused with a status."""

    def __init__(self, words: str, status: int = -1) -> None:
        super().__init__(words)
        self.status = status  # gRPC's; -1 where none was given


def call(path: Path, method: str, request: bytes, timeout_seconds: float) -> bytes:
    """Ask for ``method`` (/package.Service/Method); CallError when there is no answer in time."""
    deadline = time.monotonic() + timeout_seconds
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(timeout_seconds)
            sock.connect(str(path))
            return _Call(sock, deadline).run(method, request)
    except TimeoutError:
        raise CallError(f"no answer within {timeout_seconds:g} s") from None
    except OSError as error:
        raise CallError(error.strerror or str(error)) from error


class _Call:
    def __init__(self, sock: socket.socket, deadline: float) -> None:
        from h2.config import H2Configuration  # noqa: PLC0415
        from h2.connection import H2Connection  # noqa: PLC0415

        self._socket = sock
        self._deadline = deadline
        self._http: H2Connection = H2Connection(H2Configuration(header_encoding="utf-8"))
        self._data = bytearray()
        self._ended = False
        self._status = ""

    def run(self, method: str, request: bytes) -> bytes:
        from h2.exceptions import ProtocolError  # noqa: PLC0415
        from h2.settings import SettingCodes  # noqa: PLC0415

        try:
            self._http.initiate_connection()
            # so that no answer that is accepted waits for us to make room
            self._http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW_BYTES})
            self._http.increment_flow_control_window(_WINDOW_BYTES)
            self._http.send_headers(1, _headers(method))
            self._http.send_data(1, _PREFIX.pack(0, len(request)) + request, end_stream=True)
            while not self._ended:
                self._exchange()
        except ProtocolError as error:
            raise CallError(f"no HTTP/2 there: {error}") from error
        if self._status != _OK:  # whoever ends a stream without one has failed
            raise CallError("an answer without a status")
        return _message(bytes(self._data))

    def _exchange(self) -> None:
        self._socket.settimeout(self._left())
        self._socket.sendall(self._http.data_to_send())
        self._socket.settimeout(self._left())
        received = self._socket.recv(_ROOM)
        if not received:
            raise CallError("the connection was closed without an answer")
        for event in self._http.receive_data(received):
            self._take(event)

    def _take(self, event: "Event") -> None:
        from h2 import events  # noqa: PLC0415

        match event:
            case (
                events.ResponseReceived(headers=headers) | events.TrailersReceived(headers=headers)
            ):
                named = {str(name): str(value) for name, value in headers or ()}
                _check(named)
                self._status = named.get("grpc-status", "")
            case events.DataReceived(data=data):
                self._data += data or b""
                if len(self._data) > _MOST_BYTES:
                    raise CallError(f"an answer of more than {_MOST_BYTES} bytes")
            case events.StreamEnded():
                self._ended = True
            case events.StreamReset(error_code=code):
                raise CallError(f"the call was reset, HTTP/2 error {code}")
            case events.ConnectionTerminated(error_code=code):
                raise CallError(f"the connection was ended, HTTP/2 error {code}")

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def _headers(method: str) -> list[tuple[str, str]]:
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]


def _check(named: Mapping[str, str]) -> None:
    """Raise what the headers or the trailers tell of a failure."""
    http = named.get(":status", "200")
    if http != "200":
        raise CallError(f"HTTP status {http}")
    status = named.get("grpc-status", _OK)
    if status != _OK:
        words = unquote(named.get("grpc-message", "")) or f"gRPC status {status}"
        raise CallError(words, int(status) if status.isdecimal() else -1)


def _message(data: bytes) -> bytes:
    if len(data) < _PREFIX.size:
        raise CallError("an answer without a message")
    compressed, length = _PREFIX.unpack_from(data)
    if compressed or len(data) != _PREFIX.size + length:
        raise CallError("an answer that is compressed, or not one message")
    return data[_PREFIX.size :]
