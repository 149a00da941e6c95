# SPDX-License-Identifier: Apache-2.0
"""``podtally check`` and ``podtally explain`` as they are called: output and exit codes."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from podtally import cli
from podtally.policy.lint.findings import CHECKS

FRONTEND = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-frontend, namespace: shop}
spec:
  podSelector: {matchLabels: {app: frontend}}
  ingress:
  - from: [{podSelector: {matchLabels: {role: user}}}]
"""
OUT = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out, namespace: shop}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress:
  - to: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.10/32]}}]
    ports: [{protocol: TCP, port: 3306}]
"""
CLUSTER = """\
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: shop}}
- {apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 10.99.9.1}]}}
- apiVersion: v1
  kind: Pod
  metadata:
    name: frontend-6d4b-x2x7k
    namespace: shop
    labels: {app: frontend, pod-template-hash: 6d4b}
    ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: frontend-6d4b, uid: u1, controller: true}]
  spec: {nodeName: n1, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
  status: {phase: Running, podIPs: [{ip: 10.99.0.1}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: user, namespace: shop, labels: {role: user}}
  status: {podIP: 10.99.0.2}
- apiVersion: v1
  kind: Pod
  metadata: {name: stray, namespace: shop}
  status: {podIP: 10.99.0.3}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "frontend.yaml").write_text(FRONTEND)
    (tmp_path / "policies" / "out.yaml").write_text(OUT)
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    return tmp_path


def case_file(expect: str) -> str:
    pods = [{"namespace": "shop", "name": n, "labels": {"role": n}, "ips": [ip]}
            for n, ip in (("user", "10.99.0.2"), ("stray", "10.99.0.3"))]  # fmt: skip
    ends = {"from": {"pod": "shop/user"}, "to": {"ip": "203.0.113.9"}}
    probes = [{**ends, "protocol": "TCP", "port": port, "expect": expect} for port in (3306, 80)]
    case = {"id": "shop", "namespaces": [{"name": "shop"}], "pods": pods, "probes": probes}
    return json.dumps({"format": 1, "cases": [case]})


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = cli.main([str(argument) for argument in arguments])
    result = capsys.readouterr()
    return status, result.out, result.err


def test_good_policies_are_fine(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "check", folder / "policies")
    assert (status, out, err) == (0, "files: 2, policies: 2, errors: 0, warnings: 0\n", "")


def test_schema_errors_have_file_line_and_field(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = folder / "policies" / "bad.yaml"
    bad.write_text(OUT.replace("203.0.113.10/32", "203.0.114.10/32").replace("TCP", "ICMP"))
    status, out, _ = run(capsys, "check", bad)
    lines = out.splitlines()
    assert status == 1
    assert lines[0].startswith(
        f"error: {bad}:8: NetworkPolicy shop/out: spec.egress[0].to[0].ipBlock.except[0]: "
    )
    assert lines[1].startswith(
        f"error: {bad}:9: NetworkPolicy shop/out: spec.egress[0].ports[0].protocol"
    )
    assert lines[1].endswith("[no-ports]")
    assert lines[2:] == ["files: 1, policies: 1, errors: 2, warnings: 0"]


def test_findings_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(
        capsys, "check", folder / "policies", "--cluster", folder / "cluster.yaml",
        "--output", "json",
    )  # fmt: skip
    assert status == 1
    assert json.loads(out)["findings"] == [
        {
            "file": "",
            "line": 0,
            "object": "Namespace shop",
            "field": "",
            "check": "unisolated",
            "severity": "warning",
            "message": "2 of 3 pods not isolated in ingress: stray and user",
        }
    ]


def test_a_check_can_be_ignored(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = ("check", folder / "policies", "--cluster", folder / "cluster.yaml")
    assert run(capsys, *paths)[0] == 1
    assert run(capsys, *paths, "--ignore", "unisolated")[0] == 0


def test_stdin_is_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stdin = io.TextIOWrapper(io.BytesIO((FRONTEND + "---\n" + OUT).encode()))
    monkeypatch.setattr("sys.stdin", stdin)
    status, out, _ = run(capsys, "check", "-")
    assert (status, out) == (0, "files: 1, policies: 2, errors: 0, warnings: 0\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check"], "no policies given"),
        (["check", "nowhere.yaml"], "nowhere.yaml: No such file"),
        (["check", "."], "no .json, .yaml, .yml in the directory"),
        (["check", "--probes", "nowhere.json"], "nowhere.json: No such file"),
        (["check", "--probes", "x", "--cluster", "y"], "cannot be combined"),
    ],
)
def test_wrong_use(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert words in err


@pytest.mark.parametrize("text", ["", "\n# nothing yet\n", "---\n---\n", "{}", "null"])
def test_empty_input_is_an_error(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text(text)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    for path in ("-", tmp_path / "a.yaml", tmp_path):
        status, out, err = run(capsys, "check", path)
        assert (status, out) == (2, "")
        assert "empty, no objects to check" in err
    (tmp_path / "b.yaml").write_text("apiVersion: v1\nkind: List\nitems: []\n")
    assert run(capsys, "check", tmp_path)[0] == 0  # a cluster without policies


def test_text_that_is_not_yaml_ends_with_2(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "policies" / "zz.yaml").write_text("a: [1\n")
    status, out, _ = run(capsys, "check", folder / "policies")
    assert status == 2
    assert f"{folder}/policies/zz.yaml:" in out


def test_probes_as_expected_and_not(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tests = folder / "tests.json"
    tests.write_text(case_file("allow"))
    status, out, err = run(capsys, "check", "--probes", tests, folder / "policies")
    head, first, second, last = out.splitlines()
    assert (status, err) == (1, "")
    assert head.split()[:4] == ["RESULT", "CASE", "PROBE", "FROM"]
    assert first.split()[:10] == [
        "DIFFERS", "shop", "1", "shop/user", "203.0.113.9", "80/TCP", "allow", "denied",
        "undeclared", "denied",
    ]  # fmt: skip
    assert first.endswith("nearest shop/out egress[0]: port 80 is not 3306")
    assert second.split()[:3] == ["ok", "shop", "0"]
    assert head.index("REASON") == second.index("shop/out egress[0]")
    assert last == "cases: 1, probes: 2, probes that differ: 1, in cases: 1"


def test_probes_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tests = folder / "tests.json"
    tests.write_text(case_file("allow"))
    arguments = ("check", "--probes", tests, folder / "policies" / "out.yaml", "--output", "json")
    status, out, _ = run(capsys, *arguments)
    result = json.loads(out)["probes"]
    assert status == 1
    assert result[0] == {
        "case": "shop",
        "probe": 0,
        "verdict": "allowed",
        "ingress": "undeclared",
        "egress": "allowed",
        "reason": "shop/out egress[0]",
        "expect": "allow",
        "ok": True,
        "strict": "allowed",
    }
    assert (result[1]["verdict"], result[1]["ok"]) == ("denied", False)
    tests.write_text(case_file("allow"))
    status, out, _ = run(capsys, "check", "--probes", tests, "--output", "json")
    assert status == 0
    assert [row["verdict"] for row in json.loads(out)["probes"]] == ["undeclared", "undeclared"]


def test_an_unreadable_policy_is_reported_and_makes_verdicts_unknown(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tests = folder / "tests.json"
    tests.write_text(case_file("allow"))
    (folder / "bad.yaml").write_text(OUT.replace("Egress", "Egres"))
    arguments = ("check", "--probes", tests, folder / "bad.yaml", "--output", "json")
    status, out, err = run(capsys, *arguments)
    assert status == 1
    assert {row["verdict"] for row in json.loads(out)["probes"]} == {"unknown"}
    assert err.startswith(
        f"podtally: {folder}/bad.yaml:6: NetworkPolicy shop/out: spec.policyTypes"
    )


def test_an_unreadable_policy_is_a_finding_though_no_probe_differs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tests = folder / "tests.json"
    tests.write_text(case_file("allow"))
    (folder / "bad.yaml").write_text(OUT.replace("Egress", "Egres").replace("shop", "other"))
    status, out, _ = run(
        capsys, "check", "--probes", tests, folder / "bad.yaml", "--output", "json"
    )
    assert all(row["ok"] for row in json.loads(out)["probes"])
    assert status == 1


def test_a_workload_is_its_first_pod_that_is_not_over(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, mark, rest = CLUSTER.partition("- apiVersion: v1\n  kind: Pod\n")
    pod = mark + rest.partition(mark)[0]
    old = pod.replace("x2x7k", "aaaaa").replace("Running", "Failed")
    later = pod.replace("x2x7k", "zzzzz")
    (folder / "cluster.yaml").write_text(head + old + later + mark + rest)
    asked = ("--policies", folder / "policies", "--cluster", folder / "cluster.yaml")
    _, out, _ = run(capsys, "explain", "shop/user", "shop/frontend", 80, *asked)
    assert "to shop/frontend-6d4b-x2x7k (10.99.0.1)" in out.splitlines()[0]


def test_the_examples_of_the_documentation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[3] / "docs" / "policy.md").read_text()
    blocks = [part.partition("```")[0] for part in text.split("```yaml\n")[1:]]
    host, names, tests = (tmp_path / f"{name}.yaml" for name in ("host", "names", "tests"))
    for file, block in zip((host, names, tests), blocks, strict=True):
        file.write_text(block)
    assert run(capsys, "check", host, names)[0] == 0
    status, out, _ = run(capsys, "check", "--probes", tests)
    assert out.splitlines()[-1] == "cases: 1, probes: 8, probes that differ: 0, in cases: 0"
    assert status == 0


def test_every_check_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[3] / "docs" / "policy.md").read_text()
    assert all(f"| `{check}` |" in text for check in CHECKS)


def test_explain_shows_each_step(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--policies", folder / "policies", "--cluster", folder / "cluster.yaml")
    status, out, _ = run(capsys, "explain", "shop/stray", "shop/frontend", 8080, *asked)
    assert status == 1
    assert (
        out
        == """\
shop/stray (10.99.0.3) to shop/frontend-6d4b-x2x7k (10.99.0.1), TCP 8080

egress of shop/stray (10.99.0.3)
  network policies
    shop/out                        selects the source and isolates it
    shop/out egress[0]              does not match: 10.99.0.1 is not in 203.0.113.0/24 and port 8080 is not 3306
  denied: denied by default: shop/out selects it and no egress rule allows this; nearest shop/out egress[0]: 10.99.0.1 is not in 203.0.113.0/24 and port 8080 is not 3306

ingress of shop/frontend-6d4b-x2x7k (10.99.0.1)
  network policies
    shop/allow-frontend             selects the destination and isolates it
    shop/allow-frontend ingress[0]  does not match: shop/stray lacks role=user
  denied: denied by default: shop/allow-frontend selects it and no ingress rule allows this; nearest shop/allow-frontend ingress[0]: shop/stray lacks role=user

denied: denied by default: shop/out selects it and no egress rule allows this; nearest shop/out egress[0]: 10.99.0.1 is not in 203.0.113.0/24 and port 8080 is not 3306; denied by default: shop/allow-frontend selects it and no ingress rule allows this; nearest shop/allow-frontend ingress[0]: shop/stray lacks role=user
"""
    )


@pytest.mark.parametrize(
    ("ends", "status", "verdict"),
    [
        (("shop/user", "203.0.113.9", "3306"), 0, "allowed"),
        (("shop/user", "203.0.113.10", "3306/tcp"), 1, "denied"),
        (("shop/user", "203.0.113.9", "3306/UDP"), 1, "denied"),
        (("203.0.113.9", "shop/user", "80"), 0, "undeclared"),
        (("10.99.0.2", "10.99.0.1", "80"), 1, "denied"),
        (("10.99.9.1", "shop/frontend", "80"), 0, "allowed"),
    ],
)
def test_explain_ends_by_the_verdict(
    ends: tuple[str, ...],
    status: int,
    verdict: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: tuple[Any, ...] = (
        "--policies",
        folder / "policies",
        "--cluster",
        folder / "cluster.yaml",
    )
    ended, out, _ = run(capsys, "explain", *ends, *asked, "--output", "json")
    result = json.loads(out)
    assert (ended, result["verdict"]) == (status, verdict)
    assert result["steps"][-1]["result"].startswith(result["ingress"])


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        (("shop/nobody", "shop/user", "80"), "unknown endpoint 'shop/nobody'; known names: shop/"),
        (("gone/x", "shop/user", "80"), "unknown endpoint 'gone/x'; known namespaces: "),
        (("shop", "shop/user", "80"), "unknown endpoint 'shop'; use"),
        (("shop/user", "shop/stray", "http"), "invalid port 'http'"),
        (("shop/user", "shop/stray", "80/ICMP"), "invalid port '80/ICMP'"),
        (("shop/user", "shop/stray", "0"), "use 1 to 65535"),
    ],
)
def test_explain_of_what_is_not_there(
    ends: tuple[str, ...], words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--policies", folder / "policies", "--cluster", folder / "cluster.yaml")
    status, out, err = run(capsys, "explain", *ends, *asked)
    assert (status, out) == (2, "")
    assert words in err
    assert "Traceback" not in err


def test_a_cluster_like_a_case_will_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = json.loads(case_file("allow"))["cases"][0]
    (folder / "cluster.json").write_text(json.dumps(case))
    asked = ("--policies", folder / "policies", "--cluster", folder / "cluster.json")
    status, out, _ = run(capsys, "explain", "shop/user", "203.0.113.9", 3306, *asked)
    assert status == 0
    assert out.endswith("\nallowed: shop/out egress[0]\n")


@pytest.mark.parametrize("text", ["", "a: [", '{"pods": [7]}', FRONTEND, "[1]"])
def test_an_invalid_cluster_is_refused(
    text: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "cluster.yaml").write_text(text)
    arguments = ("check", folder / "policies", "--cluster", folder / "cluster.yaml")
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert "cluster.yaml" in err
