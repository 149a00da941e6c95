"""Serves /metrics, /livez, /readyz and /api/v1 from what was published last; it never reads
the kernel.
"""

import logging
import socket
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
from podtally.export.exposition import Exposition
from podtally.export.selfmetrics import LedgerCollector, SelfMetrics
from podtally.ledger.accounts import BYTES, CONNECTIONS
from podtally.ledger.ledger import View

log = logging.getLogger(__name__)

_EOF = "# EOF\n"
_INDEX = (
    f"podtally\n\n/metrics\n/livez\n/readyz\n{ENDPOINTS}\n{RESOLVE}?address=\n"
    f"{EXPLAIN}?from=&to=&port=\n{CANDIDATES}\n"
).encode()


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

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._http = _bind(address)
        self.url = "http://{}:{}/metrics".format(
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
        self._http.server_close()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    publisher: Publisher
    api: Api | None

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up before it is answered is no news either."""
        if not isinstance(sys.exception(), ConnectionError):
            log.exception("cannot answer %s", client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    timeout = 10.0  # seconds that a client may take for its request
    protocol_version = "HTTP/1.1"
    server_version = "podtally"
    sys_version = ""

    def do_GET(self) -> None:
        publisher = self.server.publisher
        path, _, query = self.path.partition("?")
        if path == "/metrics":
            body, kind = publisher.render(self.headers.get("Accept", ""))
            self._answer(HTTPStatus.OK, body, kind)
        elif path == "/livez":
            self._tell(publisher.health().alive)
        elif path == "/readyz":
            health = publisher.health()
            self._tell(health.alive or health.ready)
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

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
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
