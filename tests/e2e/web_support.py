# SPDX-License-Identifier: Apache-2.0
"""A real Server behind a web configuration, its certificates, and clients good and bad."""

import base64
import http.client
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import bcrypt
import numpy as np

from podtally.export.agent_metrics import AgentMetrics
from podtally.export.publisher import Health, Publisher
from podtally.ledger.metrics import families
from podtally.ledger.metrics.view import View
from podtally.ledger.series.label_sets import PodLabels
from podtally.ledger.series.series import SeriesView
from podtally.web.server import WebServer
from tests.apiserver.certificates import Authority, Pair

USER, PASSWORD = "prometheus", "correct horse"
COST = 8  # quick, and yet to be felt
CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"  # its beginning
NAMES = "IP:127.0.0.1,DNS:localhost"
PODS = SeriesView([PodLabels("shop", "web-0", "egress")], np.array([[1541, 23]]))
VIEW = View({families.PODS.name: PODS})


def users(password: str = PASSWORD, cost: int = COST) -> str:
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()
    return f"basic_auth_users: {{{USER}: {hashed}}}\n"


def tls(pair: Pair, **more: str) -> str:
    lines = {"cert_file": str(pair.certificate), "key_file": str(pair.key)} | more
    result = "".join(f"  {name}: {value}\n" for name, value in lines.items())
    return "tls_server_config:\n" + result


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: str


@dataclass
class Client:
    """Trusts one CA; asks with a password, or without."""

    port: int
    authority: Authority | None = None  # None: without TLS
    own: Pair | None = None
    context: ssl.SSLContext | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.authority is not None:
            self.context = ssl.create_default_context(cafile=self.authority.own.certificate)
            if self.own is not None:
                self.context.load_cert_chain(self.own.certificate, self.own.key)

    def connection(self) -> http.client.HTTPConnection:
        if self.context is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=self.context)

    def get(self, path: str, password: str | None = PASSWORD) -> Answer:
        """Raises OSError where no connection comes about."""
        connection = self.connection()
        try:
            return ask(connection, path, password)
        finally:
            connection.close()

    def shown(self) -> bytes:
        """The server's certificate, in DER."""
        assert self.context is not None
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=60) as plain,
            self.context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
        ):
            return secured.getpeercert(binary_form=True) or b""


def ask(connection: http.client.HTTPConnection, path: str, password: str | None) -> Answer:
    headers = {}
    if password is not None:
        result = base64.b64encode(f"{USER}:{password}".encode()).decode()
        headers["Authorization"] = f"Basic {result}"
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    return Answer(response.status, dict(response.getheaders()), response.read().decode())


@contextmanager
def served(web_config: Path | None, port: int = 0) -> Iterator[int]:
    """Serve one pod's bytes; yield the port."""
    server = WebServer(("127.0.0.1", port), web_config)
    try:
        server.start(Publisher(VIEW, AgentMetrics(), lambda: Health("", "")))
        yield int(server.url.rpartition(":")[2].removesuffix("/metrics"))
    finally:
        server.close()


@contextmanager
def idlers(port: int, count: int, words: bytes = b"") -> Iterator[list[socket.socket]]:
    """Clients that connect, say ``words``, and then nothing."""
    made: list[socket.socket] = []
    try:
        for _ in range(count):
            made.append(socket.create_connection(("127.0.0.1", port), timeout=60))
            made[-1].sendall(words)
        yield made
    finally:
        for each in made:
            each.close()
