# SPDX-License-Identifier: Apache-2.0
"""Writes an explanation as text: the steps by direction, then the verdict."""

from collections.abc import Sequence
from typing import TextIO

from podtally.api.schema import Explanation, StepRow
from podtally.commands.shared.tables import BOLD, paint, printable, style_of
from podtally.policy.model import EGRESS, INGRESS


def show(explanation: Explanation, out: TextIO) -> None:
    """Write the steps by direction, then the verdict; then the same with the candidates, if
    they differ.
    """
    title = f"{explanation.from_} to {explanation.to}, {explanation.protocol} {explanation.port}"
    out.write(f"{_bold(title, out)}\n")
    _show_steps(explanation, explanation.steps, out)
    reason = printable(explanation.reason)
    out.write(f"\n{_bold(explanation.verdict, out)}: {reason}\n")
    candidate = explanation.candidate
    if candidate is None:
        return
    if candidate.steps == explanation.steps:
        out.write("\nwith the candidates: the same\n")
        return
    out.write(f"\n{_bold('with the candidates', out)}\n")
    _show_steps(explanation, candidate.steps, out)
    verdict, reason = _bold(candidate.verdict, out), printable(candidate.reason)
    out.write(f"\nwith the candidates {verdict}: {reason}\n")


def _show_steps(explanation: Explanation, steps: Sequence[StepRow], out: TextIO) -> None:
    width = max((len(step.item) for step in steps), default=0)
    for direction, name in ((EGRESS, explanation.from_), (INGRESS, explanation.to)):
        out.write(f"\n{_bold(f'{direction} of {name}', out)}\n")
        tier = ""
        for step in (step for step in steps if step.direction == direction):
            if step.tier and step.tier != tier:
                tier = step.tier
                out.write(f"  {tier}\n")
            line = f"    {step.item:<{width}}  {step.result}" if step.item else f"  {step.result}"
            out.write(f"{printable(line)}\n")


def _bold(text: str, out: TextIO) -> str:
    return paint(printable(text), BOLD, style_of(out))
