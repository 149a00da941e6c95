# SPDX-License-Identifier: Apache-2.0
"""Endpoints and addresses over HTTP: a real server, queried directly and by the commands."""

import datetime
import http.client
import json
import math
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from podtally.api.query_service import QueryService
from podtally.api.schema import AddressOwner, EndpointRow, QuerySource
from podtally.export.agent_metrics import AgentMetrics
from podtally.export.publisher import Health, Publisher
from podtally.identity.local.directory import Directory
from podtally.ledger.metrics.view import View
from podtally.policy.load.policy_sources import DeclaredPolicies
from podtally.web.server import WebServer
from tests.podtally_command import podtally
from tests.unit.rows import make_ledger

NOON = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)


class Term(NamedTuple):
    """Who had an address, from an hour to an hour after noon."""

    address: str
    name: str
    from_: int
    until: int | None


class Register(QueryService):
    """Who has had which address."""

    def __init__(self, rows: list[EndpointRow], terms: list[Term]) -> None:
        super().__init__(Directory((), {}), lambda: DeclaredPolicies((), (), ()))
        self._rows = rows
        self._terms = terms

    def endpoints(self) -> list[EndpointRow]:
        return self._rows

    def resolve(self, address: str, at_wall: float | None) -> list[AddressOwner]:
        hour = None if at_wall is None else (at_wall - NOON.timestamp()) / 3600
        return [
            AddressOwner("pod", "shop", t.name, "web", "node", clock(t.from_), clock(t.until))
            for t in self._terms
            if t.address == address
            and (hour is None or t.from_ <= hour < (math.inf if t.until is None else t.until))
        ]


def clock(hour: int | None) -> str:
    return "" if hour is None else (NOON + datetime.timedelta(hours=hour)).isoformat()


ROWS = [
    EndpointRow(
        "veth9",
        9,
        "shop",
        "web-0",
        "web",
        "StatefulSet",
        "kubernetes",
        "2026-01-31T12:00:00Z",
        ["10.99.0.2", "2001:db8::2"],
        "2f6c1c1e",
        {"app": "web"},
    ),
    EndpointRow("veth10", 10, "unknown", "unknown", "unknown", "", "cgroup", "", waiting=True),
    EndpointRow("eth0", 2, "host", "node\x1b[31m 1", "node-1", "Node", "host", ""),
]
TERMS = [
    Term("10.99.0.2", "web-0", 2, None),
    Term("10.99.0.2", "job-a", 0, 1),
    Term("10.99.0.2", "job-b", 1, 2),
    Term("2001:db8::2", "web-0", 0, None),
]


class Served(NamedTuple):
    server: WebServer
    port: int

    def get(self, target: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", target)
            answer = connection.getresponse()
            assert answer.getheader("Content-Type") == "application/json"
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


def serve(answers: QuerySource | None, view: View | None = None) -> Served:
    server = WebServer(("127.0.0.1", 0))
    shown = make_ledger().view() if view is None else view
    server.start(Publisher(shown, AgentMetrics(), lambda: Health("", "")), answers)
    return Served(server, int(server.url.rpartition(":")[2].removesuffix("/metrics")))


@pytest.fixture
def served() -> Iterator[Served]:
    made = serve(Register(ROWS, TERMS))
    yield made
    made.server.close()


def ask(served: Served, *arguments: str) -> tuple[int, str, str]:
    return podtally(*arguments, "--listen", f"127.0.0.1:{served.port}")


def test_endpoints(served: Served) -> None:
    status, body = served.get("/api/v1/endpoints")
    assert status == 200
    assert [row["interface"] for row in body["endpoints"]] == ["veth9", "veth10", "eth0"]
    assert body["endpoints"][0] == {
        "interface": "veth9",
        "ifindex": 9,
        "namespace": "shop",
        "pod": "web-0",
        "workload": "web",
        "workload_kind": "StatefulSet",
        "source": "kubernetes",
        "since": "2026-01-31T12:00:00Z",
        "addresses": ["10.99.0.2", "2001:db8::2"],
        "uid": "2f6c1c1e",
        "labels": {"app": "web"},
        "waiting": False,
    }


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("address=10.99.0.2", ["web-0", "job-a", "job-b"]),
        ("address=::ffff:10.99.0.2", ["web-0", "job-a", "job-b"]),
        ("address=2001:0db8::0:2", ["web-0"]),
        ("address=10.99.0.2&at=2026-01-31T12:59:59.999Z", ["job-a"]),
        ("address=10.99.0.2&at=2026-01-31T14:00:00%2B01:00", ["job-b"]),
        ("address=10.99.0.2&at=2026-01-31T23:00:00Z", ["web-0"]),
        ("address=10.99.0.2&at=2026-01-31T11:59:59Z", []),
        ("address=10.99.0.3", []),
    ],
)
def test_resolve(served: Served, query: str, names: list[str]) -> None:
    status, body = served.get(f"/api/v1/resolve?{query}")
    assert status == 200
    assert [owner["name"] for owner in body["owners"]] == names
    assert all(owner.keys() >= {"kind", "scope", "from", "until"} for owner in body["owners"])


