# SPDX-License-Identifier: Apache-2.0
"""``podtally suggest`` on files: text, JSON, differences, written files, checks and errors."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from podtally.cli import main
from podtally.history.store import Store
from podtally.ledger.connections.connections import INITIATOR_ENDPOINT
from podtally.ledger.recording.history_rows import ACCOUNT_FLOWS, Batch, HistoryRows, RowLabels

NOW = 1_800_000_000.0
WEEK = 7 * 86400.0


def pod(namespace: str, name: str, address: str, **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "status": {"phase": "Running", "podIP": address},
    }


DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"namespace": "shop", "name": "frontend"},
    "spec": {"selector": {"matchLabels": {"app": "frontend", "part": "web"}}},
}
CLUSTER = [
    pod("shop", "frontend", "10.99.0.1", app="frontend"),
    pod("shop", "backend", "10.99.0.2", app="backend"),
    pod("shop", "stray", "10.99.0.3", app="stray"),
]
ROWS: list[dict[str, Any]] = [
    {
        "namespace": "shop",
        "workload": "frontend",
        "direction": "egress",
        "peer_kind": "pod",
        "peer_namespace": "shop",
        "peer_workload": "backend",
        "port": 3000,
        "first": NOW - WEEK,
        "last": NOW,
        "connections": 23,
        "bytes": 4096,
    },
    {
        "namespace": "shop",
        "workload": "stray",
        "direction": "egress",
        "peer_kind": "pod",
        "peer_namespace": "shop",
        "peer_workload": "backend",
        "port": 3000,
        "verdict": "denied",
        "first": NOW - WEEK,
        "last": NOW - WEEK,
    },
]
WIDE = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: wide, namespace: shop}
spec:
  podSelector: {matchLabels: {app: backend}}
  ingress:
  - from: [{podSelector: {}}]
  - from: [{ipBlock: {cidr: 203.0.113.0/24}}]
    ports: [{port: 22}]
"""
NARROW = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: narrow, namespace: shop}
spec:
  podSelector: {matchLabels: {app: backend}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: frontend}}}]
    ports: [{port: 3001}]
"""


class Files:
    """The files of a test, and the arguments that name them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = self.write("rows.json", json.dumps(ROWS))
        self.cluster = self.write("cluster.yaml", yaml.safe_dump_all(CLUSTER))

    def write(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def run(self, *arguments: str) -> int:
        return main(["suggest", "--from", self.rows, "--cluster", self.cluster, *arguments])


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_text_is_yaml_and_has_the_proof(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    assert files.run("shop/backend") == 0
    out = capsys.readouterr().out
    written = list(yaml.safe_load_all(out))
    assert [each["metadata"]["name"] for each in written] == ["backend-egress", "backend-ingress"]
    (rule,) = written[1]["spec"]["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": {"app": "frontend"}}}]
    assert "# proof (a): 0 of 1 observed flows would be denied; not among them: denied 1" in out
    assert "shop/stray to shop/backend, TCP 3000: 1 connection" in out


