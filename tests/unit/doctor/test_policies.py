# SPDX-License-Identifier: Apache-2.0
"""The doctor reads the policies in files as the agent would, and says what is wrong with them."""

from pathlib import Path

import pytest

from podtally.config import Config
from podtally.doctor.finding import DoctorFinding
from podtally.doctor.policies import policies
from podtally.doctor.probes import is_fatal

GOOD = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: good, namespace: shop}
spec: {podSelector: {}}
"""
BAD = """\
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: bad, namespace: shop}
spec:
  podSelector: 7
"""
INGRESS = """\
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: front, namespace: shop}
spec: {defaultBackend: {service: {name: web, port: {number: 80}}}}
"""


def findings(*files: Path, candidates: tuple[Path, ...] = ()) -> list[DoctorFinding]:
    return list(policies(Config(kubernetes="off", policies=files, candidates=candidates)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "policies.yaml"


def test_good_files(file: Path) -> None:
    file.write_text(GOOD + INGRESS)
    assert findings(file) == [DoctorFinding("policies", True, f"2 in {file}")]
    assert findings(file.parent, candidates=(file,)) == [
        DoctorFinding("policies", True, f"2 in {file.parent}"),
        DoctorFinding("candidates", True, f"1 in {file}"),
    ]


def test_unreadable_policies_have_their_line_and_are_not_fatal(file: Path) -> None:
    file.write_text(GOOD + BAD)
    good, bad = findings(file)
    assert (good.ok, good.detail) == (True, f"1 in {file}")
    assert bad.ok is False
    assert bad.detail.startswith(f"{file}:10: NetworkPolicy shop/bad: spec.podSelector: ")
    assert str(file) in bad.fix
    assert not is_fatal(bad)


def test_only_a_few_of_many_problems_are_shown(file: Path) -> None:
    file.write_text("".join(BAD.replace("bad", f"bad-{i}") for i in range(23)))
    found = findings(file)
    assert [each.ok for each in found] == [False] * 6
    assert found[-1].detail == "and 18 more"


def test_files_that_are_not_there(file: Path) -> None:
    (found,) = findings(file)
    assert found.ok is False
    assert found.detail.startswith(f"{file}: cannot be read: No such file or directory")
    (found,) = findings(candidates=(file,))[1:]
    assert (found.name, found.ok) == ("candidates", False)


def test_no_policy_at_all_is_a_note(file: Path) -> None:
    (found,) = findings()
    assert found.ok is None
    file.write_text("")
    (found,) = findings(file)
    assert (found.ok, found.detail) == (None, f"none in {file}")


def test_where_there_is_an_api_files_are_not_missed(tmp_path: Path) -> None:
    assert list(policies(Config(kubeconfig=tmp_path / "none"))) == []
