# SPDX-License-Identifier: Apache-2.0
"""The shared corpora through ``podtally check --probes`` and the reader, counted by case."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from podtally import cli
from podtally.policy.load.parser import accepts

SHARED = Path(__file__).parents[4] / "shared" / "netpol"
FILES = {"shared.json": 326, "admin_shared.json": 197}
MEANT = {"allow": ("allowed", "undeclared"), "deny": ("denied",)}
KEYS = ["case", "probe", "verdict", "ingress", "egress", "reason", "expect", "ok", "strict"]


def _path(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs ../shared/netpol/{name}")
    return path


def _expanded(path: Path) -> list[dict[str, Any]]:
    """The cases with their matrices as probes, as the corpus's own runner has them."""
    spec = importlib.util.spec_from_file_location("run_corpus", _path("run_corpus.py"))
    assert spec is not None
    assert spec.loader is not None
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    cases: list[dict[str, Any]] = runner.load(path)
    return cases


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_every_case_is_right_in_full(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = _path(file)
    status = cli.main(["check", "--probes", str(path), "--output", "json"])
    result = json.loads(capsys.readouterr().out)["probes"]
    cases = _expanded(path)
    assert len(cases) == FILES[file]
    asked = [(case["id"], n, probe) for case in cases for n, probe in enumerate(case["probes"])]
    assert [(row["case"], row["probe"]) for row in result] == [(name, n) for name, n, _ in asked]
    wrong: dict[str, Any] = {}
    for row, (name, _, probe) in zip(result, asked, strict=True):
        assert list(row) == KEYS
        assert row["expect"] == probe["expect"]
        wanted = {"verdict": probe["expect"]}
        if "expect_ingress" in probe:
            wanted |= {"ingress": probe["expect_ingress"], "egress": probe["expect_egress"]}
        if any(row[key] not in MEANT[word] for key, word in wanted.items()) or not row["ok"]:
            wrong.setdefault(name, (probe, row))
    assert not wrong, f"{len(wrong)} cases wrong: {next(iter(wrong.values()))}"
    assert all(row["reason"] for row in result)
    assert status == 0


def test_every_object_is_accepted_or_refused_as_by_the_api_server() -> None:
    cases = json.loads(_path("validation_shared.json").read_text())["cases"]
    wrong = [case["id"] for case in cases if accepts(case["policy"]) != case["valid"]]
    assert cases
    assert not wrong