def test_json(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    assert files.run("-o", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["proof"]["holds"]
    assert found["proof"]["possible"]["after"] < found["proof"]["possible"]["before"]
    assert {each["name"] for each in found["policies"]} >= {"backend-ingress", "frontend-egress"}


def test_written_files_pass_podtally_check(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    assert files.run("--write", str(files.folder / "made")) == 0
    names = sorted(path.name for path in (files.folder / "made").iterdir())
    assert "shop-backend-ingress.yaml" in names
    said = capsys.readouterr().err
    assert f"--candidate {files.folder / 'made'}, and some seconds later podtally candid" in said
    checked = ["check", str(files.folder / "made"), "--cluster", files.cluster]
    assert main([*checked, "--ignore", "no-dns"]) == 0, capsys.readouterr().out


def test_a_deployments_own_selector_is_the_subjects(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = {"app": "frontend", "part": "web", "extra": "x"}
    named = [pod("shop", "frontend", "10.99.0.1", **labels), *CLUSTER[1:], DEPLOYMENT]
    files.cluster = files.write("deployments.yaml", yaml.safe_dump_all(named))
    assert files.run("shop/frontend", "--direction", "egress") == 0
    (written,) = yaml.safe_load_all(capsys.readouterr().out)
    assert written["spec"]["podSelector"] == DEPLOYMENT["spec"]["selector"]  # type: ignore[index]
    broken = {**DEPLOYMENT, "spec": {"selector": []}}
    files.cluster = files.write("broken.yaml", yaml.safe_dump_all([*CLUSTER, broken]))
    assert files.run("shop/frontend", "--direction", "egress") == 2
    assert "Deployment shop/frontend" in capsys.readouterr().err


def test_difference_by_rule(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    wide = files.write("wide.yaml", WIDE)
    assert files.run("shop/backend", "--policies", wide, "--diff") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "narrowed: shop/backend-ingress ingress[0] (declared: shop/wide ingress[0])" in lines
    assert "not exercised: shop/wide ingress[1]" in lines


def test_a_written_policy_that_would_deny_what_was_seen(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow, wide = files.write("narrow.yaml", NARROW), files.write("wide.yaml", WIDE)
    assert files.run("--check", narrow) == 1
    assert "shop/frontend to shop/backend, TCP 3000" in capsys.readouterr().out
    assert files.run("--check", wide) == 0


def test_files_of_several_nodes(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    """Each has the ends of its own pods."""
    ingress = {
        **ROWS[0],
        "workload": "backend",
        "direction": "ingress",
        "peer_workload": "frontend",
        "connections": 40,
    }
    other = files.write("other.json", json.dumps([ingress]))
    assert files.run("shop/backend", "--from", other) == 0
    assert "shop/frontend to shop/backend, TCP 3000: 40 connections" in capsys.readouterr().out


def test_the_history_of_a_file(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    now = int(time.time())
    store = Store(files.folder / "history.db")
    store.write(batch(now // 60 * 60))
    store.close()
    arguments = ["suggest", "shop/backend", "--cluster", files.cluster]
    assert main([*arguments, "--store", str(files.folder / "history.db")]) == 0
    out = capsys.readouterr().out
    assert "shop/frontend to shop/backend, TCP 3000: 3 connections" in out


def batch(minute: int) -> Batch:
    """A minute in which the frontend spoke to the backend."""
    labels = RowLabels(
        interface="veth1",
        account=ACCOUNT_FLOWS,
        namespace="shop",
        pod="frontend",
        workload="frontend",
        peer_kind="pod",
        peer_namespace="shop",
        peer_workload="backend",
        scope="node",
        verdict="undeclared",
    )
    rows = HistoryRows(
        minute=np.array([minute // 60]),
        label=np.zeros(1, np.int32),
        address=np.array([[0, 0x0200630AFFFF0000]], np.uint64),
        port=np.array([3000], np.int32),
        protocol=np.array([6], np.uint8),
        initiator=np.array([INITIATOR_ENDPOINT], np.uint8),
        connections=np.array([3]),
        bytes=np.array([[100, 200]]),
        packets=np.array([[1, 2]]),
        first_ns=np.array([minute * 10**9]),
        last_ns=np.array([(minute + 50) * 10**9]),
    )
    return Batch("test", 1, [labels], rows)


def test_the_window_ends_with_the_last_conversation(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    assert files.run("--since", "1d") == 0
    assert "stray" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("other/workload",), "unknown workload 'other/workload'"),
        (("--since", "soon"), "--since: invalid age 'soon'"),
        (("--network", "bank"), "--network: 'bank' is not NAME=CIDR"),
        (("--write", "/proc/none"), "/proc/none"),
    ],
)
def test_errors_name_the_fix(
    files: Files, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert files.run(*arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{}]", "missing required field"),
        ("nonsense", "JSON"),
        (json.dumps([{**ROWS[0], "verdict": "maybe"}]), "verdict is 'maybe'"),
        (json.dumps([{**ROWS[0], "port": 70000}]), "port 70000"),
        ("[]", "no conversations in the window"),
    ],
)
def test_unreadable_rows(
    files: Files, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files.rows = files.write("rows.json", text)
    assert files.run() == 2
    assert message in capsys.readouterr().err


def test_rows_on_lines_and_in_an_object(files: Files) -> None:
    files.rows = files.write("lines.json", "\n".join(map(json.dumps, ROWS)))
    assert files.run() == 0
    files.rows = files.write("object.json", json.dumps({"conversations": ROWS}))
    assert files.run() == 0


def test_an_answer_of_podtally_flows(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "namespace": "shop",
        "pod": "frontend",
        "workload": "frontend",
        "initiator": "endpoint",
        "peer_kind": "pod",
        "peer_namespace": "shop",
        "peer_workload": "backend",
        "peer_domain": "",
        "address": "10.99.0.2",
        "protocol": "tcp",
        "port": "3000",
        "scope": "cluster",
        "verdict": "undeclared",
        "policy": "",
        "cause": "",
        "outcome": "closed",
        "connections": 12,
        "bytes": {"egress": 1000, "ingress": 2000},
        "packets": {"egress": 10, "ingress": 20},
        "first": "2026-11-23T10:00:00Z",
        "last": "2026-11-30T10:00:00Z",
    }
    other = {**row, "initiator": "unknown", "port": "unknown"}
    reply = {
        "since": "2026-11-23T00:00:00Z",
        "until": "2026-11-30T12:00:00Z",
        "rows": [row, other],
        "groups": 2,
    }
    files.rows = files.write("rows.json", json.dumps(reply))
    assert files.run("shop/backend") == 0
    out = capsys.readouterr().out
    assert "Window: 2026-11-23 12:00 to 2026-11-30 12:00" in out
    assert "shop/frontend to shop/backend, TCP 3000: 12 connections, 2.9 KiB" in out
