# SPDX-License-Identifier: Apache-2.0
"""A folder a case: policies as users write them, and every verdict with its reason as text.

``case.json`` is in the format of ``podtally check --probes``; ``expect`` may be ``unknown``
here. ``expected.txt`` is what people read, word for word.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from podtally.policy.explain.reasons import direction_reason
from podtally.policy.load.parser import read_text
from podtally.policy.model import EGRESS, INGRESS, Question
from podtally.policy.reference.engine import Engine, rule_input
from tests.unit.policy.policy_support import World

CASES = Path(__file__).parents[2] / "cases"
FOLDERS = sorted(path for path in CASES.iterdir() if path.is_dir())
WORDS = {"allowed": "allow", "undeclared": "allow", "denied": "deny", "unknown": "unknown"}


def report_of(folder: Path) -> tuple[str, list[str]]:
    """The text, and which verdicts are not what the case expects."""
    reading = read_text((folder / "policies.yaml").read_bytes(), "policies.yaml")
    assert not reading.problems
    case = json.loads((folder / "case.json").read_text())
    engine, world = Engine(reading.policies), World(case)
    lines, wrong = [], []
    for probe in case["probes"]:
        title = title_of(probe)
        question = world.question(probe)
        verdict, text = judged(engine, question)
        lines += [f"{title}: {verdict}", *text]
        if WORDS[verdict] != probe["expect"]:
            wrong.append(title)
    return "\n".join(lines) + "\n", wrong


def title_of(probe: dict[str, Any]) -> str:
    source, destination = (next(iter(probe[key].values())) for key in ("from", "to"))
    return f"{source} to {destination} {probe['protocol']}/{probe['port']}"


def judged(engine: Engine, question: Question) -> tuple[str, list[str]]:
    verdict = engine.judge(question)
    sides = ((EGRESS, verdict.egress), (INGRESS, verdict.ingress))
    return verdict.verdict, [
        f"  {direction} {side.verdict}: {direction_reason(side, rule_input(question, direction))}"
        for direction, side in sides
    ]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_verdicts_and_reasons(folder: Path) -> None:
    text, wrong = report_of(folder)
    assert not wrong
    assert text == (folder / "expected.txt").read_text()


def test_there_are_cases_and_each_is_whole() -> None:
    names = {path.name for folder in FOLDERS for path in folder.iterdir()}
    assert FOLDERS
    assert names == {"policies.yaml", "case.json", "expected.txt"}
