# SPDX-License-Identifier: Apache-2.0
"""``kubectl podtally explain``: explains a connection, and says where nodes disagree."""

import argparse
import sys
from collections.abc import Sequence

import msgspec

from podtally.api import schema
from podtally.commands.policies import explanation_text
from podtally.commands.shared.arguments import print_json
from podtally.commands.shared.tables import printable
from podtally.plugin import fleet
from podtally.plugin.agent_client import AgentClient, RefusedQueryError
from podtally.plugin.fleet import Fleet, NodeReply, UnreachableNode
from podtally.policy.model import ALLOWED, UNDECLARED

EPILOG = """\
examples:
  kubectl podtally explain shop/frontend shop/backend 3000
  kubectl podtally explain shop/backend 203.0.113.10 3306/TCP

Every agent explains what it knows now. They agree, except while policies or pods are changing,
and about hosts' own processes: the answer of most nodes is shown, then the nodes that differ.
Exit codes: 0 allowed or undeclared, 1 denied or unknown, nodes that differ, or a node that did
not answer, 2 usage error, or a fixable problem (no agent answers, an unknown endpoint).
"""


class DifferingNode(msgspec.Struct, frozen=True):
    node: str
    verdict: str
    reason: str


class ClusterExplanation(msgspec.Struct, frozen=True):
    """``nodes`` agree with ``explanation``."""

    explanation: schema.Explanation
    nodes: list[str]
    differing: list[DifferingNode]
    unreachable: list[UnreachableNode]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FROM", help="the endpoint that opens the connection")
    parser.add_argument("destination", metavar="TO", help="the endpoint that it connects to")
    parser.add_argument("port", metavar="PORT[/PROTO]", help="port and protocol (default: TCP)")


def main(args: argparse.Namespace, agents: Fleet) -> int:
    """Return 0 if the connection is allowed or undeclared, on all nodes, else 1."""
    query = {"from": args.source, "to": args.destination, "port": args.port}

    def ask(client: AgentClient) -> schema.Explanation | RefusedQueryError:
        try:
            return client.query(schema.EXPLAIN, schema.Explanation, **query)
        except RefusedQueryError as error:
            return error

    found = agents.each(ask)
    found.require()
    # A host's processes are known on that host only.
    refused = [reply for _, reply in found.replies if isinstance(reply, RefusedQueryError)]
    explained = [
        NodeReply(node, reply)
        for node, reply in found.replies
        if isinstance(reply, schema.Explanation)
    ]
    if not explained:
        raise refused[0]
    merged = merge(explained, found.unreachable)
    if args.output == "json":
        print_json(merged, sys.stdout)
    else:
        explanation_text.show(merged.explanation, sys.stdout)
        for each in merged.differing:
            text = printable(f"{each.verdict}: {each.reason}")
            print(f"\non node {printable(each.node)}: {text}")
    fleet.report_unreachable(merged.unreachable, sys.stderr)
    passes = merged.explanation.verdict in (ALLOWED, UNDECLARED)
    return 0 if passes and not merged.differing and not merged.unreachable else 1


def merge(
    replies: Sequence[NodeReply[schema.Explanation]], unreachable: list[UnreachableNode]
) -> ClusterExplanation:
    """Return the explanation of most nodes, and those that differ from it."""
    agreeing: dict[tuple[str, ...], list[NodeReply[schema.Explanation]]] = {}
    for each in replies:
        reply = each.reply
        key = (reply.verdict, reply.ingress, reply.egress, reply.reason)
        agreeing.setdefault(key, []).append(each)
    groups = sorted(agreeing.values(), key=len, reverse=True)
    differing = [
        DifferingNode(each.node, each.reply.verdict, each.reply.reason)
        for group in groups[1:]
        for each in group
    ]
    nodes = [each.node for each in groups[0]]
    return ClusterExplanation(groups[0][0].reply, nodes, differing, unreachable)
