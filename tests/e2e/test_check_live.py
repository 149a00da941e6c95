# SPDX-License-Identifier: Apache-2.0
"""``podtally check --live`` and ``explain --live`` as they are called, against a real HTTP server."""

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from podtally.commands.policies import live_cluster
from podtally.policy.load.api_resources import POLICY_RESOURCES
from tests.apiserver.recordings import RECORDINGS, Player
from tests.apiserver.server import ApiServer, Fault
from tests.apiserver.store import KINDS, Object
from tests.e2e.live_support import DENY_STRAYS, Run, live, pod, runner

FRONTEND = {
    "metadata": {"name": "allow-frontend", "namespace": "shop"},
    "spec": {
        "podSelector": {"matchLabels": {"app": "frontend"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": "user"}}}]}],
    },
}
OUT = {
    "metadata": {"name": "out", "namespace": "shop", "generation": 2},
    "spec": {
        "podSelector": {},
        "policyTypes": ["Egress"],
        "egress": [
            {
                "to": [{"ipBlock": {"cidr": "203.0.113.0/24", "except": ["203.0.113.10/32"]}}],
                "ports": [{"protocol": "TCP", "port": 3306}],
            }
        ],
    },
}
WEB = {
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}},
}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(capsys)


@pytest.fixture
def api() -> Iterator[ApiServer]:
    """A shop of three pods, with two policies and an Ingress."""
    with ApiServer(authorizations={"Bearer t"}) as server:
        server.put("namespaces", {"metadata": {"name": "shop"}})
        address = {"type": "InternalIP", "address": "10.99.9.1"}
        server.put("nodes", {"metadata": {"name": "n1"}, "status": {"addresses": [address]}})
        server.put("pods", pod("frontend", "10.99.0.1", app="frontend"))
        server.put("pods", pod("user", "10.99.0.2", role="user"))
        server.put("pods", pod("stray", "10.99.0.3"))
        server.put("networkpolicies", FRONTEND)
        server.put("networkpolicies", OUT)
        server.put("ingresses", WEB)
        yield server


def changed(item: Object, **spec: Any) -> Object:
    return item | {"spec": item["spec"] | spec}


def test_what_is_applied_is_linted(api: ApiServer, run: Run, tmp_path: Path) -> None:
    status, out, err = run("check", *live(tmp_path, api.url), "--ignore", "unisolated")
    summary = f"api: {api.url}, policies: 2, errors: 0, warnings: 0\n"
    assert (status, out, err) == (0, summary, "")
    api.put("networkpolicies", changed(FRONTEND, podSelector={"matchLabels": {"app": "gone"}}))
    block = {"cidr": "203.0.113.0/24", "except": ["203.0.114.0/24"]}
    api.put("networkpolicies", changed(OUT, egress=[{"to": [{"ipBlock": block}]}]))
    api.put("ingresses", changed(WEB, defaultBackend={}))
    result = run("check", *live(tmp_path, api.url), "--output", "json", "--ignore", "unisolated")
    rows = json.loads(result.out)["findings"]
    assert result.status == 1
    assert {(row["file"], row["line"]) for row in rows} == {("api", 0)}
    assert {(row["object"], row["field"], row["check"]) for row in rows} == {
        ("NetworkPolicy shop/allow-frontend", "spec.podSelector", "selects-nothing"),
        ("NetworkPolicy shop/out", "spec.egress[0].to[0].ipBlock.except[0]", "schema"),
        ("Ingress shop/web", "spec.defaultBackend", "schema"),
    }
    result = run("check", *live(tmp_path, api.url), "--ignore", "unisolated")
    assert result.out.startswith("error: api: NetworkPolicy shop/")


