# SPDX-License-Identifier: Apache-2.0
"""Explains verdicts, for a command on files and for the running agent."""

from collections.abc import Iterable, Sequence

from podtally.api.schema import ExplainedVerdict, Explanation, StepRow
from podtally.errors import PodtallyError
from podtally.policy.explain.domains import with_strict
from podtally.policy.explain.formatting import format_address, format_endpoint, format_protocol
from podtally.policy.explain.reasons import reason
from podtally.policy.explain.steps import Step, explain
from podtally.policy.load.conversion import PROTOCOLS
from podtally.policy.model import LAST_PORT, Policy, Question, Verdict
from podtally.policy.reference.engine import Engine


def explain_connection(
    question: Question, policies: Iterable[Policy], with_candidates: Iterable[Policy] = ()
) -> Explanation:
    """``with_candidates``: all policies with the candidates applied; empty if there are none."""
    candidate = tuple(with_candidates)
    source, destination = _endpoint_texts(question)
    verdict = _explained_verdict(question, tuple(policies))
    return Explanation(
        from_=source,
        to=destination,
        protocol=format_protocol(question.protocol),
        port=question.port,
        verdict=verdict.verdict,
        ingress=verdict.ingress,
        egress=verdict.egress,
        reason=verdict.reason,
        steps=verdict.steps,
        strict=verdict.strict,
        candidate=_explained_verdict(question, candidate) if candidate else None,
    )


def parse_port(text: str) -> tuple[int, int]:
    """Return port and protocol of PORT[/PROTO]; PodtallyError."""
    number, _, name = text.partition("/")
    protocol = PROTOCOLS.get(name.upper() or "TCP")
    if not number.isascii() or not number.isdecimal() or len(number) > 5 or protocol is None:
        known = ", ".join(PROTOCOLS)
        raise PodtallyError(
            f"invalid port {text[:64]!r}", f"use for example 80 or 53/UDP ({known})"
        )
    if not 1 <= int(number) <= LAST_PORT:
        raise PodtallyError(f"invalid port {number}", f"use 1 to {LAST_PORT}")
    return int(number), protocol


def _explained_verdict(question: Question, policies: Sequence[Policy]) -> ExplainedVerdict:
    engine = Engine(policies)
    verdict: Verdict = engine.judge(question)
    strict = engine.strict_verdict(question, verdict)
    steps: list[Step] = explain(question, policies)
    return ExplainedVerdict(
        verdict.verdict,
        verdict.ingress.verdict,
        verdict.egress.verdict,
        with_strict(reason(question, verdict), verdict.verdict, strict),
        tuple(StepRow(*step) for step in steps),
        "" if strict == verdict.verdict else strict,
    )


def _endpoint_texts(question: Question) -> tuple[str, str]:
    """Return the names of source and destination, with their addresses."""
    pairs = (
        (question.source, question.source_ip),
        (question.destination, question.destination_ip),
    )
    words = [(format_endpoint(*pair), format_address(pair[1]) if pair[1] else "") for pair in pairs]
    shown = [f"{name} ({ip})" if ip and ip != name else name for name, ip in words]
    return shown[0], shown[1]
