# SPDX-License-Identifier: Apache-2.0
"""Answers one client's HTTP requests: GET and HEAD, without a body."""

from collections.abc import Mapping
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from typing import Protocol

from podtally.api.schema import (
    CANDIDATES,
    ENDPOINTS,
    EXPLAIN,
    PREFIX,
    RESOLVE,
    ApiRouter,
    ErrorReply,
    reply_json,
)
from podtally.export.publisher import Publisher
from podtally.web.connection_limit import ConnectionLimit
from podtally.web.reload import WebConfigWatch

CLIENT_TIMEOUT_SECONDS = 10.0  # with a client's handshake, and with its request

_INDEX = (
    f"podtally\n\n/metrics\n/livez\n/readyz\n{ENDPOINTS}\n{RESOLVE}?address=\n"
    f"{EXPLAIN}?from=&to=&port=\n{CANDIDATES}\n"
).encode()
_LIVEZ, _READYZ = _HEALTH = ("/livez", "/readyz")
_NO_HEADERS: Mapping[str, str] = {}
_REMOTE = ErrorReply(
    "the API is served to this host only, unless clients authenticate",
    "ask on the node, or set web_config_file with users or client certificates (docs/web.md)",
)


class ServerState(Protocol):
    """What a listener serves, and to whom."""

    publisher: Publisher
    api: ApiRouter | None
    web: WebConfigWatch
    clients: ConnectionLimit
    local: bool  # a Unix socket: the file's mode says who may connect


class Handler(BaseHTTPRequestHandler):
    """One connection; ``server`` is a ``Site``."""

    timeout = CLIENT_TIMEOUT_SECONDS
    disable_nagle_algorithm = True  # else what is last waits 40 ms for the client's delayed ACK
    protocol_version = "HTTP/1.1"
    server_version = "podtally"
    sys_version = ""

    @property
    def _site(self) -> ServerState:
        site: ServerState = self.server  # type: ignore[assignment]
        return site

    def parse_request(self) -> bool:
        """Refuse what a proxy might read as another number of requests (RFC 9112, 11.2): no
        request here has a body, and one that is refused ends the connection.
        """
        if not super().parse_request():
            return False
        wrong = _framing_error(self.headers)
        if wrong:
            self._refuse(HTTPStatus.BAD_REQUEST, wrong)
        return not wrong

    def do_GET(self) -> None:
        site = self._site
        site.clients.heard(self.connection)
        path, _, query = self.path.partition("?")
        if path in _HEALTH:  # the kubelet has no password
            health = site.publisher.health()
            self._report(health.alive or (health.ready if path == _READYZ else ""))
        elif self._may_enter():
            self._reply(path, query)
        site.clients.heard(self.connection)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _not_allowed(self) -> None:
        self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, "use GET or HEAD", {"Allow": "GET, HEAD"})

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _not_allowed

    def end_headers(self) -> None:
        for name, value in self._site.web.now().headers.items():
            self.send_header(name, value)
        super().end_headers()

    def _may_enter(self) -> bool:
        status = self._site.web.now().judge(self.headers.get("Authorization", ""))
        if status == HTTPStatus.OK:
            return True
        extra = {"WWW-Authenticate": 'Basic realm="podtally", charset="UTF-8"'}
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            extra = {"Retry-After": "1"}
        self._answer(status, f"{status.phrase.lower()}\n".encode(), "text/plain", extra)
        return False

    def _may_ask_api(self) -> bool:
        """Endpoints and policies are for this host, and for clients known by name."""
        site = self._site
        return site.local or site.web.now().authenticates or _is_loopback(self.client_address)

    def _reply(self, path: str, query: str) -> None:
        api = self._site.api
        if path == "/metrics":
            body, kind = self._site.publisher.render(self.headers.get("Accept", ""))
            self._answer(HTTPStatus.OK, body, kind)
        elif path.startswith(PREFIX) and api is not None:
            allowed = self._may_ask_api()
            status, body = (
                api.reply(path, query) if allowed else reply_json(HTTPStatus.FORBIDDEN, _REMOTE)
            )
            self._answer(status, body, "application/json")
        elif path == "/":
            self._answer(HTTPStatus.OK, _INDEX, "text/plain")
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"not found\n", "text/plain")

    def _report(self, trouble: str) -> None:
        status = HTTPStatus.SERVICE_UNAVAILABLE if trouble else HTTPStatus.OK
        self._answer(status, f"{trouble or 'ok'}\n".encode(), "text/plain")

    def _refuse(
        self, status: HTTPStatus, words: str, extra: Mapping[str, str] = _NO_HEADERS
    ) -> None:
        """Answer, and end the connection: what follows on it may be the request's body."""
        self.close_connection = True
        self._answer(status, f"{words}\n".encode(), "text/plain", {**extra, "Connection": "close"})

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
        """A scrape is no news."""


class LocalHandler(Handler):
    """The same on a Unix socket, which has no Nagle's algorithm to disable."""

    disable_nagle_algorithm = False


def _framing_error(headers: Message) -> str:
    """Return why a request may have a body, or may be read as having one; "" if it has none."""
    if headers.defects:
        return "malformed header"
    if headers.get_all("Transfer-Encoding"):
        return "a request has no body here: drop Transfer-Encoding"
    if any(length != "0" for length in headers.get_all("Content-Length", [])):
        return "a request has no body here: drop Content-Length"
    return ""


def _is_loopback(client_address: tuple[str, int] | str) -> bool:
    """Whether the client's own address is one: where routes let outsiders reach 127.0.0.1
    (net.ipv4.conf.*.route_localnet, which kube-proxy sets), theirs is not.
    """
    return ip_address(client_address[0]).is_loopback