def test_live_finds_what_files_of_the_same_have(api: ApiServer, run: Run, tmp_path: Path) -> None:
    ingress = [{}, {"from": [{"podSelector": {"matchLabels": {"role": "user"}}}]}]
    api.put("networkpolicies", changed(FRONTEND, ingress=ingress))
    objects = [
        {"apiVersion": KINDS[name].api_version, "kind": KINDS[name].kind, **item}
        for name in ("namespaces", "nodes", "pods", "networkpolicies", "ingresses")
        for item in api.store.objects(name).values()
    ]
    written = tmp_path / "all.yaml"
    written.write_text(yaml.safe_dump_all(objects))
    from_api = run("check", *live(tmp_path, api.url), "--output", "json")
    from_files = run("check", written, "--cluster", written, "--output", "json")
    both = run("check", written, *live(tmp_path, api.url), "--output", "json")
    rows = [
        [{**row, "file": "", "line": 0} for row in json.loads(result.out)["findings"]]
        for result in (from_api, from_files, both)
    ]
    assert rows[0] == rows[1] == rows[2]
    assert {row["check"] for row in rows[0]} == {"allow-all", "shadowed", "unisolated"}
    assert json.loads(both.out)["findings"][0]["file"] == str(written)


def test_everything_is_read_in_pages(api: ApiServer, run: Run, tmp_path: Path) -> None:
    for number in range(1_200):
        address = f"10.99.{10 + number // 250}.{1 + number % 250}"
        api.put("pods", pod(f"more-{number:04}", address))
    out = run("check", *live(tmp_path, api.url)).out
    assert "1202 of 1203 pods not isolated in ingress" in out
    asked = api.asked_for("pods", "list")
    assert [request.query.get("limit") for request in asked] == ["500"] * 3
    assert not any("watch" in request.query for request in api.requests)


def test_custom_resources_are_read_where_they_are(api: ApiServer, run: Run, tmp_path: Path) -> None:
    arguments = ("check", *live(tmp_path, api.url), "--ignore", "unisolated")
    assert run(*arguments).status == 0  # a server without them
    api.faults.errors.append(Fault(403, "Forbidden", resource="adminnetworkpolicies"))
    assert run(*arguments).status == 0  # RBAC is asked before the CRD is
    api.install("clusternetworkpolicies")
    api.put("clusternetworkpolicies", DENY_STRAYS)
    status, out, _ = run(*arguments)
    assert status == 1
    assert "ClusterNetworkPolicy strays: spec.subject: selects no pod" in out
    assert "policies: 3," in out


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            Fault(403, "Forbidden", resource="pods", times=-1),
            'apiGroups: [""], resources: ["pods"], verbs: ["list"]',
        ),
        (Fault(404, "NotFound", resource="nodes", times=-1), "it has no /api/v1/nodes"),
        (Fault(503, "ServiceUnavailable", resource="pods", times=-1), "pods: 503"),
        (Fault(410, "Expired", resource="pods", times=-1), "pods: 410"),
        (Fault(401, "Unauthorized", resource="pods", times=-1), "log in again"),
    ],
)
def test_an_error_of_the_server_is_shown_with_the_fix(
    fault: Fault, words: str, api: ApiServer, run: Run, tmp_path: Path
) -> None:
    api.faults.errors.append(fault)
    status, out, err = run("check", *live(tmp_path, api.url))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert api.url in err


def test_an_error_that_passes_is_none(api: ApiServer, run: Run, tmp_path: Path) -> None:
    for code, resource in ((503, "pods"), (429, "nodes"), (410, "pods"), (401, "namespaces")):
        api.faults.errors.append(Fault(code, "", resource=resource))
    status, _, err = run("check", *live(tmp_path, api.url), "--ignore", "unisolated")
    assert (status, err) == (0, "")


