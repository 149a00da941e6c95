# SPDX-License-Identifier: Apache-2.0
"""Makes unary gRPC calls over a unix socket, with ``h2`` for HTTP/2.

Each call has its own connection, so a restarted runtime is no special case. (``grpcio`` takes
17 MB of memory, h2 1.5.) Framing follows grpc/doc/PROTOCOL-HTTP2.md. h2 is imported at the
first call: without a runtime it is not needed.
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
_RECEIVE_BYTES = 1 << 16
_WINDOW_BYTES = 1 << 30
_MAX_BYTES = 16 << 20  # of a response; the kubelet has the same limit


class CallError(Exception):
    """A call without a response: no server, too late, or an error status."""

    def __init__(self, message: str, status: int = -1) -> None:
        super().__init__(message)
        self.status = status  # gRPC's; -1 if there was none


def call(path: Path, method: str, request: bytes, timeout_seconds: float) -> bytes:
    """Call ``method`` (/package.Service/Method); CallError if there is no response in time."""
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
            # so that no response of an accepted size waits for a window update
            self._http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW_BYTES})
            self._http.increment_flow_control_window(_WINDOW_BYTES)
            self._http.send_headers(1, _headers(method))
            self._http.send_data(1, _PREFIX.pack(0, len(request)) + request, end_stream=True)
            while not self._ended:
                self._exchange()
        except ProtocolError as error:
            raise CallError(f"not HTTP/2: {error}") from error
        if self._status != _OK:  # a stream that ends without one has failed
            raise CallError("a response without a status")
        return _message(bytes(self._data))

    def _exchange(self) -> None:
        self._socket.settimeout(self._left())
        self._socket.sendall(self._http.data_to_send())
        self._socket.settimeout(self._left())
        received = self._socket.recv(_RECEIVE_BYTES)
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
                if len(self._data) > _MAX_BYTES:
                    raise CallError(f"a response of more than {_MAX_BYTES} bytes")
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
    """Raise CallError if the headers or the trailers report a failure."""
    http = named.get(":status", "200")
    if http != "200":
        raise CallError(f"HTTP status {http}")
    status = named.get("grpc-status", _OK)
    if status != _OK:
        message = unquote(named.get("grpc-message", "")) or f"gRPC status {status}"
        raise CallError(message, int(status) if status.isdecimal() else -1)


def _message(data: bytes) -> bytes:
    if len(data) < _PREFIX.size:
        raise CallError("a response without a message")
    compressed, length = _PREFIX.unpack_from(data)
    if compressed or len(data) != _PREFIX.size + length:
        raise CallError("a response that is compressed, or not one message")
    return data[_PREFIX.size :]
