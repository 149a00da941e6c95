# SPDX-License-Identifier: Apache-2.0
"""One HTTP/1.1 connection to the API server: a GET's body, or its lines as they arrive.

Requests are made one after another by one thread; ``interrupt`` may be called by any.
"""

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator

import msgspec

from podtally import __version__
from podtally.kube.access import Access
from podtally.kube.backoff import ClientTiming
from podtally.kube.credentials import Credential
from podtally.kube.model import ApiStatus

_CHUNK_BYTES = 1 << 16
_MAX_LINE_BYTES = 16 << 20  # etcd takes no object of more than 1.5 MiB (--max-request-bytes)
_MAX_MESSAGE_CHARACTERS = 300
# A peer that vanished silently is detected after idle + count * interval seconds.
# Not every system has these options.
_KEEPALIVE = tuple(
    (getattr(socket, name), value)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
)


class ApiError(Exception):
    """The server answered with an error."""

    def __init__(self, status: ApiStatus) -> None:
        super().__init__(f"{status.code} {status.reason}: {status.message}")
        self.status = status

    @property
    def code(self) -> int:
        return self.status.code


class ContactError(Exception):
    """There was no response, or only part of one."""


class ConnectError(ContactError):
    """No connection to the server."""


class BrokenError(ContactError):
    """The connection ended, or the response was not HTTP."""


class SilentError(ContactError):
    """The server sent nothing for too long."""


class _ErrorDetails(msgspec.Struct, frozen=True, rename="camel"):
    retry_after_seconds: float = 0.0


class _ErrorStatus(msgspec.Struct, frozen=True):
    message: str = ""
    reason: str = ""
    details: _ErrorDetails | None = None


class Client:
    """A connection, opened when needed and reused while it lasts."""

    def __init__(self, access: Access, timing: ClientTiming) -> None:
        self._access = access
        self._timing = timing
        self._connection: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._interrupted = False
        self.used = Credential()  # by the last request

    def get(self, target: str, accept: str) -> bytes:
        """Return the body at ``target`` (path and query); ApiError, ContactError."""
        with self._failures():
            return self._respond(target, accept).read()

    def lines(self, target: str, accept: str) -> "ResponseLines":
        """Start a response to be read line by line; ApiError, ContactError."""
        with self._failures():
            response = self._respond(target, accept)
            self._set_timeout(self._timing.quiet_seconds)
            return ResponseLines(self, response)

    def drop(self) -> None:
        """Close the connection; the next request opens another."""
        connection, self._connection = self._connection, None
        with self._lock:
            sock, self._socket = self._socket, None
        if connection is not None:
            connection.close()
        if sock is not None:
            sock.close()

    def interrupt(self) -> None:
        """End waiting calls, and every later request, with BrokenError or ConnectError."""
        with self._lock:
            self._interrupted = True
            if self._socket is not None:
                # not SSLSocket.shutdown(): it removes the TLS state while another thread reads
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _respond(self, target: str, accept: str) -> http.client.HTTPResponse:
        self.used = self._access.credential()
        connection = self._connection or self._connect(self.used)
        self._set_timeout(self._timing.response_seconds)
        # No gzip: for 70 MB of pods it costs 0.1 s more CPU here, and far more on the server.
        headers = {"Accept": accept, "User-Agent": f"podtally/{__version__}"}
        if self.used.authorization:
            headers["Authorization"] = self.used.authorization
        connection.request("GET", self._access.server.prefix + target, headers=headers)
        response = connection.getresponse()
        if response.status != 200:
            raise ApiError(_status(response))
        return response

    def _connect(self, credential: Credential) -> http.client.HTTPConnection:
        server = self._access.server
        context = self._access.context(credential) if server.tls else None
        try:
            sock = self._open(server.host, server.port)
            if context is not None:
                sock = context.wrap_socket(
                    sock,
                    server_hostname=server.name or server.host,
                    do_handshake_on_connect=False,
                )
                self._keep(sock)
                sock.do_handshake()
        except ssl.SSLCertVerificationError as error:
            raise ConnectError(f"its certificate: {error.verify_message}") from None
        except (OSError, ValueError) as error:  # ValueError: a socket shut down meanwhile
            raise ConnectError(_describe(error)) from None
        connection = http.client.HTTPConnection(server.host, server.port)
        connection.auto_open = 0
        connection.sock = sock
        self._connection = connection
        return connection

    def _open(self, host: str, port: int) -> socket.socket:
        """Connect to the first address that answers; ``interrupt`` can abort it."""
        failure: OSError = OSError("it has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        ):
            sock = socket.socket(family, kind, protocol)
            try:
                self._keep(sock)
                sock.settimeout(self._timing.connect_seconds)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in _KEEPALIVE:
                    sock.setsockopt(socket.IPPROTO_TCP, option, value)
                sock.connect(address)
            except OSError as error:
                failure = error
                sock.close()
            else:
                return sock
        raise failure

    def _keep(self, sock: socket.socket) -> None:
        with self._lock:
            if self._interrupted:
                sock.close()
                raise ConnectionAbortedError("interrupted")
            self._socket = sock

    def _set_timeout(self, seconds: float) -> None:
        if self._socket is not None:
            self._socket.settimeout(seconds)

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Raise errors of sockets and http.client as the client's own; drop the connection."""
        done = False
        try:
            yield
            done = True
        except TimeoutError:
            raise SilentError("it sends nothing") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise BrokenError(_describe(error)) from None
        finally:
            if not done:
                self.drop()


class ResponseLines:
    """The lines of a response, without line ends; an incomplete last line is an error."""

    def __init__(self, client: Client, response: http.client.HTTPResponse) -> None:
        self._client = client
        self._response = response
        self._rest = bytearray()

    def read(self) -> list[bytes]:
        """Return the next lines, perhaps none yet; EOFError at the response's proper end."""
        with self._client._failures():
            chunk = self._response.read1(_CHUNK_BYTES)
            if not chunk and self._rest:
                raise http.client.IncompleteRead(b"")
        if not chunk:
            raise EOFError
        return self._split(chunk)

    def _split(self, chunk: bytes) -> list[bytes]:
        if b"\n" not in chunk:
            self._rest += chunk
            if len(self._rest) > _MAX_LINE_BYTES:
                self._client.drop()
                raise BrokenError(f"a line of more than {_MAX_LINE_BYTES >> 20} MiB")
            return []
        whole, _, rest = chunk.rpartition(b"\n")
        lines = (bytes(self._rest) + whole).split(b"\n")
        self._rest = bytearray(rest)
        return [line for line in lines if line.strip()]


def _status(response: http.client.HTTPResponse) -> ApiStatus:
    body = response.read(_CHUNK_BYTES)
    try:
        error = msgspec.json.decode(body, type=_ErrorStatus)
    except msgspec.DecodeError:  # a proxy's page, perhaps
        error = _ErrorStatus(body[:_MAX_MESSAGE_CHARACTERS].decode(errors="replace").strip())
    retry_after = error.details.retry_after_seconds if error.details else 0.0
    header = response.getheader("Retry-After", "").strip()
    if header.isascii() and header.isdigit():  # RFC 9110, 10.2.3: seconds, or a date
        retry_after = max(retry_after, float(header))
    message = error.message[:_MAX_MESSAGE_CHARACTERS]
    return ApiStatus(response.status, error.reason or response.reason, message, retry_after)


def _describe(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if isinstance(error, http.client.IncompleteRead | http.client.RemoteDisconnected):
        return "the connection was cut"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"not HTTP as expected ({type(error).__name__})"
