# SPDX-License-Identifier: Apache-2.0
"""The HTTP side: what is answered where, and a port that is taken."""

import http.client
import socket
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from podtally.errors import PodtallyError
from podtally.export.agent_metrics import AgentMetrics
from podtally.export.publisher import Health, Publisher
from podtally.ledger.metrics import families
from podtally.ledger.metrics.view import View
from podtally.ledger.series.label_sets import PodLabels
from podtally.ledger.series.series import SeriesView
from podtally.web import client
from podtally.web.server import WebServer

PODS = SeriesView([PodLabels("shop", "web-0", "egress")], np.array([[1541, 23]]))
VIEW = View({families.PODS.name: PODS})


class Served:
    def __init__(self) -> None:
        self.health = Health("", "")
        self.server = WebServer(("127.0.0.1", 0))
        self.server.start(Publisher(VIEW, AgentMetrics(), lambda: self.health))
        self.port = int(self.server.url.rpartition(":")[2].removesuffix("/metrics"))

    def get(self, path: str, **headers: str) -> tuple[int, str, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.getheader("Content-Type", ""), answer.read().decode()
        finally:
            connection.close()


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.server.close()


def test_until_the_agent_counts_every_answer_says_what_the_start_is_at() -> None:
    server = WebServer(("127.0.0.1", 0))
    prepared: list[str] = []
    server.listen("loading", lambda: prepared.append(threading.current_thread().name))
    port = int(server.url.rpartition(":")[2].removesuffix("/metrics"))
    try:
        assert prepared == ["http"]
        for path in ("/livez", "/readyz", "/metrics", "/api/v1/endpoints"):
            assert client.get_plain("127.0.0.1", port, path) == (503, b"starting: loading\n")
        server.starting("attaching")
        assert client.get_plain("127.0.0.1", port, "/livez") == (503, b"starting: attaching\n")
        server.start(Publisher(VIEW, AgentMetrics(), lambda: Health("", "")))
        assert client.get_plain("127.0.0.1", port, "/livez") == (200, b"ok\n")
    finally:
        server.close()


def test_metrics(served: Served) -> None:
    status, kind, body = served.get("/metrics?name=all")
    assert (status, kind.split(";")[0]) == (200, "text/plain")
    assert (
        'podtally_pod_packets_total{namespace="shop",pod="web-0",direction="egress"} 23\n' in body
    )
    assert "podtally_build_info{" in body
    assert "# EOF" not in body


def test_openmetrics_is_served_on_request(served: Served) -> None:
    status, kind, body = served.get(
        "/metrics", Accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
    )
    assert (status, kind.split(";")[0]) == (200, "application/openmetrics-text")
    assert body.endswith("# EOF\n")


@pytest.mark.parametrize(
    ("health", "live", "ready"),
    [
        (Health("", ""), (200, "ok\n"), (200, "ok\n")),
        (Health("", "no epoch is booked yet"), (200, "ok\n"), (503, "no epoch is booked yet\n")),
        (
            Health("no epoch for 31 s", ""),
            (503, "no epoch for 31 s\n"),
            (503, "no epoch for 31 s\n"),
        ),
    ],
)
def test_health(
    served: Served, health: Health, live: tuple[int, str], ready: tuple[int, str]
) -> None:
    served.health = health
    assert served.get("/livez")[::2] == live
    assert served.get("/readyz")[::2] == ready


@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/metrics/", 404), ("/../etc", 404)])
def test_other_paths(served: Served, path: str, status: int) -> None:
    assert served.get(path)[0] == status


def test_a_connection_can_be_used_again(served: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    for _ in range(3):
        connection.request("GET", "/livez")
        assert connection.getresponse().read() == b"ok\n"
    connection.close()


def test_a_silent_client_does_not_block_others(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=60):
        assert served.get("/livez")[0] == 200


def test_a_port_in_use_is_reported(served: Served) -> None:
    with pytest.raises(
        PodtallyError, match=rf"cannot listen on 127.0.0.1:{served.port}: .*--listen"
    ):
        WebServer(("127.0.0.1", served.port))


def test_ipv6() -> None:
    try:
        server = WebServer(("::1", 0))
    except PodtallyError as error:
        pytest.skip(f"no IPv6 here (CONFIG_IPV6): {error}")
    assert server.url.startswith("http://[::1]:")
    server.close()
