# SPDX-License-Identifier: Apache-2.0
"""The command ``podtally doctor``: shows the findings as lines or JSON, and sums them up."""

import argparse
import json
import os
import sys
from collections.abc import Iterable
from typing import TextIO

from podtally import __version__
from podtally.commands.arguments import add_directories, add_output
from podtally.config import add_flags, from_arguments
from podtally.config.settings import NAMES, SETTINGS
from podtally.doctor.finding import DoctorFinding
from podtally.doctor.probes import examine, is_fatal

_EPILOG = """\
examples:
  podtally doctor --interfaces 'eth0,cali*'
  podtally doctor --policies policies/

Probes features, each by trying it; the host is left as it was. Policies are read as the agent
would read them: what is unreadable does not keep it from running, but has the verdict unknown.
Exit codes: 0 podtally could run here, 1 it could not, 2 wrong use.
"""

_GREEN, _RED, _YELLOW, _PLAIN = "32", "31", "33", ""
_NAME_WIDTH = 19


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    add_directories(parser)
    names = (name for name, each in SETTINGS.items() if each.group == NAMES and each.flag)
    add_flags(parser, ("interfaces", *names, "policies", "candidates"))
    add_output(parser)


def main(args: argparse.Namespace) -> int:
    """Return 0 if podtally could run on this host, 1 if not."""
    findings = examine(from_arguments(args))
    if args.output == "json":
        return report_json(findings, sys.stdout)
    return report_text(findings, sys.stdout, colour=_wants_colour(sys.stdout))


def report_json(findings: Iterable[DoctorFinding], out: TextIO) -> int:
    listed = list(findings)
    able = not any(map(is_fatal, listed))
    report = {
        "version": __version__,
        "can_run": able,
        "findings": [finding._asdict() for finding in listed],
    }
    json.dump(report, out, indent=2)
    out.write("\n")
    return 0 if able else 1


def report_text(findings: Iterable[DoctorFinding], out: TextIO, *, colour: bool) -> int:
    """Write each finding as it comes, its fix under it."""
    fatal = 0
    for finding in findings:
        mark, paint = _mark(finding)
        shown = f"\x1b[{paint}m{mark}\x1b[0m" if colour and paint else mark
        out.write(f"{shown}  {finding.name:{_NAME_WIDTH}}  {finding.detail}\n")
        if finding.fix and not finding.ok:
            margin = " " * (len(mark) + _NAME_WIDTH + 4)
            out.write(f"{margin}-> {finding.fix}\n".replace("\n    ", f"\n{margin}   "))
        out.flush()
        fatal += is_fatal(finding)
    missing = "1 thing is" if fatal == 1 else f"{fatal} things are"
    out.write(
        "podtally can run here\n" if not fatal else f"podtally cannot run: {missing} missing\n"
    )
    return 1 if fatal else 0


def _mark(finding: DoctorFinding) -> tuple[str, str]:
    if finding.ok:
        return "ok     ", _GREEN
    if finding.ok is None:
        return "note   ", _PLAIN
    return ("MISSING", _RED) if finding.fatal else ("lacking", _YELLOW)


def _wants_colour(out: TextIO) -> bool:
    return out.isatty() and "NO_COLOR" not in os.environ
