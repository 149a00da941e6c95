# SPDX-License-Identifier: Apache-2.0
"""``podtally check --probes``: runs the probes of test cases, and reports which fail."""

from collections.abc import Iterator, Sequence
from typing import TextIO

import msgspec

from podtally.commands.policies import policy_paths
from podtally.commands.shared.tables import print_table
from podtally.errors import PodtallyError
from podtally.policy.cases.case_files import Case, Probe, read_cases
from podtally.policy.cases.runner import ProbeResult, run_case
from podtally.policy.explain.formatting import format_endpoint, format_protocol
from podtally.policy.model import Policy

_HEADS = ("RESULT", "CASE", "PROBE", "FROM", "TO", "PORT", "EXPECT", "VERDICT", "INGRESS",
          "EGRESS", "REASON")  # fmt: skip


class ProbeRow(msgspec.Struct, frozen=True):
    """A probe's result in JSON."""

    case: str
    probe: int
    verdict: str
    ingress: str
    egress: str
    reason: str
    expect: str
    ok: bool
    strict: str  # the verdict where the TTLs of DNS answers are enforced


def run(probes: str, paths: Sequence[str], output: str, out: TextIO) -> int:
    """Return 0 if all verdicts are as expected; 1 if not, or if a policy or case is unreadable."""
    written = policy_paths.read_policies(paths)
    found = read_cases(policy_paths.read_file(probes), probes)
    if not any(case.probes for case in found.cases) and not found.problems:
        raise PodtallyError(f"{probes}: no probes", "give each case probes or matrices")
    policy_paths.print_errors((*written.problems, *found.policy_problems, *found.problems))
    outcomes = _outcomes(found.cases, written.policies)
    if output == "json":
        differs = _write_json(outcomes, out)
    else:
        differs = _write_text(list(outcomes), len(found.cases), out)
    unreadable = any(p.unreadable for c in found.cases for p in c.policies) or any(
        policy.unreadable for policy in written.policies
    )
    if written.lost:
        return 2
    return 1 if differs or unreadable or found.problems else 0


def _outcomes(cases: Sequence[Case], policies: Sequence[Policy]) -> Iterator[ProbeResult]:
    for case in cases:
        yield from run_case(case, policies)


def _write_json(outcomes: Iterator[ProbeResult], out: TextIO) -> bool:
    """Write an object with a list of probes, one a line; return whether one differs."""
    differs, encoder = False, msgspec.json.Encoder()
    out.write('{"probes": [')
    for number, outcome in enumerate(outcomes):
        differs = differs or not outcome.ok
        out.write(",\n " if number else "\n ")
        out.write(encoder.encode(_row(outcome)).decode())
    out.write("\n]}\n")
    return differs


def _row(outcome: ProbeResult) -> ProbeRow:
    case, number, probe, verdict, ingress, egress, reason, ok, strict = outcome
    return ProbeRow(case, number, verdict, ingress, egress, reason, probe.expect, ok, strict)


def _write_text(outcomes: Sequence[ProbeResult], cases: int, out: TextIO) -> bool:
    """Write a table, what differs first; return whether anything does."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.ok)
    rows = [_cells(outcome) for outcome in ordered]
    print_table(_HEADS, rows, [not outcome.ok for outcome in ordered], out, text_last=True)
    differ = [outcome for outcome in outcomes if not outcome.ok]
    where = len({outcome.case for outcome in differ})
    total = f"cases: {cases}, probes: {len(outcomes)}"
    out.write(f"{total}, probes that differ: {len(differ)}, in cases: {where}\n")
    return bool(differ)


def _cells(outcome: ProbeResult) -> tuple[str, ...]:
    probe = outcome.probe
    return (
        "ok" if outcome.ok else "DIFFERS",
        outcome.case.replace(" ", "_"),
        str(outcome.number),
        *_connection(probe),
        _expected(probe),
        outcome.verdict,
        outcome.ingress,
        outcome.egress,
        outcome.reason,
    )


def _connection(probe: Probe) -> tuple[str, str, str]:
    question = probe.question
    if question is None:
        return "-", "-", "-"
    source = format_endpoint(question.source, question.source_ip).replace(" ", ":")
    destination = format_endpoint(question.destination, question.destination_ip).replace(" ", ":")
    return source, destination, f"{question.port}/{format_protocol(question.protocol)}"


def _expected(probe: Probe) -> str:
    """Return the expected verdict, and those of the directions and the strict one, if stated."""
    directions = (
        ("ingress", probe.expect_ingress),
        ("egress", probe.expect_egress),
        ("strict", probe.expect_strict),
    )
    stated = ",".join(f"{name}:{word}" for name, word in directions if word)
    return f"{probe.expect}({stated})" if stated else probe.expect or "-"
