"""Serves /metrics, /livez, /readyz and /api/v1 from what was published last, to whom the web
configuration lets in; it never reads the kernel.
"""

import logging
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from prometheus_client import exposition
from prometheus_client.openmetrics import exposition as openmetrics

from podtally.errors import PodtallyError
from podtally.export.api import (
    CANDIDATES,
    ENDPOINTS,
    EXPLAIN,
    PREFIX,
    RESOLVE,
    Answers,
    Api,
    CandidateRow,
)
from podtally.export.clients import Clients
from podtally.export.exposition import Exposition
from podtally.export.handshake import say_farewell, shakes_hands
from podtally.export.selfmetrics import LedgerCollector, SelfMetrics
from podtally.export.web import Web
from podtally.ledger.accounts import BYTES, CONNECTIONS
from podtally.ledger.view import View

log = logging.getLogger(__name__)

_EOF = "# EOF\n"
_INDEX = (
    f"podtally\n\n/metrics\n/livez\n/readyz\n{ENDPOINTS}\n{RESOLVE}?address=\n"
    f"{EXPLAIN}?from=&to=&port=\n{CANDIDATES}\n"
).encode()
_LIVEZ, _READYZ = _HEALTH = ("/livez", "/readyz")
_NO_HEADERS: Mapping[str, str] = {}
_FAREWELL_SECONDS = 2.0
_PATIENCE_SECONDS = 10.0  # with a client's handshake, and with its request

_Request = socket.socket | tuple[bytes, socket.socket]  # as socketserver has it


class Health(NamedTuple):
    """Why the agent is not well; empty strings if it is."""

    alive: str
    ready: str


class Publisher:
    """The latest view, swapped by reference; the one place where both threads meet."""

    def __init__(self, view: View, metrics: SelfMetrics, health: Callable[[], Health]) -> None:
        self.health = health
        self._metrics = metrics
        self._ledger = LedgerCollector(view)
        self._exposition = Exposition()
        self._rendering = threading.Lock()
        metrics.registry.register(self._ledger)

    @property
    def view(self) -> View:
        """What was published last."""
        return self._ledger.view

    def publish(self, view: View) -> None:
        self._ledger.view = view

    def candidates(self) -> list[CandidateRow]:
        """What candidates would change, as far as it was counted."""
        labels, values = self._ledger.view.candidate
        counted = zip(values[:, CONNECTIONS].tolist(), values[:, BYTES].tolist(), strict=True)
        return [CandidateRow(*each, *sums) for each, sums in zip(labels, counted, strict=True)]

    def render(self, accept: str) -> tuple[bytes, str]:
        """The body of /metrics and its content type, as the scraper can take it."""
        wants_openmetrics = "application/openmetrics-text" in accept
        with self._rendering:
            text = self._exposition.render(self._ledger.view, wants_openmetrics)
        if wants_openmetrics:
            own = openmetrics.generate_latest(self._metrics.registry).decode()  # type: ignore[no-untyped-call]
            body = text + own.removesuffix(_EOF) + _EOF
            return body.encode(), openmetrics.CONTENT_TYPE_LATEST
        own = exposition.generate_latest(self._metrics.registry).decode()
        return (text + own).encode(), exposition.CONTENT_TYPE_PLAIN_0_0_4


