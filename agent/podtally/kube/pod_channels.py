# SPDX-License-Identifier: Apache-2.0
"""Byte streams into a pod: numbered channels over one WebSocket through the API server.

The protocol is v4.channel.k8s.io (apimachinery, util/httpstream/wsstream): the first byte of a
message is its channel.
"""

import contextlib
import http.client
import socket
import ssl
from typing import Any

import msgspec

from podtally import __version__
from podtally.kube.access import Access
from podtally.kube.http import ApiError, BrokenError, ConnectError, ContactError, SilentError
from podtally.kube.model import ApiStatus

_PROTOCOL = "v4.channel.k8s.io"
_MAX_MESSAGE_CHARACTERS = 300


class _ErrorBody(msgspec.Struct, frozen=True):
    message: str = ""
    reason: str = ""


class PodChannels:
    """One WebSocket; used by one thread. ApiError, ContactError from each method."""

    def __init__(self, access: Access, target: str, timeout_seconds: float) -> None:
        """Connect to ``target``, path and query of a pod's subresource."""
        import websocket  # noqa: PLC0415 - only for those who query from outside the node

        self._errors: tuple[type[Exception], ...] = (OSError, websocket.WebSocketException)
        self._closed: type[Exception] = websocket.WebSocketConnectionClosedException
        self._timeout: type[Exception] = websocket.WebSocketTimeoutException
        credential = access.credential()
        server = access.server
        headers = {"User-Agent": f"podtally/{__version__}"}
        if credential.authorization:
            headers["Authorization"] = credential.authorization
        try:
            sock = socket.create_connection((server.host, server.port), timeout_seconds)
        except OSError as error:
            raise ConnectError(error.strerror or "it does not answer") from None
        made: Any = websocket.WebSocket(skip_utf8_validation=True)
        self._socket = made
        try:
            if server.tls:
                sock = access.context(credential).wrap_socket(
                    sock, server_hostname=server.name or server.host
                )
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.connect(
                f"ws://{server.authority}{server.prefix}{target}",
                socket=sock, subprotocols=[_PROTOCOL], header=headers,
                suppress_origin=True, redirect_limit=0, timeout=timeout_seconds,
            )  # fmt: skip
        except websocket.WebSocketBadStatusException as error:
            sock.close()
            raise ApiError(_status(error.status_code, error.resp_body or b"")) from None
        except ssl.SSLCertVerificationError as error:
            sock.close()
            raise ConnectError(f"its certificate: {error.verify_message}") from None
        except self._errors as error:
            sock.close()
            raise self._contact_error(error) from None

    def send(self, channel: int, data: bytes) -> None:
        try:
            self._socket.send_binary(bytes([channel]) + data)
        except self._errors as error:
            raise self._contact_error(error) from None

    def receive(self) -> tuple[int, bytes]:
        """Return the next message that is not empty, and its channel; EOFError at the end."""
        import websocket  # noqa: PLC0415

        while True:
            try:
                kind, data = self._socket.recv_data()
            except self._closed:
                raise EOFError from None
            except self._errors as error:
                raise self._contact_error(error) from None
            if kind == websocket.ABNF.OPCODE_CLOSE:
                raise EOFError
            if len(data) > 1:
                return data[0], data[1:]

    def set_timeout(self, seconds: float) -> None:
        self._socket.settimeout(seconds)

    def close(self) -> None:
        with contextlib.suppress(*self._errors):
            self._socket.send_close()
        self._socket.shutdown()

    def _contact_error(self, error: Exception) -> ContactError:
        if isinstance(error, self._timeout | TimeoutError):
            return SilentError("it does not answer")
        if isinstance(error, OSError):
            return BrokenError(error.strerror or str(error))
        return BrokenError(f"not a WebSocket as expected ({error})")


def _status(code: int, body: bytes) -> ApiStatus:
    try:
        error = msgspec.json.decode(body, type=_ErrorBody)
    except msgspec.DecodeError:  # a proxy's page, perhaps
        error = _ErrorBody(body[:_MAX_MESSAGE_CHARACTERS].decode(errors="replace").strip())
    reason = error.reason or http.client.responses.get(code, "")
    return ApiStatus(code, reason, error.message[:_MAX_MESSAGE_CHARACTERS], 0.0)