@pytest.mark.parametrize(
    ("target", "status", "words"),
    [
        ("resolve", 400, "invalid IP address ''"),
        ("resolve?address=web-0", 400, "invalid IP address 'web-0'"),
        ("resolve?address=fe80::1%25eth0", 400, "zone"),
        ("resolve?address=10.99.0.2&at=noon", 400, "invalid time 'noon'"),
        ("resolve?address=10.99.0.2&at=2026-02-30T00:00:00Z", 400, "invalid time"),
        ("resolve?address=10.99.0.2&at=20260131T000000Z", 400, "invalid time"),
        ("pods", 404, "/api/v1/pods"),
        ("explain", 400, "from and to"),
        ("explain?from=10.99.0.2&port=80", 400, "from and to"),
        ("explain?from=10.99.0.2&to=10.99.0.3", 400, "invalid port ''"),
        ("explain?from=10.99.0.2&to=10.99.0.3&port=80/ICMP", 400, "invalid port '80/ICMP'"),
        ("explain?from=10.99.0.2&to=10.99.0.3&port=0", 400, "invalid port 0"),
        ("explain?from=shop/web&to=10.99.0.3&port=80", 400, "'shop/web'"),
    ],
)
def test_what_cannot_be_answered(served: Served, target: str, status: int, words: str) -> None:
    got, body = served.get(f"/api/v1/{target}")
    assert got == status
    assert words in body["error"]
    assert body["fix"]


def test_the_table_of_endpoints(served: Served) -> None:
    code, out, err = ask(served, "endpoints")
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["INTERFACE", "NAMESPACE", "POD", "WORKLOAD", "KIND", "SOURCE", "SINCE", "ADDRESSES"],
        ["eth0", "host", "node?[31m?1", "node-1", "Node", "host", "-", "-"],
        ["veth10", "unknown", "unknown", "unknown", "-", "cgroup,waiting", "-", "-"],
        [
            *("veth9", "shop", "web-0", "web", "StatefulSet", "kubernetes"),
            *("2026-01-31T12:00:00Z", "10.99.0.2,2001:db8::2"),
        ],
    ]
    heads, first, *_ = out.splitlines()
    assert heads.index("POD") == first.index("node?")


def test_earlier_owners_are_listed_latest_first(served: Served) -> None:
    code, out, err = ask(served, "resolve", "10.99.0.2")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["KIND", "NAMESPACE", "NAME", "WORKLOAD", "SCOPE", "FROM", "UNTIL"]
    assert [(row[2], row[6]) for row in rows[1:]] == [
        ("web-0", "-"),
        ("job-b", "2026-01-31T14:00:00+00:00"),
        ("job-a", "2026-01-31T13:00:00+00:00"),
    ]


