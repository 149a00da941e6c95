# SPDX-License-Identifier: Apache-2.0
"""``kubectl podtally health``: checks every agent of a cluster."""

import argparse
import http.client
import sys

import msgspec

from podtally.commands.shared.arguments import print_json
from podtally.commands.shared.tables import print_table
from podtally.plugin.agent_client import AgentClient
from podtally.plugin.fleet import Fleet

EPILOG = """\
examples:
  kubectl podtally health
  kubectl podtally health --live --node worker-3

Asks each agent for /readyz: it counts, its threads run, and counts are saved.
Exit codes: 0 all are healthy, 1 one is not, or did not answer, 2 usage error, or a fixable
problem (no agent is found).
"""
_HEADS = ("NODE", "STATE", "PROBLEM")


class NodeHealth(msgspec.Struct, frozen=True):
    node: str
    state: str  # ok, unhealthy, unreachable
    problem: str


class ClusterHealth(msgspec.Struct, frozen=True):
    nodes: list[NodeHealth]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--live", action="store_true", help="query /livez, not /readyz")


def main(args: argparse.Namespace, agents: Fleet) -> int:
    """Return 0 if all agents are healthy, else 1."""

    def ask(client: AgentClient) -> str:
        status, body = client.get("/livez" if args.live else "/readyz")
        text = body.decode(errors="replace").strip()
        return "" if status == http.client.OK else text or f"status {status}"

    found = agents.each(ask)
    rows = [
        NodeHealth(node, "unhealthy" if problem else "ok", problem)
        for node, problem in found.replies
    ]
    rows += [NodeHealth(each.node, "unreachable", each.problem) for each in found.unreachable]
    rows.sort(key=lambda row: (row.state == "ok", row.node))
    if args.output == "json":
        print_json(ClusterHealth(rows), sys.stdout)
    else:
        cells = [(row.node, row.state, row.problem) for row in rows]
        marked = [row.state != "ok" for row in rows]
        print_table(_HEADS, cells, marked, sys.stdout, text_last=True)
    return 0 if all(row.state == "ok" for row in rows) else 1
