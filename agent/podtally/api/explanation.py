# SPDX-License-Identifier: Apache-2.0
"""Makes explanations, for a command by itself or for the agent that one asks.

Also what both read in the same way: the port that is asked for, and who is not there.
"""

import difflib
from collections.abc import Iterable, Sequence

from podtally.api.schema import ExplainedVerdict, Explanation, StepRow
from podtally.errors import PodtallyError
from podtally.policy.explain.formatting import format_address, format_endpoint, format_protocol
from podtally.policy.explain.reasons import reason
from podtally.policy.explain.steps import Step, explain
from podtally.policy.load.conversion import PROTOCOLS
from podtally.policy.model import LAST_PORT, Policy, Question, Verdict
from podtally.policy.reference.engine import Engine

_NAMES_TOLD = 5


def explain_connection(
    question: Question, policies: Iterable[Policy], with_candidates: Iterable[Policy] = ()
) -> Explanation:
    """``with_candidates`` are all policies as they were with them; nothing: there are none."""
    would = tuple(with_candidates)
    source, destination = _ends(question)
    judged = _judged(question, tuple(policies))
    return Explanation(
        source,
        destination,
        format_protocol(question.protocol),
        question.port,
        judged.verdict,
        judged.ingress,
        judged.egress,
        judged.reason,
        judged.steps,
        _judged(question, would) if would else None,
    )


def parse_port(text: str) -> tuple[int, int]:
    """Port and protocol of PORT[/PROTO]; PodtallyError if it is none."""
    number, _, name = text.partition("/")
    protocol = PROTOCOLS.get(name.upper() or "TCP")
    if not number.isascii() or not number.isdecimal() or len(number) > 5 or protocol is None:
        known = ", ".join(PROTOCOLS)
        raise PodtallyError(
            f"{text[:64]!r} is no port", f"write for example 80 or 53/UDP ({known})"
        )
    if not 1 <= int(number) <= LAST_PORT:
        raise PodtallyError(f"{number} is no port", f"it must be between 1 and {LAST_PORT}")
    return int(number), protocol


def near_names(text: str, names: Iterable[str]) -> str:
    """A few of the names: those that are near, then the first by name; "" if there are none."""
    known = sorted(set(names))
    near = difflib.get_close_matches(text, known, _NAMES_TOLD)
    return ", ".join(list(dict.fromkeys((*near, *known)))[:_NAMES_TOLD])


def _judged(question: Question, policies: Sequence[Policy]) -> ExplainedVerdict:
    verdict: Verdict = Engine(policies).judge(question)
    steps: list[Step] = explain(question, policies)
    return ExplainedVerdict(
        verdict.verdict,
        verdict.ingress.verdict,
        verdict.egress.verdict,
        reason(question, verdict),
        tuple(StepRow(*step) for step in steps),
    )


def _ends(question: Question) -> tuple[str, str]:
    """Names, with the addresses that are used."""
    pairs = (
        (question.source, question.source_ip),
        (question.destination, question.destination_ip),
    )
    words = [(format_endpoint(*pair), format_address(pair[1]) if pair[1] else "") for pair in pairs]
    shown = [f"{name} ({ip})" if ip and ip != name else name for name, ip in words]
    return shown[0], shown[1]
