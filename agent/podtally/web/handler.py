# SPDX-License-Identifier: Apache-2.0
"""Serves one client's HTTP requests: GET and HEAD, without a body."""

from collections.abc import Callable, Mapping
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from typing import Protocol

from podtally.api.schema import (
    AUDIT,
    CANDIDATES,
    DNS,
    ENDPOINTS,
    EXPLAIN,
    FLOWS,
    NAMES,
    PREFIX,
    RESOLVE,
    TRAFFIC,
    ApiRouter,
    ErrorReply,
    PublishedTotals,
    reply_json,
)
from podtally.web.connection_limit import ConnectionLimit
from podtally.web.reload import WebConfigWatch
from podtally.web.starting import STARTING

CLIENT_TIMEOUT_SECONDS = 10.0  # for its handshake, and for its request

_INDEX = (
    f"podtally\n\n/metrics\n/livez\n/readyz\n{ENDPOINTS}\n{RESOLVE}?address=\n"
    f"{EXPLAIN}?from=&to=&port=\n{CANDIDATES}\n{AUDIT}\n{TRAFFIC}\n"
    f"{FLOWS}\n{DNS}\n{NAMES}?name=\n"
).encode()
_LIVEZ, _READYZ = _HEALTH = ("/livez", "/readyz")
_NO_HEADERS: Mapping[str, str] = {}
_LOCAL_ONLY = ErrorReply(
    "the API is served to this host only, unless clients authenticate",
    "query it on the node, or set web_config_file with users or client certificates (docs/web.md)",
)


class ReportedHealth(Protocol):
    """Why the agent is not alive, or not ready; empty strings if it is."""

    @property
    def alive(self) -> str: ...

    @property
    def ready(self) -> str: ...

    @property
    def note(self) -> str: ...


class Published(PublishedTotals, Protocol):
    """What a running agent serves. A protocol, so that a server can listen before the modules that
    publish are imported.
    """

    @property
    def health(self) -> Callable[[], ReportedHealth]: ...

    def render(self, accept: str) -> tuple[bytes, str]: ...


class ServerState(Protocol):
    """What a listener serves, and to which clients."""

    publisher: Published | None  # None: the agent is starting
    phase: str
    api: ApiRouter | None
    web: WebConfigWatch
    connections: ConnectionLimit
    local: bool  # a Unix socket, protected by its mode


class Handler(BaseHTTPRequestHandler):
    """One connection; ``server`` is a ``Site``."""

    timeout = CLIENT_TIMEOUT_SECONDS
    disable_nagle_algorithm = (
        True  # otherwise the last segment waits 40 ms for the client's delayed ACK
    )
    protocol_version = "HTTP/1.1"
    server_version = "podtally"
    sys_version = ""

    @property
    def _state(self) -> ServerState:
        state: ServerState = self.server  # type: ignore[assignment]
        return state

    def parse_request(self) -> bool:
        """Refuse requests with a body, which a proxy might read as several requests (RFC 9112,
        11.2), and close the connection.
        """
        if not super().parse_request():
            return False
        wrong = _framing_error(self.headers)
        if wrong:
            self._refuse(HTTPStatus.BAD_REQUEST, wrong)
        return not wrong

    def do_GET(self) -> None:
        state = self._state
        state.connections.touch(self.connection)
        path, _, query = self.path.partition("?")
        publisher = state.publisher
        if publisher is None:
            self._report(f"{STARTING}: {state.phase}")
        elif path in _HEALTH:  # the kubelet sends no password
            health = publisher.health()
            if path == _READYZ:
                self._report(health.alive or health.ready, health.note)
            else:
                self._report(health.alive)
        elif self._authenticate():
            self._reply(publisher, path, query)
        state.connections.touch(self.connection)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _not_allowed(self) -> None:
        self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, "use GET or HEAD", {"Allow": "GET, HEAD"})

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _not_allowed

    def end_headers(self) -> None:
        for name, value in self._state.web.current().headers.items():
            self.send_header(name, value)
        super().end_headers()

    def _authenticate(self) -> bool:
        status = self._state.web.current().authenticate(self.headers.get("Authorization", ""))
        if status == HTTPStatus.OK:
            return True
        extra = {"WWW-Authenticate": 'Basic realm="podtally", charset="UTF-8"'}
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            extra = {"Retry-After": "1"}
        self._answer(status, f"{status.phrase.lower()}\n".encode(), "text/plain", extra)
        return False

    def _may_use_api(self) -> bool:
        """Return whether the client is on this host, or authenticated."""
        state = self._state
        return state.local or state.web.current().authenticates or _is_loopback(self.client_address)

    def _reply(self, publisher: Published, path: str, query: str) -> None:
        api = self._state.api
        if path == "/metrics":
            body, kind = publisher.render(self.headers.get("Accept", ""))
            self._answer(HTTPStatus.OK, body, kind)
        elif path.startswith(PREFIX) and api is not None:
            allowed = self._may_use_api()
            status, body = (
                api.reply(path, query) if allowed else reply_json(HTTPStatus.FORBIDDEN, _LOCAL_ONLY)
            )
            self._answer(status, body, "application/json")
        elif path == "/":
            self._answer(HTTPStatus.OK, _INDEX, "text/plain")
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"not found\n", "text/plain")

    def _report(self, problem: str, note: str = "") -> None:
        status = HTTPStatus.SERVICE_UNAVAILABLE if problem else HTTPStatus.OK
        lines = [problem or "ok", *([f"warning: {note}"] if note else [])]
        self._answer(status, "".join(f"{each}\n" for each in lines).encode(), "text/plain")

    def _refuse(
        self, status: HTTPStatus, message: str, extra: Mapping[str, str] = _NO_HEADERS
    ) -> None:
        """Reply and close the connection: what follows may be the request's body."""
        self.close_connection = True
        self._answer(
            status, f"{message}\n".encode(), "text/plain", {**extra, "Connection": "close"}
        )

    def _answer(
        self, status: HTTPStatus, body: bytes, kind: str, extra: Mapping[str, str] = _NO_HEADERS
    ) -> None:
        self.send_response(status)
        for name, value in extra.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: scrapes are frequent."""


class LocalHandler(Handler):
    """The handler for a Unix socket, which has no Nagle's algorithm to disable."""

    disable_nagle_algorithm = False


def _framing_error(headers: Message) -> str:
    """Return why a request has, or seems to have, a body; "" if it has none."""
    if headers.defects:
        return "malformed header"
    if headers.get_all("Transfer-Encoding"):
        return "requests must have no body: drop Transfer-Encoding"
    if any(length != "0" for length in headers.get_all("Content-Length", [])):
        return "requests must have no body: drop Content-Length"
    return ""


def _is_loopback(client_address: tuple[str, int] | str) -> bool:
    """Return whether the client's address is loopback. Remote clients may reach 127.0.0.1
    (net.ipv4.conf.*.route_localnet, which kube-proxy sets), but not from a loopback address.
    """
    address = ip_address(client_address[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
