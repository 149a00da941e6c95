# SPDX-License-Identifier: Apache-2.0
"""Every case of the shared corpora, by both forms: verdicts, and each end's where it is stated."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.differential import connections
from bench.policy_worlds import Probe
from podtally.policy.load.parser import read_object
from podtally.policy.model import VERDICTS, Policy, PolicyEndpoint, Question
from podtally.policy.reference.engine import Engine
from podtally.policy.vector.evaluator import Evaluator
from tests.unit.policy.policy_support import World

SHARED = Path(__file__).parents[4] / "shared" / "netpol"
FILES = {"shared.json": 326, "admin_shared.json": 197}
# The cells of a matrix: the whole, ingress, egress ("" where it is not stated).
CELLS = {
    ".": ("allow", "allow", "allow"),
    "i": ("deny", "deny", "allow"),
    "e": ("deny", "allow", "deny"),
    "b": ("deny", "deny", "deny"),
    "X": ("deny", "", ""),
    "o": ("allow", "", ""),
}
WORDS = {"allowed": "allow", "undeclared": "allow", "denied": "deny"}


def _end(text: str) -> dict[str, str]:
    return {"ip": text[3:]} if text.startswith("ip:") else {"pod": text}


def _asked(case: dict[str, Any]) -> Iterator[tuple[dict[str, Any], tuple[str, str, str]]]:
    for probe in case.get("probes") or ():
        sides = (probe.get("expect_ingress", ""), probe.get("expect_egress", ""))
        yield probe, (probe["expect"], *sides)
    for matrix in case.get("matrices") or ():
        ends = [_end(text) for text in matrix["endpoints"]]
        for source, row in zip(ends, matrix["rows"], strict=True):
            for destination, cell in zip(ends, row, strict=True):
                if cell != "-":
                    yield {**matrix, "from": source, "to": destination}, CELLS[cell]


def _policies(case: dict[str, Any]) -> list[Policy]:
    read = [read_object(document) for document in case["policies"]]
    assert all(isinstance(policy, Policy) for policy in read)
    return [policy for policy in read if isinstance(policy, Policy)]


def _compiled(policies: list[Policy], questions: list[Question]) -> list[tuple[str, str]]:
    """Ingress and egress, as the compiled form has them."""
    endpoints: dict[PolicyEndpoint, int] = {}
    probes = []
    for question in questions:
        source, destination = (
            endpoints.setdefault(endpoint, len(endpoints))
            for endpoint in (question.source, question.destination)
        )
        how = (question.protocol, question.port)
        probes += [
            Probe(destination, source, question.source_ip, *how, False),
            Probe(source, destination, question.destination_ip, *how, True),
        ]
    if not probes:
        return []
    judged = Evaluator(policies, endpoints).judge(connections(probes))
    words = [VERDICTS[code] for code in judged.verdict]
    return list(zip(words[::2], words[1::2], strict=True))


def _wrong(case: dict[str, Any]) -> list[str]:
    policies, world, asked = _policies(case), World(case), list(_asked(case))
    engine, questions = Engine(policies), [world.question(probe) for probe, _ in asked]
    wrong = []
    compiled = _compiled(policies, questions)
    for (probe, expected), question, other in zip(asked, questions, compiled, strict=True):
        verdict = engine.judge(question)
        got = (verdict.verdict, verdict.ingress.verdict, verdict.egress.verdict)
        words = [WORDS.get(word, word) for word in got]
        differs = any(want and have != want for have, want in zip(words, expected, strict=True))
        if differs or other != got[1:]:
            ends = f"{probe['from']} to {probe['to']} {probe['protocol']}/{probe['port']}"
            wrong.append(f"{case['id']}: {ends}: {got}, compiled {other}, not {expected}")
    return wrong


@pytest.mark.parametrize("file", FILES)
def test_every_case_is_right_in_full(file: str) -> None:
    path = SHARED / file
    if not path.exists():
        pytest.skip(f"needs ../shared/netpol/{file}")
    cases = json.loads(path.read_text())["cases"]
    assert len(cases) == FILES[file]
    wrong = {case["id"]: found for case in cases if (found := _wrong(case))}
    assert not wrong, f"{len(wrong)} cases wrong: {next(iter(wrong.values()))[:3]}"
