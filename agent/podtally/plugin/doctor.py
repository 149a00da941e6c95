# SPDX-License-Identifier: Apache-2.0
"""``kubectl podtally doctor``: runs ``podtally doctor`` on every node, and shows what is wrong."""

import argparse
import sys

import msgspec

from podtally.commands.shared.arguments import print_json
from podtally.commands.shared.tables import RED, YELLOW, paint, printable, style_of
from podtally.errors import PodtallyError
from podtally.plugin import fleet
from podtally.plugin.agent_client import AgentClient
from podtally.plugin.fleet import Fleet, UnreachableNode

EPILOG = """\
examples:
  kubectl podtally doctor
  kubectl podtally doctor --node worker-3 --all

Runs `podtally doctor` in each agent's container: needs the right to exec there. Findings that
several nodes share are shown once.
Exit codes: 0 podtally can run on all nodes, 1 findings: it cannot on one, or a node did not
answer, 2 usage error, or a fixable problem (no agent is found).
"""
_COMMAND = ("podtally", "doctor", "-o", "json")
_MAX_NODES = 5
_FINDINGS = (0, 1)  # exit codes with a report


class NodeFinding(msgspec.Struct, frozen=True):
    """A finding of ``podtally doctor``."""

    name: str
    ok: bool | None
    detail: str
    fix: str = ""
    fatal: bool = False


class NodeReport(msgspec.Struct, frozen=True):
    version: str
    can_run: bool
    findings: list[NodeFinding]


class NodeDoctor(msgspec.Struct, frozen=True):
    node: str
    report: NodeReport


class ClusterDoctor(msgspec.Struct, frozen=True):
    nodes: list[NodeDoctor]
    unreachable: list[UnreachableNode]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="also show what is in order")


def main(args: argparse.Namespace, agents: Fleet) -> int:
    """Return 0 if podtally can run on all nodes, else 1."""
    found = agents.each(_examine)
    found.require()
    report = ClusterDoctor([NodeDoctor(*each) for each in found.replies], found.unreachable)
    if args.output == "json":
        print_json(report, sys.stdout)
    else:
        _show(report, args.all)
    fleet.report_unreachable(found.unreachable, sys.stderr)
    can_run = all(each.report.can_run for each in report.nodes)
    return 0 if can_run and not found.unreachable else 1


def _examine(client: AgentClient) -> NodeReport:
    done = client.run(_COMMAND)
    try:
        if done.code in _FINDINGS:
            return msgspec.json.decode(done.out, type=NodeReport)
    except msgspec.DecodeError:
        pass
    error = done.error.decode(errors="replace").strip() or f"doctor ended with {done.code}"
    raise PodtallyError(error)


def _show(report: ClusterDoctor, everything: bool) -> None:
    style = style_of(sys.stdout)
    nodes_of: dict[NodeFinding, list[str]] = {}
    for node in report.nodes:
        for finding in node.report.findings:
            if everything or finding.ok is False:
                nodes_of.setdefault(finding, []).append(node.node)
    for finding, nodes in sorted(nodes_of.items(), key=lambda each: not each[0].fatal):
        mark, colour = ("ok", "") if finding.ok is not False else ("warning", YELLOW)
        if finding.fatal and finding.ok is False:
            mark, colour = "MISSING", RED
        more = f" and {len(nodes) - _MAX_NODES} more" if len(nodes) > _MAX_NODES else ""
        where = ", ".join(nodes[:_MAX_NODES]) + more
        line = printable(f"{finding.name}: {finding.detail} ({where})")
        print(f"{paint(f'{mark:7}', colour, style)}  {line}")
        if finding.fix and finding.ok is False:
            print(f"         -> {printable(finding.fix)}")
    able = sum(each.report.can_run for each in report.nodes)
    print(f"podtally can run on {able} of {len(report.nodes)} nodes")
