# SPDX-License-Identifier: Apache-2.0
"""``kubectl podtally endpoints``: lists the endpoints of all nodes."""

import argparse
import sys

import msgspec

from podtally.api import schema
from podtally.commands import endpoints
from podtally.commands.shared.arguments import add_namespace, print_json
from podtally.commands.shared.tables import print_table
from podtally.plugin import fleet
from podtally.plugin.fleet import Fleet, UnreachableNode

EPILOG = """\
examples:
  kubectl podtally endpoints -n shop
  kubectl podtally endpoints --node worker-3 -o json

Lists the endpoint behind each watched interface, by node. SOURCE is what named it.
Exit codes: 0 there are endpoints, 1 there are none, or a node did not answer, 2 usage error, or
a fixable problem (no agent answers).
"""
_UNKNOWN = ("", "unknown")


class NodeEndpoint(schema.EndpointRow, frozen=True, kw_only=True):
    node: str


class ClusterEndpoints(msgspec.Struct, frozen=True):
    endpoints: list[NodeEndpoint]
    unreachable: list[UnreachableNode]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_namespace(parser, "endpoints")


def main(args: argparse.Namespace, agents: Fleet) -> int:
    """Return 0 if there are endpoints and every node answered, else 1."""
    found = agents.query(schema.ENDPOINTS, schema.Endpoints)
    found.require()
    rows = [
        NodeEndpoint(**msgspec.structs.asdict(row), node=node)
        for node, reply in found.replies
        for row in reply.endpoints
        if args.namespace in (None, row.namespace)
    ]
    rows.sort(key=lambda row: (row.node, row.interface, row.namespace, row.pod))
    if args.output == "json":
        print_json(ClusterEndpoints(rows, found.unreachable), sys.stdout)
    elif rows:
        marked = [row.waiting or row.pod in _UNKNOWN for row in rows]
        cells = [(row.node, *endpoints.cells(row)) for row in rows]
        print_table(("NODE", *endpoints.HEADS), cells, marked, sys.stdout)
    else:
        print("no endpoints", file=sys.stderr)
    fleet.report_unreachable(found.unreachable, sys.stderr)
    return 0 if rows and not found.unreachable else 1
