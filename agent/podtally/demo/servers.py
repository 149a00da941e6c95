# SPDX-License-Identifier: Apache-2.0
"""The demo's traffic: a shop of three servers, its user, payments, a pod that leaks data, and DNS.

``python -m podtally.demo.servers ROLE`` runs one of them until it is killed; ``topology`` has
their addresses.
"""

import http.client
import itertools
import socket
import socketserver
import struct
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from podtally.demo import resolver
from podtally.demo.topology import (
    BACKEND,
    BACKEND_PORT,
    BANK_NAME,
    BANK_PORT,
    DATABASE,
    DATABASE_PORT,
    FRONTEND,
    FRONTEND_PORT,
    LEAK_NAME,
    OLD_BANK_NAME,
    OUTSIDE_PORT,
)

_LENGTH = struct.Struct("!I")  # before each message to and from the database
_TIMEOUT_SECONDS = 2.0
_RETRY_SECONDS = 0.1  # while the server is still starting
_REQUEST_SECONDS = 0.1
_KEPT_ALIVE = 10  # requests on one connection, before the user takes another
_LEAK_SECONDS = 0.5
_PAY_SECONDS = 0.5
_OLD_BANK_EVERY = 5  # payments, from the second on


def receive(connection: socket.socket) -> bytes:
    """Read one message of the database's protocol; EOFError if the peer closed."""
    return _exactly(connection, _LENGTH.unpack(_exactly(connection, _LENGTH.size))[0])


def send(connection: socket.socket, message: bytes) -> None:
    """Write one message of the database's protocol: its length, then itself."""
    connection.sendall(_LENGTH.pack(len(message)) + message)


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


class _Database(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        try:
            while True:
                query = receive(self.request).decode()
                rows = "\n".join(f"{number}\tone row of {query}" for number in range(40))
                send(self.request, rows.encode())
        except (EOFError, ConnectionError):
            return  # the backend uses another connection now


class _TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


class _ShopServer(ThreadingHTTPServer):
    def server_bind(self) -> None:
        """Bind without HTTPServer's look-up of its own name, which nothing here knows."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "", int(self.server_address[1])


class _ShopHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answer: Callable[[str], bytes]

    def do_GET(self) -> None:
        try:
            status, body = 200, type(self).answer(self.path)
        except (OSError, EOFError, http.client.HTTPException) as error:
            status, body = 502, f"{error}\n".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: podtally shows the requests."""


class _Connection:
    """One connection to the database, shared by the backend's threads and renewed when lost."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def query(self, text: str) -> bytes:
        with self._lock:
            if self._socket is None:
                where = (DATABASE.address, DATABASE_PORT)
                self._socket = socket.create_connection(where, _TIMEOUT_SECONDS)
            try:
                send(self._socket, text.encode())
                return receive(self._socket)
            except (OSError, EOFError):
                self._socket.close()
                self._socket = None
                raise


def get(connection: http.client.HTTPConnection, path: str) -> bytes:
    """Return the body of ``path``; HTTPException if the status is not 200."""
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    if response.status != http.client.OK:
        raise http.client.HTTPException(f"{connection.host}{path}: {response.status}")
    return body


def _ask_backend(path: str) -> bytes:
    connection = http.client.HTTPConnection(BACKEND.address, BACKEND_PORT, _TIMEOUT_SECONDS)
    try:
        items = get(connection, "/items" + path)
    finally:
        connection.close()
    return b"<html><body><pre>" + items + b"</pre></body></html>\n"


def _serve_http(port: int, answer: Callable[[str], bytes]) -> None:
    handler = type("Handler", (_ShopHandler,), {"answer": staticmethod(answer)})
    _ShopServer(("", port), handler).serve_forever()


def frontend() -> None:
    _serve_http(FRONTEND_PORT, _ask_backend)


def backend() -> None:
    database = _Connection()
    _serve_http(BACKEND_PORT, lambda path: database.query(f"SELECT * FROM{path}"))


def database() -> None:
    _TcpServer(("", DATABASE_PORT), _Database).serve_forever()


def user() -> None:
    """Request pages from the frontend; every other visit keeps its connection for a while."""
    for visit in itertools.count():
        connection = http.client.HTTPConnection(FRONTEND.address, FRONTEND_PORT, _TIMEOUT_SECONDS)
        try:
            for _ in range(_KEPT_ALIVE if visit % 2 else 1):
                get(connection, f"/{visit}")
                time.sleep(_REQUEST_SECONDS)
        except (OSError, http.client.HTTPException):
            time.sleep(_RETRY_SECONDS)
        finally:
            connection.close()


def stray() -> None:
    """Send a little, again and again, to a name that no pod has a reason to reach."""
    for number in itertools.count():
        try:
            where = (resolver.resolve(LEAK_NAME, _TIMEOUT_SECONDS), OUTSIDE_PORT)
            with socket.create_connection(where, _TIMEOUT_SECONDS) as connection:
                connection.sendall(f"secret {number}\n".encode() * 20)
        except OSError:
            time.sleep(_RETRY_SECONDS)
        time.sleep(_LEAK_SECONDS)


def payments() -> None:
    """Pay at the bank, sometimes at its old address, which the policy excludes."""
    for number in itertools.count():
        name = OLD_BANK_NAME if number % _OLD_BANK_EVERY == 1 else BANK_NAME
        try:
            where = (resolver.resolve(name, _TIMEOUT_SECONDS), BANK_PORT)
            with socket.create_connection(where, _TIMEOUT_SECONDS) as connection:
                send(connection, f"PAY {number}".encode())
                receive(connection)
        except (OSError, EOFError):
            time.sleep(_RETRY_SECONDS)
        time.sleep(_PAY_SECONDS)


class _PaymentReader(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while self.request.recv(65536):
            pass


class _Bank(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        send(self.request, receive(self.request).replace(b"PAY", b"PAID"))


def outside() -> None:
    bank = _TcpServer(("", BANK_PORT), _Bank)
    threading.Thread(target=bank.serve_forever, daemon=True).start()
    _TcpServer(("", OUTSIDE_PORT), _PaymentReader).serve_forever()


def dns() -> None:
    resolver.serve()


# Servers before their clients, so that the first request succeeds.
_ALL = (database, backend, frontend, outside, dns, user, payments, stray)
ROLES = {role.__name__: role for role in _ALL}

if __name__ == "__main__":
    ROLES[sys.argv[1]]()
