# SPDX-License-Identifier: Apache-2.0
"""Files of probes: every verdict is the expected one."""

from pathlib import Path

import pytest

from podtally.policy.cases.case_files import read_cases
from podtally.policy.cases.runner import ProbeResult, run_case

PROBES = Path(__file__).parents[2] / "probes"
SHARED = Path(__file__).parents[4] / "shared" / "cases" / "policy"
FILES = sorted([*PROBES.glob("*.yaml"), *SHARED.glob("*.yaml")])


def outcomes(path: Path) -> list[ProbeResult]:
    found = read_cases(path.read_bytes(), path.name)
    assert not found.problems
    return [outcome for case in found.cases for outcome in run_case(case)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_each_verdict_is_the_expected_one(path: Path) -> None:
    if b"probes:" not in path.read_bytes():
        pytest.skip("a policy without probes")
    found = outcomes(path)
    assert found
    differ = [(each.case, each.number, each.verdict, each.reason) for each in found if not each.ok]
    assert not differ


def test_there_are_files() -> None:
    assert {"own-node", "hairpin", "doubt"} <= {path.stem for path in FILES}