def test_a_server_that_does_not_answer_or_refuses(api: ApiServer, run: Run, tmp_path: Path) -> None:
    status, out, err = run("check", *live(tmp_path, api.url, "wrong"))
    assert (status, out) == (2, "")
    assert "namespaces: 401 Unauthorized; log in again" in err
    assert len(api.requests) == 2  # once more, with what the kubeconfig has by then
    api.away()
    status, out, err = run("check", *live(tmp_path, api.url))
    assert (status, out) == (2, "")
    assert f"{api.url}: Connection refused; check the server's address" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("check", "--live", "--cluster", "c.yaml"), "are both given"),
        (("check", "--live", "--probes", "p.json"), "cannot be combined"),
        (("check", "x.yaml", "--kubeconfig", "k"), "--kubeconfig is only used with --live"),
        (("check", "--live"), "no cluster given"),
        (("check", "--live", "--kubeconfig", "none"), "cannot read the kubeconfig none"),
        (("explain", "a/b", "c/d", "80", "--live", "--cluster", "c"), "are both given"),
    ],
)
def test_wrong_use(
    arguments: tuple[str, ...],
    words: str,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert words in err


def test_the_kubeconfig_is_found_as_kubectl_finds_it(
    api: ApiServer, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(live(tmp_path, api.url)[-1])
    arguments = ("check", "--live", "--ignore", "unisolated")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/none:{path}")
    assert run(*arguments).status == 0
    assert "no 'other'; there is: broken, here" in run(*arguments, "--kube-context", "other").err
    monkeypatch.setenv("KUBECONFIG", f"{path}:{path}")
    assert run(*arguments).status == 0
    monkeypatch.delenv("KUBECONFIG")
    (tmp_path / ".kube").mkdir()
    path.rename(tmp_path / ".kube" / "config")
    assert run(*arguments).status == 0


def test_explain_of_what_is_applied(api: ApiServer, run: Run, tmp_path: Path) -> None:
    asked = ("explain", "shop/stray", "shop/frontend", "80", "--output", "json")
    status, out, _ = run(*asked, *live(tmp_path, api.url))
    result = json.loads(out)
    assert (status, result["verdict"], result["ingress"], result["egress"]) == (1, *["denied"] * 3)
    assert "shop/allow-frontend ingress[0]: shop/stray lacks role=user" in result["reason"]
    candidate = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"} | FRONTEND
    (tmp_path / "next.yaml").write_text(yaml.safe_dump(candidate))
    status, out, _ = run(*asked, "--policies", tmp_path / "next.yaml", *live(tmp_path, api.url))
    result = json.loads(out)
    assert (status, result["ingress"], result["egress"]) == (1, "denied", "undeclared")


@pytest.mark.skipif(not RECORDINGS.is_dir(), reason="no ../shared/k8s-recordings")
def test_recordings_of_a_real_cluster(run: Run, tmp_path: Path) -> None:
    with ApiServer() as api:
        Player(api.store).play_until(float("inf"))
        policies = len(api.store.objects("networkpolicies"))
        pods = api.store.objects("pods").values()
        result = run("check", *live(tmp_path, api.url), "--output", "json")
        assert {row["check"] for row in json.loads(result.out)["findings"]} <= {
            "unisolated",
            "selects-nothing",
        }
        assert result.err == ""
        assert f"policies: {policies}," in run("check", *live(tmp_path, api.url)).out
        one = next(p for p in pods if not p["spec"].get("hostNetwork") and p["status"].get("podIP"))
        name = f"{one['metadata']['namespace']}/{one['metadata']['name']}"
        out = run("explain", name, "203.0.113.9", 443, *live(tmp_path, api.url)).out
        assert f"{name} ({one['status']['podIP']}) to 203.0.113.9" in out


def test_progress_on_a_terminal(api: ApiServer, tmp_path: Path) -> None:
    api.faults.hang = True
    command = [sys.executable, "-m", "podtally", "check", *live(tmp_path, api.url)]
    ours, theirs = pty.openpty()
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs) as shown:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as piped:
            os.close(theirs)
            result = os.read(ours, 1_000)
            waited = time.monotonic() - began
            time.sleep(0.5)
            api.release()
            _, errors = piped.communicate(timeout=20)
        shown.communicate(timeout=20)
        result += _rest(ours)
    assert waited > 2.0
    assert b"podtally: listing namespaces" in result
    assert result.endswith(b"\r\x1b[K")  # it is wiped away
    assert errors == b""
    assert (shown.returncode, piped.returncode) == (1, 1)


def _rest(terminal: int) -> bytes:
    result = b""
    try:
        while piece := os.read(terminal, 1_000):
            result += piece
    except OSError:  # EIO: no reader has the other end open (pty(7))
        pass
    finally:
        os.close(terminal)
    return result


def test_what_is_listed_is_what_the_agent_watches() -> None:
    listed = {(kind.path, kind.custom) for kind in live_cluster.POLICIES}
    assert listed == {(resource.path, resource.optional) for resource in POLICY_RESOURCES}
