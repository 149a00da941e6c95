# SPDX-License-Identifier: Apache-2.0
"""What becomes of the probes of a case: verdicts with their reasons, and whether they fit."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from podtally.policy.cases.case_files import EXPECTED_VERDICTS, Case, Probe
from podtally.policy.explain.reasons import reason
from podtally.policy.model import UNKNOWN, Policy
from podtally.policy.reference.engine import Engine


class ProbeResult(NamedTuple):
    """``ok``: the verdict is what is expected, and each direction's where that is stated."""

    case: str
    number: int  # of the probe in its case, from 0
    probe: Probe
    verdict: str
    ingress: str
    egress: str
    reason: str
    ok: bool


def run_case(case: Case, more: Sequence[Policy] = ()) -> Iterator[ProbeResult]:
    """In the order of the probes, by the case's policies and ``more``, which beat namesakes."""
    names = {_name(policy) for policy in more if not policy.unreadable}
    engine = Engine([*(p for p in case.policies if _name(p) not in names), *more])
    for number, probe in enumerate(case.probes):
        if probe.question is None:
            unknown = (UNKNOWN, UNKNOWN, UNKNOWN)
            yield ProbeResult(case.name, number, probe, *unknown, probe.wrong, False)
            continue
        verdict = engine.judge(probe.question)
        words = (verdict.verdict, verdict.ingress.verdict, verdict.egress.verdict)
        ok = not probe.wrong and _fits(probe, words)
        yield ProbeResult(case.name, number, probe, *words, reason(probe.question, verdict), ok)


def _fits(probe: Probe, verdicts: tuple[str, str, str]) -> bool:
    wanted = (probe.expect, probe.expect_ingress, probe.expect_egress)
    return all(got in EXPECTED_VERDICTS[word] for got, word in zip(verdicts, wanted, strict=True))


def _name(policy: Policy) -> tuple[str, str, str]:
    return policy.kind, policy.namespace, policy.name
