# SPDX-License-Identifier: Apache-2.0
"""Runs test cases: the verdict and reason of each probe, and whether it is as expected."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from podtally.policy.cases.case_files import EXPECTED_VERDICTS, Case, Probe
from podtally.policy.explain.domains import with_strict
from podtally.policy.explain.reasons import reason
from podtally.policy.model import UNKNOWN, Policy
from podtally.policy.reference.engine import Engine


class ProbeResult(NamedTuple):
    """``ok``: the verdict is as expected, and that of each direction, if given."""

    case: str
    number: int  # of the probe in its case, from 0
    probe: Probe
    verdict: str
    ingress: str
    egress: str
    reason: str
    ok: bool
    strict: str = UNKNOWN  # the verdict where the TTLs of DNS answers are enforced


def run_case(case: Case, more: Sequence[Policy] = ()) -> Iterator[ProbeResult]:
    """Judge the probes in order; ``more`` policies override those of the case by name."""
    names = {_name(policy) for policy in more if not policy.unreadable}
    engine = Engine([*(p for p in case.policies if _name(p) not in names), *more])
    for number, probe in enumerate(case.probes):
        if probe.question is None:
            unknown = (UNKNOWN, UNKNOWN, UNKNOWN)
            yield ProbeResult(case.name, number, probe, *unknown, probe.wrong, False)
            continue
        verdict = engine.judge(probe.question)
        words = (verdict.verdict, verdict.ingress.verdict, verdict.egress.verdict)
        strict = engine.strict_verdict(probe.question, verdict)
        ok = not probe.wrong and _fits(probe, (*words, strict))
        why = with_strict(reason(probe.question, verdict), verdict.verdict, strict)
        yield ProbeResult(case.name, number, probe, *words, why, ok, strict)


def _fits(probe: Probe, verdicts: tuple[str, ...]) -> bool:
    wanted = (probe.expect, probe.expect_ingress, probe.expect_egress, probe.expect_strict)
    return all(got in EXPECTED_VERDICTS[word] for got, word in zip(verdicts, wanted, strict=True))


def _name(policy: Policy) -> tuple[str, str, str]:
    return policy.kind, policy.namespace, policy.name
