# SPDX-License-Identifier: Apache-2.0
"""``kubectl podtally`` on the test API: real servers behind forwarded ports and real commands."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from podtally.export.agent_metrics import AgentMetrics
from podtally.export.publisher import Health, Publisher
from podtally.ledger.metrics import families
from podtally.ledger.metrics.outcome_families import OUTCOMES
from podtally.ledger.metrics.view import View
from podtally.ledger.series.label_sets import BookLabels, FlowLabels, OutcomeLabels
from podtally.ledger.series.series import SeriesView
from podtally.plugin import cli
from podtally.web.server import WebServer
from tests.apiserver.certificates import Authority
from tests.apiserver.server import ApiServer, Fault
from tests.plugin_support import agent_pod, kubeconfig_of
from tests.unit.api.test_api import Register, Term
from tests.unit.kubeconfig_files import write_config
from tests.unit.web.test_handler import port_of
from tests.unit.web_support import hashed, secure, written

CLIENT = FlowLabels(
    "shop", "web", "Deployment", "egress", "pod", "data", "db", "cluster", "tcp", "3306", "allowed"
)
SERVER = FlowLabels(
    "data", "db", "StatefulSet", "egress", "pod", "shop", "web", "cluster", "tcp", "3306", "allowed"
)
USER, PASSWORD = "oncall", "three in the morning"


def view(labels: FlowLabels, *counts: int, gap: int = 0) -> View:
    """``counts``: bytes sent and received, connections begun and accepted."""
    sent, received, begun, accepted = counts
    rows = np.array([[sent, 9, begun], [received, 9, accepted]], np.int64)
    page = BookLabels("veth1", "egress")
    return View({
        "flows": SeriesView((labels, labels._replace(direction="ingress")), rows),
        OUTCOMES.name: SeriesView(
            (OutcomeLabels(*labels, "refused"), OutcomeLabels(*labels, "established")),
            np.array([[1], [22]], np.int64),
        ),
        families.BOOKS.name: SeriesView((page,), np.array([[sent, 0, 0]], np.int64)),
        families.GAPS.name: SeriesView((page,), np.array([[gap]], np.int64)),
    })  # fmt: skip


class Agents:
    """Web servers, closed by the fixture."""

    def __init__(self) -> None:
        self.servers: list[WebServer] = []

    def start(self, shown: View, ready: str = "", web: Path | None = None) -> int:
        server = WebServer(("127.0.0.1", 0), web)
        known = Register([], [Term("10.0.0.7", "web-1", 0, None)])
        server.start(Publisher(shown, AgentMetrics(), lambda: Health("", ready)), known)
        self.servers.append(server)
        return port_of(server)


@pytest.fixture
def agents() -> Iterator[Agents]:
    made = Agents()
    yield made
    for server in made.servers:
        server.close()


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


@pytest.fixture
def two(api: ApiServer, agents: Agents) -> ApiServer:
    agent_pod(api, "n1", agents.start(view(CLIENT, 1000, 4000, 23, 0)))
    agent_pod(api, "n2", agents.start(view(SERVER, 4000, 1000, 0, 23)))
    return api


def run(api: ApiServer, folder: Path, *words: str) -> int:
    return cli.main([words[0], "--kubeconfig", str(kubeconfig_of(api, folder)), *words[1:]])


def test_a_connection_between_two_nodes_is_shown_once(
    two: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(two, tmp_path, "top", "--once") == 0
    told = capsys.readouterr()
    assert told.err == ""
    lines = [line.split() for line in told.out.splitlines()]
    assert lines[1] == [
        "shop/web",
        "->",
        "data/db",
        "3306/tcp",
        "cluster",
        "allowed",
        "23",
        "1000",
        "4000",
        "1",
    ]
    assert lines[2] == []
    assert "of 23 connections; the books close: 5,000 bytes" in told.out
    assert run(two, tmp_path, "top", "-o", "json", "--node", "n2") == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["workload"] for each in found["conversations"]] == ["db"]
    assert (found["nodes"], found["unreachable"]) == (["n2"], [])


def test_it_needs_no_right_but_to_list_pods_and_forward_ports(
    two: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two.pod_rights = {"portforward"}
    for words in (["top", "--once"], ["health"], ["resolve", "10.0.0.7"], ["endpoints"]):
        run(two, tmp_path, *words)
        assert capsys.readouterr().err in ("", "no endpoints\n")
    asked = {(each.resource, each.verb) for each in two.requests}
    assert asked == {("pods", "list"), ("portforward", "list")}
    two.pod_rights = set()
    assert run(two, tmp_path, "health") == 1
    assert "not permitted" in capsys.readouterr().out


def test_nodes_that_do_not_answer_are_listed(
    two: ApiServer, agents: Agents, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent_pod(two, "n3", None)
    agent_pod(two, "n5", None)
    item = two.store.objects("pods")["podtally", "podtally-n5"]  # type: ignore[index]
    two.put("pods", item | {"status": {"phase": "Pending"}})
    assert run(two, tmp_path, "top", "--once") == 1
    told = capsys.readouterr()
    assert "of 23 connections" in told.out
    assert [line.split(":")[1] for line in told.err.splitlines()] == [
        f" node {name} did not answer" for name in ("n3", "n5")
    ]
    assert "failed to connect" in told.err
    assert "its agent's pod is Pending" in told.err
    assert run(two, tmp_path, "top", "-o", "json") == 1
    found = json.loads(capsys.readouterr().out)
    assert [each["node"] for each in found["unreachable"]] == ["n3", "n5"]
    assert run(two, tmp_path, "top", "--once", "--node", "n3") == 2
    assert "none of 1 agents can be queried; n3: failed to connect" in capsys.readouterr().err
    agent_pod(two, "n4", 1).silent = True
    assert run(two, tmp_path, "top", "--once", "--node", "n4", "--timeout", "1") == 2
    assert "n4: it does not answer" in capsys.readouterr().err


def test_books_that_do_not_close_are_a_finding_with_the_node(
    two: ApiServer, agents: Agents, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent_pod(two, "n3", agents.start(view(CLIENT, 1, 1, 1, 0, gap=23)))
    assert run(two, tmp_path, "top", "-o", "json") == 1
    gaps = json.loads(capsys.readouterr().out)["books"]["gaps"]
    assert gaps == [{"node": "n3", "interface": "veth1", "direction": "egress", "bytes": 23}]
    assert run(two, tmp_path, "top", "--once") == 1
    assert "n3/veth1" in capsys.readouterr().out


def test_health_names_the_node_and_its_problem(
    two: ApiServer, agents: Agents, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(two, tmp_path, "health") == 0
    assert capsys.readouterr().out.split() == [
        "NODE",
        "STATE",
        "PROBLEM",
        "n1",
        "ok",
        "-",
        "n2",
        "ok",
        "-",
    ]
    agent_pod(two, "n3", agents.start(view(CLIENT, 0, 0, 0, 0), ready="the disk is full"))
    assert run(two, tmp_path, "health") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split(maxsplit=2) == ["n3", "unhealthy", "the disk is full"]
    assert run(two, tmp_path, "health", "--live") == 0


def test_resolve_asks_all_nodes(
    two: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(two, tmp_path, "resolve", "10.0.0.7") == 0
    head, row = (line.split() for line in capsys.readouterr().out.splitlines())
    assert (head[-1], row[2], row[-1]) == ("NODES", "web-1", "2")
    assert run(two, tmp_path, "resolve", "10.0.0.8") == 1


def test_an_agent_that_requires_tls_and_users_is_queried_by_a_command(
    api: ApiServer, agents: Agents, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authority = Authority(tmp_path / "ca")
    pair = authority.issue("agent", "IP:127.0.0.1")
    users = f"basic_auth_users: {{{USER}: {hashed(PASSWORD)}}}\n"
    web = written(tmp_path, secure(pair) + users)
    port = agents.start(view(CLIENT, 1000, 4000, 23, 0), web=web)
    own = {
        "PODTALLY_LISTEN": f"127.0.0.1:{port}", "PODTALLY_CA_FILE": str(authority.own.certificate),
        "PODTALLY_BASIC_AUTH": f"{USER}:{PASSWORD}",
    }  # fmt: skip
    agent_pod(api, "n1", port, **own)
    assert run(api, tmp_path, "top", "-o", "json", "--timeout", "60") == 0
    assert json.loads(capsys.readouterr().out)["totals"]["allowed"]["connections"] == 23
    assert run(api, tmp_path, "top", "--once", "--via", "port-forward") == 2
    api.pod_rights = {"portforward"}
    assert run(api, tmp_path, "top", "--once") == 2
    assert 'not permitted: pods "podtally-n1" is forbidden' in capsys.readouterr().err


def test_agents_are_found_in_another_namespace(
    api: ApiServer, agents: Agents, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent_pod(api, "n1", agents.start(view(CLIENT, 1, 1, 1, 0)), namespace="monitoring")
    assert run(api, tmp_path, "health") == 0
    assert run(api, tmp_path, "health", "--agent-namespace", "monitoring") == 0
    assert run(api, tmp_path, "health", "--agent-namespace", "elsewhere") == 2
    assert "no agents in namespace elsewhere" in capsys.readouterr().err
    assert run(api, tmp_path, "health", "--node", "n9") == 2
    assert "no agent on node n9; there are agents on: n1" in capsys.readouterr().err


def test_refusals_of_the_server_say_what_to_do(
    two: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two.faults.errors.append(Fault(403, "Forbidden", resource="pods", verb="list"))
    assert run(two, tmp_path, "health") == 2
    assert "refuses the list of the agents' pods" in capsys.readouterr().err
    two.faults.errors.append(Fault(401, "Unauthorized", resource="pods", verb="list"))
    assert run(two, tmp_path, "health") == 0, "it tries once more, with another credential"


def test_tls_and_a_token_as_a_kubeconfig_has_them(
    agents: Agents, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import ssl  # noqa: PLC0415

    authority = Authority(tmp_path / "ca")
    pair = authority.issue("api", "IP:127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    with ApiServer(tls=context, authorizations={"Bearer s3cret"}) as api:
        agent_pod(api, "n1", agents.start(view(CLIENT, 1, 1, 1, 0)))
        cluster = {"server": api.url, "certificate-authority": str(authority.own.certificate)}
        path = write_config(tmp_path, {"token": "s3cret"}, cluster)
        assert cli.main(["health", "--kubeconfig", str(path)]) == 0
        wrong = write_config(tmp_path, {"token": "wrong"}, cluster)
        assert cli.main(["health", "--kubeconfig", str(wrong)]) == 2


def test_kubeconfig_files_are_merged(
    two: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first file has the context, the second the cluster."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text(json.dumps({
        "current-context": "here", "contexts": [{"name": "here", "context": {"cluster": "lab"}}]
    }))  # fmt: skip
    second.write_text(json.dumps({
        "current-context": "other", "clusters": [{"name": "lab", "cluster": {"server": two.url}}]
    }))  # fmt: skip
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'missing'}:{first}:{second}")
    assert cli.main(["health"]) == 0
    assert cli.main(["health", "--context", "nowhere"]) == 2


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_has_an_example_and_the_exit_codes(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert f"kubectl podtally {command}" in told.partition("\nexample")[2]
    assert "Exit codes:" in told
    assert max(map(len, told.splitlines())) <= 100


def test_it_imports_neither_numpy_nor_the_agent() -> None:
    code = (
        "import sys, importlib\n"
        "from podtally.plugin import cli\n"
        "cli.build_parser(tuple(cli.COMMANDS))\n"
        "import websocket\n"
        "print(sorted({'numpy', 'pyroute2', 'psutil', 'bcc', 'prometheus_client', 'h2', 'bcrypt'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    assert done.stdout.strip() == "[]"
