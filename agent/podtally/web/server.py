# SPDX-License-Identifier: Apache-2.0
"""Listens for HTTP clients, by TCP and on a Unix socket, each served in a thread of its own.

What is served comes from what was published last; the kernel is never read for a request.
"""

import contextlib
import logging
import os
import socket
import ssl
import stat
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

from podtally.api.schema import ApiRouter, QuerySource
from podtally.errors import PodtallyError
from podtally.export.publisher import Publisher
from podtally.supervision.conditions import Condition
from podtally.web.connection_limit import ConnectionLimit
from podtally.web.handler import CLIENT_TIMEOUT_SECONDS, Handler, LocalHandler
from podtally.web.reload import WebConfigWatch
from podtally.web.tls_session import complete_handshake, tls_close
from podtally.web.unix_socket import short_path

log = logging.getLogger(__name__)

_FAREWELL_SECONDS = 2.0

_Request = socket.socket | tuple[bytes, socket.socket]  # as socketserver has it


class WebServer:
    """Bound when made, so that a port in use is known before anything is attached.

    Until ``start`` connections are refused: a scraper need not wait for a compiler. On
    ``api_socket``, a path, root of this host is served without TLS and passwords.
    """

    def __init__(
        self,
        address: tuple[str, int],
        web_config_file: Path | None = None,
        api_socket: Path | None = None,
    ) -> None:
        self._address = address
        web = WebConfigWatch(web_config_file)
        tcp = _bind(address)
        tcp.web = web
        self._listeners: list[_Listener] = [tcp]
        self._api_socket = api_socket
        self.url = "{}://{}:{}/metrics".format(
            "https" if web.now().tls else "http",
            f"[{address[0]}]" if ":" in address[0] else address[0] or "localhost",
            tcp.server_address[1],
        )
        self._threads: list[threading.Thread] = []

    def start(self, publisher: Publisher, answers: QuerySource | None = None) -> None:
        """Answer from now on; without ``answers`` there is no ``/api/v1``."""
        if self._api_socket is not None:
            self._listen_on(self._api_socket)
        for listener in self._listeners:
            listener.publisher = publisher
            listener.api = None if answers is None else ApiRouter(answers, publisher)
            try:
                listener.server_activate()
            except OSError as error:  # another that was bound at the same time listens already
                raise _cannot_listen(self._address, error) from None
        self._threads = [
            threading.Thread(
                target=each.serve_forever, name="http", daemon=True, kwargs={"poll_interval": 60}
            )
            for each in self._listeners
        ]
        for thread in self._threads:
            thread.start()

    def _listen_on(self, path: Path) -> None:
        """The agent goes on without it: commands then ask by TCP."""
        try:
            self._listeners.append(_bind_unix(path))
        except OSError as error:
            log.warning("cannot listen on %s: %s; commands ask by TCP", path, error.strerror)

    def close(self) -> None:
        """Free the port, and hang up; what is being answered may be finished."""
        for listener, thread in zip(self._listeners, self._threads, strict=False):
            # Wakes the thread that accepts, which looks up rarely; accept() fails from now on.
            listener.socket.shutdown(socket.SHUT_RDWR)
            listener.shutdown()
            thread.join()
        for listener in self._listeners:
            listener.server_close()
            listener.clients.part(_FAREWELL_SECONDS)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # who comes in a burst waits, and is not sent away
    local = False
    _trouble = Condition(log)  # of all listeners
    publisher: Publisher
    api: ApiRouter | None
    web: WebConfigWatch
    clients: ConnectionLimit

    def process_request(self, request: _Request, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        self.clients.enter(request)
        super().process_request(request, client_address)

    def finish_request(self, request: _Request, client_address: object) -> None:
        """In a thread of the client's own, which its handshake may hold up."""
        assert isinstance(request, socket.socket)
        in_force = self.web.now()
        if in_force.context is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(CLIENT_TIMEOUT_SECONDS)
        with in_force.context.wrap_socket(
            request, server_side=True, do_handshake_on_connect=False
        ) as secured:
            self.clients.becomes(request, secured)
            try:
                if complete_handshake(secured, in_force.tls):
                    super().finish_request(secured, client_address)
                    tls_close(secured)
            finally:
                self.clients.leave(secured)

    def shutdown_request(self, request: _Request) -> None:
        assert isinstance(request, socket.socket)
        self.clients.leave(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up before it is answered is no news either."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError | ssl.SSLError):
            log.debug("cannot answer %s", client_address, exc_info=True)
            self._trouble.met("cannot answer a client: %r", sys.exception())


class _UnixListener(_Listener):
    """Only root can connect: the socket's mode is 0600."""

    address_family = socket.AF_UNIX
    local = True
    path: Path

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)

    def server_close(self) -> None:
        super().server_close()
        with contextlib.suppress(OSError):
            self.path.unlink()


def _bind_unix(path: Path) -> _UnixListener:
    """Take the place of a socket that an agent before left; OSError."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(0, "the file that is there is no socket")
        path.unlink()
    with short_path(path) as name:
        listener = _UnixListener(name, LocalHandler, bind_and_activate=False)  # type: ignore[arg-type]
        listener.web, listener.clients, listener.path = (
            WebConfigWatch(None),
            ConnectionLimit(),
            path,
        )
        before = os.umask(0o177)
        try:
            listener.server_bind()
        except OSError:
            listener.server_close()
            raise
        finally:
            os.umask(before)
    return listener


def _bind(address: tuple[str, int]) -> _Listener:
    host, port = address
    kind = type("_Family", (_Listener,), {"address_family": _family(host)})
    http: _Listener = kind((host, port), Handler, bind_and_activate=False)
    http.clients = ConnectionLimit()
    try:
        http.server_bind()
    except OSError as error:
        http.server_close()
        raise _cannot_listen(address, error) from None
    return http


def _cannot_listen(address: tuple[str, int], error: OSError) -> PodtallyError:
    return PodtallyError(
        "cannot listen on {}:{}: {}".format(*address, error.strerror),
        "is another podtally running? choose another address with --listen",
    )


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
