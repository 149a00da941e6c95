# SPDX-License-Identifier: Apache-2.0
"""``podtally doctor``: prints the findings as lines or JSON, and a summary."""

import argparse
import json
import sys
from collections.abc import Iterable
from typing import TextIO

from podtally import __version__
from podtally.commands.shared.arguments import add_directories, add_output
from podtally.commands.shared.tables import GREEN, RED, YELLOW, Style, paint, style_of
from podtally.config import add_flags, from_arguments
from podtally.config.settings import NAMES, SETTINGS
from podtally.doctor.finding import DoctorFinding
from podtally.doctor.probes import examine, is_fatal

_EPILOG = """\
examples:
  podtally doctor --interfaces 'eth0,cali*'
  podtally doctor --policies policies/

Tries each kernel feature, and changes nothing on the host. Policies are read as the agent would
read them: an unreadable one does not keep it from running, but makes verdicts unknown.
Exit codes: 0 podtally can run here, 1 findings: it cannot, 2 usage error, unreadable input, or
a fixable problem.
"""

_NAME_WIDTH = 19


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    add_directories(parser)
    names = (name for name, each in SETTINGS.items() if each.group == NAMES and each.flag)
    add_flags(parser, ("interfaces", *names, "policies", "candidates"))
    add_output(parser)


def main(args: argparse.Namespace) -> int:
    """Return 0 if podtally can run on this host, 1 if not."""
    findings = examine(from_arguments(args))
    if args.output == "json":
        return report_json(findings, sys.stdout)
    return report_text(findings, sys.stdout, style_of(sys.stdout))


def report_json(findings: Iterable[DoctorFinding], out: TextIO) -> int:
    listed = list(findings)
    can_run = not any(map(is_fatal, listed))
    report = {
        "version": __version__,
        "can_run": can_run,
        "findings": [finding._asdict() for finding in listed],
    }
    json.dump(report, out, indent=2)
    out.write("\n")
    return 0 if can_run else 1


def report_text(findings: Iterable[DoctorFinding], out: TextIO, style: Style) -> int:
    """Write each finding as soon as it is known, its fix below it."""
    fatal = 0
    for finding in findings:
        mark, colour = _mark(finding)
        out.write(f"{paint(mark, colour, style)}  {finding.name:{_NAME_WIDTH}}  {finding.detail}\n")
        if finding.fix and not finding.ok:
            margin = " " * (len(mark) + _NAME_WIDTH + 4)
            out.write(f"{margin}-> {finding.fix}\n".replace("\n    ", f"\n{margin}   "))
        out.flush()
        fatal += is_fatal(finding)
    summary = f"podtally cannot run here; requirements missing: {fatal}"
    out.write(f"{summary if fatal else 'podtally can run here'}\n")
    return 1 if fatal else 0


def _mark(finding: DoctorFinding) -> tuple[str, str]:
    if finding.ok:
        return "ok     ", GREEN
    if finding.ok is None:
        return "note   ", ""
    return ("MISSING", RED) if finding.fatal else ("warning", YELLOW)
