# SPDX-License-Identifier: Apache-2.0
"""``kubectl podtally dns`` and ``resolve NAME``: two agents' answers behind forwarded ports."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from podtally.api.query_service import QueryService
from podtally.export.agent_metrics import AgentMetrics
from podtally.export.publisher import Health, Publisher
from podtally.ledger.metrics.view import View
from podtally.plugin import cli
from podtally.web.server import WebServer
from tests.apiserver.server import ApiServer
from tests.plugin_support import agent_pod, kubeconfig_of
from tests.unit.api.test_dns_views import NAME, answer, asked, host
from tests.unit.lookup_host import shop
from tests.unit.web.test_handler import port_of

Run = Callable[..., int]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def serve() -> Iterator[Callable[[QueryService], int]]:
    servers: list[WebServer] = []

    def start(answers: QueryService) -> int:
        servers.append(WebServer(("127.0.0.1", 0), None))
        metrics = AgentMetrics()
        publisher = Publisher(View({}), metrics, lambda: Health("", ""))
        servers[-1].start(publisher, answers)
        return port_of(servers[-1])

    yield start
    for each in servers:
        each.close()


@pytest.fixture
def two(serve: Callable[[QueryService], int], tmp_path: Path) -> Iterator[tuple[ApiServer, Run]]:
    """Nodes n1 and n2: web asked on both, and twice on n2 without an answer."""
    with ApiServer() as api:
        one = host(answer("203.0.113.1", 20), recent=(asked(20), asked(5, duration_ns=50_000_000)))
        other = host(
            answer("203.0.113.2", 10),
            recent=(asked(10), asked(9, rcode=-1), asked(1, rcode=-1, name="b.example")),
        )
        agent_pod(api, "n1", serve(one.answers))
        agent_pod(api, "n2", serve(other.answers))
        config = str(kubeconfig_of(api, tmp_path))
        yield api, lambda *words: cli.main([words[0], "--kubeconfig", config, *words[1:]])


def test_questions_are_summed_over_nodes(two: tuple[ApiServer, Run], capsys: Capture) -> None:
    _, run = two
    assert run("dns", "--once") == 0
    head, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head[:6] == ["NAMESPACE", "WORKLOAD", "NAME", "TYPE", "ANSWER", "QUERIES"]
    assert [row[:8] for row in rows] == [
        ["shop", "web", NAME, "A", "NOERROR", "3", "2.5ms", "50.0ms"],
        ["shop", "web", "b.example", "A", "unanswered", "1", "-", "-"],
        ["shop", "web", NAME, "A", "unanswered", "1", "-", "-"],
    ]
    assert run("dns", "--once", "--failed", "-n", "people") == 0
    assert "none of the last 5 DNS questions is selected" in capsys.readouterr().err


def test_json_has_each_question_with_its_node(two: tuple[ApiServer, Run], capsys: Capture) -> None:
    _, run = two
    assert run("dns", "-o", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["node"] for each in found["queries"]] == ["n2", "n1", "n2", "n2", "n1"]
    assert (found["remembered"], found["left_off"], found["unreachable"]) == (5, 0, [])
    assert run("dns", "-o", "json", "--limit", "2") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(each["node"], each["name"]) for each in found["queries"]] == [
        ("n2", "b.example"),
        ("n1", NAME),
    ]
    assert found["left_off"] == 3
    assert run("dns", "-o", "json", "--failed", "--node", "n2") == 0
    assert len(json.loads(capsys.readouterr().out)["queries"]) == 2


def test_nodes_without_an_answer_and_without_capture_are_listed(
    two: tuple[ApiServer, Run], serve: Callable[[QueryService], int], capsys: Capture
) -> None:
    api, run = two
    agent_pod(api, "n3", None)
    agent_pod(api, "n4", serve(shop().answers))  # its kernel has no ring buffers
    assert run("dns", "--once") == 1
    shown = capsys.readouterr()
    assert "NOERROR" in shown.out
    failed, without = shown.err.splitlines()
    assert "node n3 did not answer: failed to connect" in failed
    assert "node n4 did not answer: " in without
    assert "DNS is not captured" in without
    assert run("dns", "-o", "json") == 1
    found = json.loads(capsys.readouterr().out)
    assert [each["node"] for each in found["unreachable"]] == ["n3", "n4"]
    assert run("dns", "--once", "--node", "n4") == 2
    assert "none of 1 agents can be queried" in capsys.readouterr().err


def test_the_addresses_of_a_name(two: tuple[ApiServer, Run], capsys: Capture) -> None:
    _, run = two
    assert run("resolve", NAME) == 0
    head, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head[:4] == ["NODE", "NAMESPACE", "POD", "ADDRESS"]
    assert [(row[0], row[3]) for row in rows] == [("n2", "203.0.113.2"), ("n1", "203.0.113.1")]
    assert run("resolve", NAME, "-o", "json", "--at", "15s ago") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(each["node"], each["address"]) for each in found["answers"]] == [("n1", "203.0.113.1")]
    assert run("resolve", "nothing.example") == 1
    assert "no DNS answer for nothing.example is known" in capsys.readouterr().err
