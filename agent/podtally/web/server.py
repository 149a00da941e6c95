# SPDX-License-Identifier: Apache-2.0
"""Listens for HTTP clients on TCP and on a Unix socket; each is served in its own thread.

Replies come from what was published last; no request reads the kernel.
"""

import contextlib
import errno
import logging
import os
import socket
import ssl
import stat
import sys
import threading
import time
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path

from podtally.api.schema import ApiRouter, QuerySource
from podtally.errors import PodtallyError
from podtally.supervision.conditions import Condition
from podtally.web.connection_limit import ConnectionLimit
from podtally.web.handler import CLIENT_TIMEOUT_SECONDS, Handler, LocalHandler, Published
from podtally.web.reload import WebConfigWatch
from podtally.web.tls_session import complete_handshake, tls_close
from podtally.web.unix_socket import short_path

log = logging.getLogger(__name__)

_DRAIN_SECONDS = 2.0
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.05, 1.0

_Request = socket.socket | tuple[bytes, socket.socket]  # as socketserver has it


class WebServer:
    """Binds when created, so that a port in use is an error before anything is attached.

    From ``listen`` to ``start`` every reply is 503, "starting: ..."; before, it refuses.
    ``api_socket`` is a path that serves root of this host, without TLS and passwords.
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
            "https" if web.current().tls else "http",
            f"[{address[0]}]" if ":" in address[0] else address[0] or "localhost",
            tcp.server_address[1],
        )
        self._threads: list[_AcceptingThread] = []

    def listen(self, starting: str, prepare: Callable[[], object] | None = None) -> None:
        """Begin to accept; ``prepare`` runs in each accepting thread before its first client."""
        if self._api_socket is not None:
            self._listen_on(self._api_socket)
        self.starting(starting)
        for listener in self._listeners:
            try:
                listener.server_activate()
            except OSError as error:  # another server bound at the same time
                raise _cannot_listen(self._address, error) from None
        self._threads = [_AcceptingThread(each, prepare) for each in self._listeners]
        for thread in self._threads:
            thread.is_prepared.wait()

    def starting(self, phase: str) -> None:
        """Say what the start is at; clients read it."""
        for listener in self._listeners:
            listener.phase = phase

    def start(self, publisher: Published, queries: QuerySource | None = None) -> None:
        """Serve what is published; without ``queries`` there is no ``/api/v1``."""
        if not self._threads:
            self.listen("")
        for listener in self._listeners:
            listener.api = None if queries is None else ApiRouter(queries, publisher)
            listener.publisher = publisher

    def _listen_on(self, path: Path) -> None:
        """Listen on the Unix socket; without it, commands use TCP."""
        try:
            self._listeners.append(_bind_unix(path))
        except OSError as error:
            log.warning("cannot listen on %s: %s; commands use TCP", path, error.strerror)

    def close(self) -> None:
        """Release the port; replies under way may complete."""
        for listener, thread in zip(self._listeners, self._threads, strict=False):
            # Wakes the accepting thread, which polls rarely; accept() fails from now on.
            listener.socket.shutdown(socket.SHUT_RDWR)
            listener.shutdown()
            thread.join()
        for listener in self._listeners:
            listener.server_close()
            listener.connections.drain(_DRAIN_SECONDS)


class _AcceptingThread(threading.Thread):
    def __init__(self, listener: "_Listener", prepare: Callable[[], object] | None) -> None:
        super().__init__(name="http", daemon=True)
        self._listener, self._prepare = listener, prepare
        self.is_prepared = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            if self._prepare is not None:
                self._prepare()
        finally:
            self.is_prepared.set()
        self._listener.serve_forever(poll_interval=60)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # a burst of clients waits instead of being refused
    local = False
    _failing, _exhausted = Condition(log), Condition(log)  # of all listeners
    _wait_seconds = _FIRST_WAIT_SECONDS
    publisher: Published | None = None
    phase = ""  # of the start, until there is a publisher
    api: ApiRouter | None = None
    web: WebConfigWatch
    connections: ConnectionLimit

    def get_request(self) -> tuple[socket.socket, object]:
        """Accept a client. If that fails for lack of descriptors or memory, free some and wait:
        the client stays in the queue, so the listener would be readable again at once.
        """
        try:
            accepted: tuple[socket.socket, object] = super().get_request()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self._exhausted.met("cannot accept a client: %s", error.strerror)
                self.connections.close_idlest()
                time.sleep(self._wait_seconds)
                self._wait_seconds = min(2 * self._wait_seconds, _LONGEST_WAIT_SECONDS)
            raise
        self._wait_seconds = _FIRST_WAIT_SECONDS
        self._exhausted.over("clients are accepted again")
        return accepted

    def process_request(self, request: _Request, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        self.connections.add(request)
        super().process_request(request, client_address)

    def finish_request(self, request: _Request, client_address: object) -> None:
        """Serve the client in its own thread, which a slow handshake may block."""
        assert isinstance(request, socket.socket)
        settings = self.web.current()
        if settings.context is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(CLIENT_TIMEOUT_SECONDS)
        with settings.context.wrap_socket(
            request, server_side=True, do_handshake_on_connect=False
        ) as secured:
            self.connections.replace(request, secured)
            try:
                if complete_handshake(secured, settings.tls):
                    super().finish_request(secured, client_address)
                    tls_close(secured)
            finally:
                self.connections.remove(secured)

    def shutdown_request(self, request: _Request) -> None:
        assert isinstance(request, socket.socket)
        self.connections.remove(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Log unexpected errors; clients that disconnect early are not."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError | ssl.SSLError):
            log.debug("cannot serve %s", client_address, exc_info=True)
            self._failing.met("cannot serve a client: %r", sys.exception())


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
    """Bind, replacing the socket that an earlier agent left; OSError."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(0, "the existing file is not a socket")
        path.unlink()
    with short_path(path) as name:
        listener = _UnixListener(name, LocalHandler, bind_and_activate=False)  # type: ignore[arg-type]
        listener.web, listener.connections, listener.path = (
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
    http.connections = ConnectionLimit()
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
