# SPDX-License-Identifier: Apache-2.0
"""``podtally config check``: what it finds before an agent does, and its exit codes."""

from pathlib import Path

import pytest

from podtally import cli
from podtally.config import loader
from tests.unit.kubeconfig_files import write_config

POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {}
  ingress:
  - from: [{podSelector: {}}]
"""
NOT_A_POLICY = POLICY.replace("podSelector: {}\n", "podSelektor: {}\n", 1)


def check(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = cli.main(["config", "check", *map(str, arguments)])
    result = capsys.readouterr()
    return status, result.out, result.err


def written(folder: Path, text: str) -> Path:
    path = folder / "podtally.yaml"
    path.write_text(text)
    return path


def test_a_file_that_serves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "web.yaml").write_text(POLICY)
    path = written(tmp_path, f"epoch: 2\npolicies: {tmp_path / 'web.yaml'}\n")
    assert check(capsys, path) == (0, f"{path}: 0 problems in policies\n", "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epok: 2\n", "epok"),
        ("epoch: -1\n", "epoch: "),
        ("epoch: [\n", ":2: not YAML"),
        ("listen: here\n", "'here' is not ADDR:PORT"),
        ("kubeconfig: /not/there\n", "/not/there"),
        ("flow_log: /tmp/x\nevents: /tmp/x\n", "/tmp/x"),
        ("flow_log: /not/there/flows.jsonl\n", "flow_log: no directory /not/there"),
        ("events: /not/there/events.jsonl\n", "events: no directory /not/there"),
        ("events: /dev/null\n", "events: /dev/null is not a regular file"),
        ("events: /dev/stdout\n", "events: /dev/stdout is not a regular file"),
    ],
)
def test_what_no_agent_could_start_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    status, result, error = check(capsys, written(tmp_path, text))
    assert (status, result) == (2, "")
    assert words in error
    assert error.count("\n") == 1


def test_named_interfaces_that_are_not_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another host may have them, so the configuration serves."""
    status, result, _ = check(capsys, written(tmp_path, "interfaces: 'nosuch0, veth*'\n"))
    assert status == 0
    assert "warning: interfaces: there is no interface 'nosuch0'\n" in result
    assert "veth" not in result


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, error = check(capsys, tmp_path / "none.yaml")
    assert status == 2
    assert str(tmp_path / "none.yaml") in error


def test_the_kubeconfig_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(tmp_path, {"token": "t"}, {"server": "https://127.0.0.1:1"})
    text = f"kubeconfig: {tmp_path / 'kubeconfig'}\n"
    assert check(capsys, written(tmp_path, text))[0] == 0
    status, _, error = check(capsys, written(tmp_path, f"{text}kube_context: elsewhere\n"))
    assert status == 2
    assert "elsewhere" in error


@pytest.mark.parametrize("setting", ["policies", "candidates"])
def test_policies_that_cannot_be_read_are_findings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "bad.yaml").write_text(NOT_A_POLICY)
    (policies / "good.yaml").write_text(POLICY.replace("name: web", "name: other"))
    path = written(tmp_path, f"{setting}: [{policies}]\n")
    status, result, error = check(capsys, path)
    assert (status, error) == (1, "")
    *problems, last = result.splitlines()
    assert problems
    assert all(line.startswith(f"{policies / 'bad.yaml'}:") for line in problems)
    assert "podSelektor" in result
    assert last == f"{path}: {len(problems)} problem{'s' * (len(problems) > 1)} in policies"


def test_control_characters_are_not_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(POLICY.replace("podSelector: {}", 'podSelector: {matchLabels: {"\\e]0;x": a}}'))
    status, result, _ = check(capsys, written(tmp_path, f"policies: {bad}\n"))
    assert status == 1
    assert "\x1b" not in result


def test_without_a_name_it_is_the_default_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "DEFAULT_FILE", tmp_path / "podtally.yaml")
    assert check(capsys) == (0, "defaults: 0 problems in policies\n", "")
    path = written(tmp_path, "epoch: 2\n")
    assert check(capsys) == (0, f"{path}: 0 problems in policies\n", "")
    written(tmp_path, "epoch: 0\n")
    assert check(capsys)[0] == 2


def test_a_deletion_of_what_is_not_there_is_a_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "podtally.yaml"
    file.write_text("candidate_delete: NetworkPolicy/shop/old\nkubernetes: 'off'\n")
    assert cli.main(["config", "check", str(file)]) == 1
    assert "NetworkPolicy/shop/old: no such policy" in capsys.readouterr().out
