# SPDX-License-Identifier: Apache-2.0
"""What the HTTP server refuses: bodies, other methods, and the API for those who are unknown."""

import http.client
import json
import os
import socket
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from podtally.api.dns_schema import DnsQueries, NameAnswers
from podtally.api.schema import (
    AddressOwner,
    AuditedPolicy,
    CandidateDeletion,
    CandidatePolicy,
    EndpointRow,
    Explanation,
    Flows,
)
from podtally.export.agent_metrics import AgentMetrics
from podtally.export.publisher import Health, Publisher
from podtally.web import client
from podtally.web.handler import _is_loopback
from podtally.web.server import WebServer
from tests.unit.web.test_server import VIEW
from tests.unit.web_support import hashed, header, written

ENDPOINTS = "/api/v1/endpoints"


class Nothing:
    """Answers of an agent that watches nothing."""

    def endpoints(self) -> list[EndpointRow]:
        return []

    def resolve(self, address: str, at_wall: float | None) -> list[AddressOwner]:
        return []

    def explain(self, source: str, destination: str, port: str) -> Explanation:
        raise NotImplementedError

    def candidates(self) -> list[CandidatePolicy]:
        return []

    def policies(self) -> list[AuditedPolicy]:
        return []

    def deletions(self) -> list[CandidateDeletion]:
        return []

    def stale_candidates(self) -> list[str]:
        return []

    def flows(self, words: Mapping[str, Sequence[str]]) -> Flows:
        raise NotImplementedError

    def dns(self, words: Mapping[str, Sequence[str]]) -> DnsQueries:
        raise NotImplementedError

    def names(self, words: Mapping[str, Sequence[str]]) -> NameAnswers:
        raise NotImplementedError


def serve(address: str, **settings: Path) -> WebServer:
    server = WebServer((address, 0), **settings)
    server.start(Publisher(VIEW, AgentMetrics(), lambda: Health("", "")), Nothing())
    return server


def port_of(server: WebServer) -> int:
    return int(server.url.rpartition(":")[2].removesuffix("/metrics"))


@pytest.fixture
def port() -> Iterator[int]:
    server = serve("127.0.0.1")
    yield port_of(server)
    server.close()


def everything(port: int, request: bytes) -> bytes:
    """All that the server sends until it closes the connection."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=60)) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


SMUGGLED = f"GET {ENDPOINTS} HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = f"{len(SMUGGLED):x}\r\n{SMUGGLED}\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (f"Content-Length: {len(SMUGGLED)}", SMUGGLED),
        (f"Content-Length: 0\r\nContent-Length: {len(SMUGGLED)}", SMUGGLED),
        (f"Content-Length : {len(SMUGGLED)}", SMUGGLED),
        (f"content-length:{len(SMUGGLED)}", SMUGGLED),
        ("Content-Length: +0", SMUGGLED),
        ("Transfer-Encoding: chunked", CHUNKED),
        ("Content-Length: 0\r\nTransfer-Encoding: chunked", CHUNKED),
        ("Transfer-Encoding:\x0bchunked", CHUNKED),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_body_is_never_read_as_a_second_request(
    port: int, method: str, headers: str, body: str
) -> None:
    request = f"{method} /metrics HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n{body}"
    answer = everything(port, request.encode())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close\r\n" in answer


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_other_methods_are_not_allowed(port: int, method: str) -> None:
    request = f"{method} /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n{SMUGGLED}"
    answer = everything(port, request.encode())
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"Allow: GET, HEAD\r\n" in answer
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/", ENDPOINTS, "/elsewhere"])
def test_head_has_the_status_and_headers_of_get(port: int, path: str) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", path)
        result = connection.getresponse()
        body = result.read()
        for _ in range(2):  # the connection goes on: no body was sent
            connection.request("HEAD", path)
            head = connection.getresponse()
            assert (head.status, head.read()) == (result.status, b"")
            assert head.getheader("Content-Type") == result.getheader("Content-Type")
            assert int(head.getheader("Content-Length", "-1")) == pytest.approx(len(body), abs=200)


def test_a_content_length_of_zero_is_no_body(port: int) -> None:
    request = b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    assert everything(port, request).endswith(b"ok\n")


def other_address() -> str:
    """An address of this host that is no loopback address; nothing is sent to find it."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect(("198.18.0.1", 9))
        except OSError:
            pytest.skip("this network namespace has no route, and so no other address")
        return str(probe.getsockname()[0])


def test_the_api_is_not_for_other_hosts() -> None:
    server = serve("0.0.0.0")
    try:
        for host, status in [("127.0.0.1", 200), (other_address(), 403)]:
            with closing(http.client.HTTPConnection(host, port_of(server), timeout=60)) as asked:
                for path, expected in [(ENDPOINTS, status), ("/metrics", 200), ("/livez", 200)]:
                    asked.request("GET", path)
                    answer = asked.getresponse()
                    assert (path, answer.status) == (path, expected)
                    body = answer.read()
                    if expected == 403:
                        assert "web_config_file" in json.loads(body)["fix"]
    finally:
        server.close()


def test_the_api_is_for_other_hosts_that_show_a_password(tmp_path: Path) -> None:
    web = written(tmp_path, f"basic_auth_users: {{laptop: {hashed('secret')}}}\n")
    server = serve("0.0.0.0", web_config_file=web)
    try:
        with closing(
            http.client.HTTPConnection(other_address(), port_of(server), timeout=60)
        ) as asked:
            for password, status in [("wrong", 401), ("secret", 200)]:
                result = {"Authorization": header("laptop", password)}
                asked.request("GET", ENDPOINTS, headers=result)
                answer = asked.getresponse()
                assert (answer.status, bool(answer.read())) == (status, True)
    finally:
        server.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "127.3.4.5", "::1"])
def test_clients_of_this_host(address: str) -> None:
    assert _is_loopback((address, 40000))


@pytest.mark.parametrize("address", ["10.0.0.7", "fe80::1", "::ffff:10.0.0.7"])
def test_clients_of_other_hosts(address: str) -> None:
    assert not _is_loopback((address, 40000))


def test_a_unix_socket_for_root_alone(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 100)  # longer than an address can be
    directory.mkdir()
    path = directory / "api.sock"
    for _ in range(2):
        server = serve("127.0.0.1", api_socket=path)
        try:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            result = client.get_local(path, ENDPOINTS)
            assert result == (200, b'{"endpoints":[]}\n')
        finally:
            server.close()
        assert not path.exists()
    assert client.get_local(path, ENDPOINTS) is None


def test_a_socket_that_an_agent_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with closing(socket.socket(socket.AF_UNIX)) as left:
        left.bind(os.fspath(path))
    assert client.get_local(path, ENDPOINTS) is None
    server = serve("127.0.0.1", api_socket=path)
    assert client.get_local(path, "/livez") == (200, b"ok\n")
    server.close()


@pytest.mark.parametrize("there", ["file", "directory", "missing"])
def test_where_no_socket_can_be_the_agent_serves_by_tcp(tmp_path: Path, there: str) -> None:
    path = tmp_path / there / "api.sock" if there == "missing" else tmp_path / "api.sock"
    if there == "file":
        path.write_text("mine")
    if there == "directory":
        path.mkdir()
    server = serve("127.0.0.1", api_socket=path)
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", port_of(server), timeout=60)) as asked:
            asked.request("GET", ENDPOINTS)
            assert asked.getresponse().status == 200
    finally:
        server.close()
    if there == "file":
        assert path.read_text() == "mine"
