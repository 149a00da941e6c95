# SPDX-License-Identifier: Apache-2.0
"""One HTTP/1.1 connection to the API server: a GET's body, or its lines as they come.

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

_PIECE_BYTES = 1 << 16
_LINE_BYTES = 16 << 20  # etcd takes no object of more than 1.5 MiB (--max-request-bytes)
_MESSAGE_CHARACTERS = 300
# A peer that vanished without a word is found after idle + count * interval seconds.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))


class ApiError(Exception):
    """The server answered, with an error."""

    def __init__(self, status: ApiStatus) -> None:
        super().__init__(f"{status.code} {status.reason}: {status.message}")
        self.status = status

    @property
    def code(self) -> int:
        return self.status.code


class ContactError(Exception):
    """There was no answer, or only part of one."""


class ConnectError(ContactError):
    """No connection to the server."""


class BrokenError(ContactError):
    """The connection ended, or what came was not HTTP."""


class SilentError(ContactError):
    """The server did not say anything for too long."""


class _ErrorDetails(msgspec.Struct, frozen=True, rename="camel"):
    retry_after_seconds: float = 0.0


class _ErrorStatus(msgspec.Struct, frozen=True):
    message: str = ""
    reason: str = ""
    details: _ErrorDetails | None = None


class Client:
    """A connection that is made when it is needed, and used again while it stands."""

    def __init__(self, access: Access, patience: ClientTiming) -> None:
        self._access = access
        self._patience = patience
        self._connection: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._interrupted = False
        self.used = Credential()  # by the last request

    def get(self, target: str, accept: str) -> bytes:
        """Return the body that ``target`` (path and query) has; ApiError, ContactError."""
        with self._failures():
            return self._answer(target, accept).read()

    def lines(self, target: str, accept: str) -> "ResponseLines":
        """Begin an answer that is read line by line; ApiError, ContactError."""
        with self._failures():
            response = self._answer(target, accept)
            self._set_timeout(self._patience.quiet_seconds)
            return ResponseLines(self, response)

    def drop(self) -> None:
        """Forget the connection; the next request makes one anew."""
        connection, self._connection = self._connection, None
        with self._lock:
            sock, self._socket = self._socket, None
        if connection is not None:
            connection.close()
        if sock is not None:
            sock.close()

    def interrupt(self) -> None:
        """End what waits, and every later request, with BrokenError or ConnectError."""
        with self._lock:
            self._interrupted = True
            if self._socket is not None:
                # not SSLSocket.shutdown(): it takes the TLS state away from under a reader
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _answer(self, target: str, accept: str) -> http.client.HTTPResponse:
        self.used = self._access.credential()
        connection = self._connection or self._connect(self.used)
        self._set_timeout(self._patience.response_seconds)
        # No gzip: 70 MB of pods cost 0.1 s of CPU more with it, and the server far more.
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
        """Connect to the first address that answers, so that ``interrupt`` can end it."""
        failure: OSError = OSError("it has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        ):
            sock = socket.socket(family, kind, protocol)
            try:
                self._keep(sock)
                sock.settimeout(self._patience.connect_seconds)
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
                raise ConnectionAbortedError("it was told to stop")
            self._socket = sock

    def _set_timeout(self, seconds: float) -> None:
        if self._socket is not None:
            self._socket.settimeout(seconds)

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Put what sockets and http.client raise into our words, and drop the connection."""
        done = False
        try:
            yield
            done = True
        except TimeoutError:
            raise SilentError("it says nothing") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise BrokenError(_describe(error)) from None
        finally:
            if not done:
                self.drop()


class ResponseLines:
    """The lines of an answer, without their ends; one that is cut short is an error."""

    def __init__(self, client: Client, response: http.client.HTTPResponse) -> None:
        self._client = client
        self._response = response
        self._rest = bytearray()

    def read(self) -> list[bytes]:
        """Return the next lines (none yet, maybe); EOFError at the answer's proper end."""
        with self._client._failures():
            piece = self._response.read1(_PIECE_BYTES)
            if not piece and self._rest:
                raise http.client.IncompleteRead(b"")
        if not piece:
            raise EOFError
        return self._split(piece)

    def _split(self, piece: bytes) -> list[bytes]:
        if b"\n" not in piece:
            self._rest += piece
            if len(self._rest) > _LINE_BYTES:
                self._client.drop()
                raise BrokenError(f"a line of more than {_LINE_BYTES >> 20} MiB")
            return []
        whole, _, rest = piece.rpartition(b"\n")
        lines = (bytes(self._rest) + whole).split(b"\n")
        self._rest = bytearray(rest)
        return [line for line in lines if line.strip()]


def _status(response: http.client.HTTPResponse) -> ApiStatus:
    body = response.read(_PIECE_BYTES)
    try:
        said = msgspec.json.decode(body, type=_ErrorStatus)
    except msgspec.DecodeError:  # a proxy's page, perhaps
        said = _ErrorStatus(body[:_MESSAGE_CHARACTERS].decode(errors="replace").strip())
    asked = said.details.retry_after_seconds if said.details else 0.0
    header = response.getheader("Retry-After", "").strip()
    if header.isascii() and header.isdigit():  # RFC 9110, 10.2.3: seconds, or a date
        asked = max(asked, float(header))
    message = said.message[:_MESSAGE_CHARACTERS]
    return ApiStatus(response.status, said.reason or response.reason, message, asked)


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
