# SPDX-License-Identifier: Apache-2.0
"""``podtally check``: what is wrong with policies, and whether they do what tests expect."""

import argparse
import sys
from collections.abc import Sequence
from typing import TextIO

import msgspec

from podtally.commands import check_probes, live_cluster, policy_paths
from podtally.commands.arguments import add_output
from podtally.commands.columns import BOLD, YELLOW, printable, wants_colour
from podtally.commands.policy_paths import PolicyText
from podtally.errors import PodtallyError
from podtally.policy.cluster.model import ClusterModel
from podtally.policy.lint.checks import lint, unsupported_kinds
from podtally.policy.lint.findings import CHECKS, PROTOCOL_WITHOUT_PORTS, SCHEMA, LintFinding
from podtally.policy.problems import ERROR

_EPILOG = """\
examples:
  podtally check policies/
  podtally check policies/ --cluster cluster.yaml --ignore unisolated
  kubectl get networkpolicies -A -o yaml | podtally check -
  podtally check --live --kube-context staging
  podtally check --probes tests.json policies/ --output json

Without --probes: tells what the API server would refuse, with file, line and field, and what
it takes but should not stand so; with --cluster also selectors that mean nobody there, and
namespaces that nothing isolates. With --live the cluster is the one that the Kubernetes API
tells of; without paths the policies are those that are applied there. With --probes: asks each
probe of the file's cases, by their policies and those of the paths, and tells which verdicts
are not the expected ones.
The checks, and the format of probes, are in docs/policy.md.
Exit codes: 0 fine, 1 findings (a probe differs, a policy cannot be read), 2 wrong use, or a
file or an API that cannot be read.
"""


class CheckRow(msgspec.Struct, frozen=True):
    """A finding in JSON."""

    file: str
    line: int
    object: str
    field: str
    check: str
    severity: str
    message: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help="files and folders of policies; - is stdin"
    )
    parser.add_argument(
        "--cluster",
        action="append",
        default=[],
        metavar="FILE",
        help="namespaces, nodes and pods, as kubectl get -o yaml tells them; may be repeated",
    )
    live_cluster.add_arguments(parser, "namespaces, nodes and pods, and without PATH for policies")
    parser.add_argument("--probes", metavar="FILE", help="cases of tests, in JSON or YAML")
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        choices=tuple(CHECKS),
        metavar="CHECK",
        help=f"one of: {', '.join(CHECKS)}; may be repeated",
    )
    add_output(parser)


def main(args: argparse.Namespace) -> int:
    """Return 0 if all is fine, 1 if there are findings, 2 if text cannot be read."""
    live_cluster.check_arguments(args)
    if args.probes is not None:
        if args.cluster or args.live or args.ignore:
            raise PodtallyError(
                "--probes goes with neither --cluster, --live nor --ignore", "drop them"
            )
        return check_probes.run(args.probes, args.paths, args.output, sys.stdout)
    written, world = _read(args)
    found = [LintFinding(SCHEMA, problem) for problem in written.problems]
    found += [*unsupported_kinds(written.others), *lint(written.declared, world)]
    told = _ordered([each for each in found if each.check not in args.ignore])
    if args.output == "json":
        rows = msgspec.json.encode([_row(each) for each in told])
        sys.stdout.write(msgspec.json.format(rows, indent=2).decode() + "\n")
    else:
        show(told, written, sys.stdout)
    if written.lost:
        return 2
    return 1 if told else 0


def _read(args: argparse.Namespace) -> tuple[PolicyText, ClusterModel | None]:
    if args.live and args.cluster:
        raise PodtallyError("--live and --cluster are two clusters", "drop one")
    if not args.live and not args.paths:
        example = "for example: podtally check policies/, or podtally check --live"
        raise PodtallyError("no policies are named", example)
    if not args.live:
        world = policy_paths.read_cluster(args.cluster) if args.cluster else None
        return policy_paths.read_policies(args.paths), world
    if args.paths:
        written = policy_paths.read_policies(args.paths)
        return written, live_cluster.list_cluster(args)
    live = live_cluster.list_all(args)
    return live.written, live.world


def show(findings: Sequence[LintFinding], written: PolicyText, out: TextIO) -> None:
    """Write a line for each, its severity first, and one that sums them up."""
    colours = wants_colour(out)
    for check, problem in findings:
        words = printable(f"{problem.severity}: {problem} [{check}]")
        paint = BOLD if problem.severity == ERROR else YELLOW
        out.write(f"\x1b[{paint}m{words}\x1b[0m\n" if colours else f"{words}\n")
    errors = sum(each.problem.severity == ERROR for each in findings)
    warnings = len(findings) - errors
    read = f"{printable(written.place)}, policies: {len(written.declared)}"
    out.write(f"{read}, errors: {errors}, warnings: {warnings}\n")


def _ordered(findings: Sequence[LintFinding]) -> list[LintFinding]:
    """By place: the files in their order, and what has no place last."""
    portless = {_place(each) for each in findings if each.check == PROTOCOL_WITHOUT_PORTS}
    errors = {_place(each) for each in findings if each.problem.severity == ERROR}
    told = []
    for check, problem in findings:
        place = _place(LintFinding(check, problem))
        if place in portless and check == SCHEMA:
            continue  # has been told in better words
        worst = ERROR if check == PROTOCOL_WITHOUT_PORTS and place in errors else problem.severity
        told.append(LintFinding(check, problem._replace(severity=worst)))
    sources = tuple(dict.fromkeys(each.problem.source for each in findings))
    rank = {source: number for number, source in enumerate(filter(None, sources))}
    return sorted(told, key=lambda e: (rank.get(e.problem.source, len(rank)), e.problem.line))


def _place(finding: LintFinding) -> tuple[str, int, str, str]:
    problem = finding.problem
    return problem.source, problem.line, problem.subject, problem.field


def _row(finding: LintFinding) -> CheckRow:
    check, problem = finding
    return CheckRow(
        problem.source,
        problem.line,
        problem.subject,
        problem.field,
        check,
        problem.severity,
        problem.message,
    )
