# SPDX-License-Identifier: Apache-2.0
"""``podtally audit``: compares what policies say with what became of observed connections."""

import argparse
import sys
from collections import Counter, defaultdict
from typing import TextIO

import msgspec

from podtally.api import schema
from podtally.commands.shared import agent_query
from podtally.commands.shared.arguments import add_namespace, print_json
from podtally.commands.shared.tables import print_table

_EPILOG = """\
examples:
  podtally audit
  podtally audit -n shop
  podtally audit -o json | jq '.findings'

Queries the running agent. For each policy in force: the connections it decided at endpoints of
this host since the counters began, and what became of them.
  NOT-ENFORCED  policy denies them, and they were answered: the cluster does not enforce the policy
  ENFORCED      policy denies them, and they were refused, rejected or not answered
  BLOCKED       policy allows them, and something else stopped them: a firewall's ICMP error, or
                repeated SYNs that nothing in the cluster answered
  UNAVAILABLE   policy allows them, and the node rejected them: the Service has no endpoints
  PASSED        policy allows them, and they were answered
  INCONCLUSIVE  not decidable from one end: a silent host outside, a protocol that need not answer,
                a connection that was under way before it was watched, or opened within 10 s of a
                change of its policies
  ONE-END       of the connections judged, those with only one end on this host
What is dropped before it reaches a server's interface is seen at its client only: there it counts
for the server's policy, if the client is on this host. Below the table is what the counts do not
show: where only one end is on this host, silence may be a policy's, or a dead peer's.
Exit codes: 0 no findings, 1 something is not enforced or blocked, 2 usage error, or a fixable
problem (no agent answers).
"""
_RESULTS = ("not_enforced", "blocked", "unavailable", "enforced", "passed", "inconclusive")
_FINDINGS = _RESULTS[:2]
_HEADS = (
    *("POLICY", "JUDGED", *(each.replace("_", "-").upper() for each in _RESULTS)),
    *("ONE-END", "NOTE"),
)
_FINDING_HEADS = (
    *("RESULT", "ENDPOINT", "DIRECTION", "PEER", "PROTOCOL", "PORT"),
    *("VERDICT", "CONNECTIONS"),
)
_NEVER = "never-exercised"
_POD, _ONE_END = "pod", "one"


class AuditLine(msgspec.Struct, frozen=True):
    """One policy, with its connections by result."""

    policy: str
    judged: int
    results: dict[str, int]
    one_end: dict[str, int]  # of these, connections with only one end on the host of the agent
    never_exercised: bool


class AuditReport(msgspec.Struct, frozen=True):
    policies: list[AuditLine]
    findings: list[schema.AuditFinding]
    limits: list[str]  # what cannot be concluded from this host alone


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    agent_query.add_arguments(parser)
    add_namespace(parser, "policies and endpoints")


def main(args: argparse.Namespace) -> int:
    """Return 0 if nothing is found, 1 if a verdict is not enforced or traffic is blocked."""
    reply = agent_query.query(agent_query.agent_address(args), schema.AUDIT, schema.Audit)
    report = audit_report(reply, args.namespace)
    if args.output == "json":
        print_json(report, sys.stdout)
    else:
        show(report, sys.stdout)
    return 1 if report.findings else 0


def audit_report(reply: schema.Audit, namespace: str | None) -> AuditReport:
    """Return each policy with its results; of one namespace, or of all.

    Connections that several policies isolate together count for each of them.
    """
    names = [
        each.name
        for each in reply.policies
        if namespace is None or each.namespace in (namespace, "")
    ]
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    one_end: dict[str, Counter[str]] = defaultdict(Counter)
    for sums in reply.results:
        if namespace is None or sums.namespace == namespace:
            for name in sums.policy.split(","):
                counts.setdefault(name, Counter())[sums.result] += sums.connections
                one_end[name][sums.result] += sums.connections * (sums.ends == _ONE_END)
    lines = [
        AuditLine(
            name, found.total(), _all_results(found), _all_results(one_end[name]), not found.total()
        )
        for name, found in counts.items()
        if not name.startswith("+")  # that many more, which the agent does not name
    ]
    findings = [each for each in reply.findings if namespace in (None, each.namespace)]
    findings.sort(key=lambda each: (_FINDINGS.index(each.result), -each.connections))
    lines.sort(key=lambda line: ([-line.results[each] for each in _FINDINGS], line.policy))
    return AuditReport(lines, findings, _limits(lines))


def _all_results(found: Counter[str]) -> dict[str, int]:
    return {each: found[each] for each in _RESULTS}


def _limits(lines: list[AuditLine]) -> list[str]:
    """Say what the counts of policies leave open, as far as it applies."""
    one_end = {each: sum(line.one_end[each] for line in lines) for each in _RESULTS}
    never = sum(line.never_exercised for line in lines)
    notes = (
        (
            one_end["not_enforced"],
            "not enforced: {} with only one end here. Certain all the same: packets that policy "
            "denies were answered",
        ),
        (
            one_end["enforced"],
            "enforced: {} with only one end here. A peer that is down or closed looks the same",
        ),
        (
            one_end["blocked"],
            "blocked: {} with only one end here. The peer may be down: see the other end's node",
        ),
        (
            never,
            "never exercised: {}. No connection that they decide was seen at either end here, so "
            "it is not known whether they are enforced",
        ),
    )
    return [text.format(f"{number:,}") for number, text in notes if number]


def show(report: AuditReport, out: TextIO) -> None:
    """Write the findings, then the table of policies."""
    if not report.policies:
        out.write("no policy is in force here, so there is nothing to enforce\n")
    if report.findings:
        rows = [_finding(each) for each in report.findings]
        marked = [each.result == _FINDINGS[0] for each in report.findings]
        print_table(_FINDING_HEADS, rows, marked, out)
        out.write("\n")
    if report.policies:
        cells = [_cells(line) for line in report.policies]
        marked = [bool(line.results[_FINDINGS[0]]) for line in report.policies]
        print_table(_HEADS, cells, marked, out)
    if report.limits:
        out.write("\n" + "".join(f"{each}\n" for each in report.limits))


def _cells(line: AuditLine) -> tuple[str, ...]:
    numbers = (str(line.results[each]) for each in _RESULTS)
    one_end = str(sum(line.one_end.values()))
    note = _NEVER if line.never_exercised else ""
    return (line.policy, str(line.judged), *numbers, one_end, note)


def _finding(found: schema.AuditFinding) -> tuple[str, ...]:
    peer = "/".join(filter(None, (found.peer_namespace, found.peer_workload)))
    if found.peer_kind != _POD or not peer:
        peer = ":".join(filter(None, (found.peer_kind, peer)))
    return (
        found.result,
        f"{found.namespace}/{found.workload}",
        found.direction,
        peer,
        found.protocol,
        found.port,
        found.verdict,
        str(found.connections),
    )