@pytest.mark.parametrize(
    ("at", "name"),
    [("2026-01-31T12:30:00Z", "job-a"), ("2026-01-31 14:30:00+01:00", "job-b"), ("1s", "web-0")],
)
def test_the_owner_at_a_time(served: Served, at: str, name: str) -> None:
    code, out, _ = ask(served, "resolve", "10.99.0.2", "--at", at)
    assert code == 0
    assert [line.split()[2] for line in out.splitlines()] == ["NAME", name]


def test_json(served: Served) -> None:
    code, out, _ = ask(served, "endpoints", "--output", "json")
    assert code == 0
    assert json.loads(out) == served.get("/api/v1/endpoints")[1]
    code, out, _ = ask(served, "resolve", "2001:db8::2", "--output", "json")
    assert code == 0
    assert json.loads(out) == served.get("/api/v1/resolve?address=2001:db8::2")[1]


def test_no_endpoints_and_no_owner(served: Served) -> None:
    assert ask(served, "resolve", "10.99.0.3") == (1, "", "no known owner of 10.99.0.3\n")
    code, out, err = ask(served, "resolve", "10.99.0.2", "--at", "2026-01-01T00:00:00Z")
    assert (code, out) == (1, "")
    assert "10.99.0.2 at 2026-01-01T" in err
    code, out, _ = ask(served, "resolve", "10.99.0.3", "--output", "json")
    assert (code, json.loads(out)["owners"]) == (1, [])
    empty = serve(Register([], []))
    assert ask(empty, "endpoints") == (1, "", "no endpoints\n")
    empty.server.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resolve", "web-0"], "invalid IP address 'web-0'; for example"),
        (["resolve", "10.0.0.7", "--at", "noon"], "--at: invalid time 'noon'; use "),
        (["resolve", "10.0.0.7", "--at", "2999-01-01T00:00:00Z"], "in the future; give the day"),
        (["endpoints", "--listen", "a..b:1"], "no podtally answers on a..b:1: "),
        (["endpoints", "--listen", "here"], "'here' is not ADDR:PORT"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], words: str) -> None:
    code, out, err = podtally(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [["endpoints"], ["resolve", "10.0.0.7"], ["explain", "shop/a", "shop/b", "80"], ["candidates"]],
)
def test_no_agent_is_reported(command: list[str]) -> None:
    with socket.socket() as unheard:  # bound, and not listening: nothing else can answer there
        unheard.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{unheard.getsockname()[1]}"
        code, out, err = podtally(*command, "--listen", where)
    assert (code, out) == (2, "")
    assert err.startswith(f"podtally: no podtally answers on {where}: Connection refused; ")
    assert "--listen" in err


class _Other(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>welcome</html>")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing reads it."""


@pytest.mark.parametrize("other", ["an older agent", "another server", "no server of HTTP"])
def test_another_server_is_not_an_agent(other: str) -> None:
    with socket.socket() as silent, HTTPServer(("127.0.0.1", 0), _Other) as server:
        if other == "an older agent":
            older = serve(None)
            port, end = older.port, older.server.close
        elif other == "another server":
            threading.Thread(target=server.serve_forever, daemon=True).start()
            port, end = server.server_port, server.shutdown
        else:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            threading.Thread(target=_say_nonsense, args=(silent,), daemon=True).start()
            port, end = silent.getsockname()[1], lambda: None
        code, out, err = podtally("endpoints", "--listen", f"127.0.0.1:{port}")
        end()
    assert (code, out) == (2, "")
    assert f"the server on 127.0.0.1:{port} has no /api/v1/endpoints: " in err
    assert err.count("\n") == 1


def _say_nonsense(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.recv(1024)
        connection.sendall(b"220 mail.example.org ESMTP\r\n\r\n")


def test_the_configuration_says_where_it_listens(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "podtally.yaml"
    file.write_text(f"listen: 0.0.0.0:{served.port}\n")
    assert podtally("resolve", "10.99.0.2", "--config", str(file))[0] == 0