class Server:
    """Bound when made, so that a port in use is known before anything is attached.

    Until ``start`` connections are refused: a scraper need not wait for a compiler.
    """

    def __init__(self, address: tuple[str, int], web_config_file: Path | None = None) -> None:
        self._address = address
        web = Web(web_config_file)
        self._http = _bind(address)
        self._http.web = web
        self._http.clients = Clients()
        self.url = "{}://{}:{}/metrics".format(
            "https" if web.now().tls else "http",
            f"[{address[0]}]" if ":" in address[0] else address[0] or "localhost",
            self._http.server_address[1],
        )
        self._thread = threading.Thread(
            target=self._http.serve_forever, name="http", daemon=True, kwargs={"poll_interval": 60}
        )

    def start(self, publisher: Publisher, answers: Answers | None = None) -> None:
        """Answer from now on; without ``answers`` there is no ``/api/v1``."""
        self._http.publisher = publisher
        self._http.api = None if answers is None else Api(answers, publisher)
        try:
            self._http.server_activate()
        except OSError as error:  # another that was bound at the same time listens already
            raise _cannot_listen(self._address, error) from None
        self._thread.start()

    def close(self) -> None:
        """Free the port, and hang up; what is being answered may be finished."""
        if self._thread.is_alive():
            # Wakes the thread that accepts, which looks up rarely; accept() fails from now on.
            self._http.socket.shutdown(socket.SHUT_RDWR)
            self._http.shutdown()
            self._thread.join()
        self._http.server_close()
        self._http.clients.part(_FAREWELL_SECONDS)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # who comes in a burst waits, and is not sent away
    publisher: Publisher
    api: Api | None
    web: Web
    clients: Clients

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
        request.settimeout(_PATIENCE_SECONDS)
        with in_force.context.wrap_socket(
            request, server_side=True, do_handshake_on_connect=False
        ) as secured:
            self.clients.becomes(request, secured)
            try:
                if shakes_hands(secured, in_force.tls):
                    super().finish_request(secured, client_address)
                    say_farewell(secured)
            finally:
                self.clients.leave(secured)

    def shutdown_request(self, request: _Request) -> None:
        assert isinstance(request, socket.socket)
        self.clients.leave(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up before it is answered is no news either."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError | ssl.SSLError):
            log.exception("cannot answer %s", client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    timeout = _PATIENCE_SECONDS
    disable_nagle_algorithm = True  # else what is last waits 40 ms for the client's delayed ACK
    protocol_version = "HTTP/1.1"
    server_version = "podtally"
    sys_version = ""

    def do_GET(self) -> None:
        self.server.clients.heard(self.connection)
        path, _, query = self.path.partition("?")
        if path in _HEALTH:  # the kubelet has no password
            health = self.server.publisher.health()
            self._tell(health.alive or (health.ready if path == _READYZ else ""))
        elif self._may_enter():
            self._reply(path, query)
        self.server.clients.heard(self.connection)

    def end_headers(self) -> None:
        for name, value in self.server.web.now().headers.items():
            self.send_header(name, value)
        super().end_headers()

    def _may_enter(self) -> bool:
        status = self.server.web.now().judge(self.headers.get("Authorization", ""))
        if status == HTTPStatus.OK:
            return True
        extra = {"WWW-Authenticate": 'Basic realm="podtally", charset="UTF-8"'}
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            extra = {"Retry-After": "1"}
        self._answer(status, f"{status.phrase.lower()}\n".encode(), "text/plain", extra)
        return False

    def _reply(self, path: str, query: str) -> None:
        if path == "/metrics":
            body, kind = self.server.publisher.render(self.headers.get("Accept", ""))
            self._answer(HTTPStatus.OK, body, kind)
        elif path.startswith(PREFIX) and self.server.api is not None:
            status, body = self.server.api.reply(path, query)
            self._answer(status, body, "application/json")
        elif path == "/":
            self._answer(HTTPStatus.OK, _INDEX, "text/plain")
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"not found\n", "text/plain")

    def _tell(self, trouble: str) -> None:
        status = HTTPStatus.SERVICE_UNAVAILABLE if trouble else HTTPStatus.OK
        self._answer(status, f"{trouble or 'ok'}\n".encode(), "text/plain")

    def _answer(
        self, status: HTTPStatus, body: bytes, kind: str, extra: Mapping[str, str] = _NO_HEADERS
    ) -> None:
        self.send_response(status)
        for name, value in extra.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """A scrape is no news."""


def _bind(address: tuple[str, int]) -> _Http:
    host, port = address
    kind = type("_Family", (_Http,), {"address_family": _family(host)})
    http: _Http = kind((host, port), _Handler, bind_and_activate=False)
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
