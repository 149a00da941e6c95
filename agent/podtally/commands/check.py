# SPDX-License-Identifier: Apache-2.0
"""``podtally check``: lints policies, or runs test cases against them."""

import argparse
import sys
from collections.abc import Sequence
from typing import TextIO

import msgspec

from podtally.commands.policies import check_probes, live_cluster, policy_paths
from podtally.commands.policies.policy_paths import PolicyText
from podtally.commands.shared.arguments import add_cluster_file, add_output, print_json
from podtally.commands.shared.tables import BOLD, YELLOW, paint, printable, style_of
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

Reports, with file, line and field, what the API server would reject, and what it accepts but
is probably a mistake. With --cluster or --live it also reports selectors that match nothing
there, and namespaces without isolation. --live reads the cluster from the Kubernetes API and,
without PATH, its policies too.
With --probes it runs test cases instead: each probe is evaluated against the policies of its
case and of PATH, and reported if the verdict is not the expected one.
docs/policy.md describes the checks and the format of probes.
Exit codes: 0 fine, 1 findings (a probe differs, or a policy is unreadable), 2 usage error,
unreadable input, or a fixable problem.
"""


class CheckRow(msgspec.Struct, frozen=True):
    """A finding, in JSON."""

    file: str
    line: int
    object: str
    field: str
    check: str
    severity: str
    message: str


class CheckReport(msgspec.Struct, frozen=True):
    findings: list[CheckRow]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help="policy files and directories; - is standard input"
    )
    add_cluster_file(parser)
    live_cluster.add_arguments(parser, "the cluster and, without PATH, its policies")
    parser.add_argument("--probes", metavar="FILE", help="run test cases, in JSON or YAML")
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        choices=tuple(CHECKS),
        metavar="CHECK",
        help=f"skip a check: {', '.join(CHECKS)}; may be repeated",
    )
    add_output(parser)


def main(args: argparse.Namespace) -> int:
    """Return 0 if all is fine, 1 if there are findings, 2 if input is unreadable."""
    live_cluster.check_arguments(args)
    if args.probes is not None:
        if args.cluster or args.live or args.ignore:
            raise PodtallyError(
                "--probes cannot be combined with --cluster, --live or --ignore", "drop them"
            )
        return check_probes.run(args.probes, args.paths, args.output, sys.stdout)
    written, cluster = _read(args)
    found = [LintFinding(SCHEMA, problem) for problem in written.problems]
    found += [*unsupported_kinds(written.others), *lint(written.declared, cluster)]
    findings = _ordered([each for each in found if each.check not in args.ignore])
    if args.output == "json":
        print_json(CheckReport([_row(each) for each in findings]), sys.stdout)
    else:
        show(findings, written, sys.stdout)
    if written.lost:
        return 2
    return 1 if findings else 0


def _read(args: argparse.Namespace) -> tuple[PolicyText, ClusterModel | None]:
    if args.live and args.cluster:
        raise PodtallyError("--live and --cluster are both given", "drop one of them")
    if not args.live and not args.paths:
        example = "for example: podtally check policies/, or podtally check --live"
        raise PodtallyError("no policies given", example)
    if not args.live:
        cluster = policy_paths.read_cluster(args.cluster) if args.cluster else None
        return policy_paths.read_policies(args.paths), cluster
    if args.paths:
        written = policy_paths.read_policies(args.paths)
        return written, live_cluster.list_cluster(args)
    live = live_cluster.list_all(args)
    return live.written, live.cluster


def show(findings: Sequence[LintFinding], written: PolicyText, out: TextIO) -> None:
    """Write a line for each finding, its severity first, and a summary."""
    for check, problem in findings:
        line = printable(f"{problem.severity}: {problem} [{check}]")
        colour = BOLD if problem.severity == ERROR else YELLOW
        out.write(f"{paint(line, colour, style_of(out))}\n")
    errors = sum(each.problem.severity == ERROR for each in findings)
    warnings = len(findings) - errors
    read = f"{printable(written.place)}, policies: {len(written.declared)}"
    out.write(f"{read}, errors: {errors}, warnings: {warnings}\n")


def _ordered(findings: Sequence[LintFinding]) -> list[LintFinding]:
    """Return findings by file, in the files' order, and by line; those without a file last."""
    portless = {_place(each) for each in findings if each.check == PROTOCOL_WITHOUT_PORTS}
    errors = {_place(each) for each in findings if each.problem.severity == ERROR}
    ordered = []
    for check, problem in findings:
        place = _place(LintFinding(check, problem))
        if place in portless and check == SCHEMA:
            continue  # the other finding explains it better
        worst = ERROR if check == PROTOCOL_WITHOUT_PORTS and place in errors else problem.severity
        ordered.append(LintFinding(check, problem._replace(severity=worst)))
    sources = tuple(dict.fromkeys(each.problem.source for each in findings))
    rank = {source: number for number, source in enumerate(filter(None, sources))}
    return sorted(ordered, key=lambda e: (rank.get(e.problem.source, len(rank)), e.problem.line))


def _place(finding: LintFinding) -> tuple[str, int, str, str]:
    problem = finding.problem
    return problem.source, problem.line, problem.subject, problem.field


def _row(finding: LintFinding) -> CheckRow:
    check, problem = finding
    return CheckRow(
        file=problem.source,
        line=problem.line,
        object=problem.subject,
        field=problem.field,
        check=check,
        severity=problem.severity,
        message=problem.message,
    )
