# SPDX-License-Identifier: Apache-2.0
"""``podtally endpoints``: lists the endpoint behind each watched interface."""

import argparse
import sys
from collections.abc import Sequence
from typing import TextIO

from podtally.api import schema
from podtally.commands.shared import agent_query
from podtally.commands.shared.arguments import add_namespace, print_json
from podtally.commands.shared.tables import print_table

_EPILOG = """\
example:
  podtally endpoints --listen 127.0.0.1:9775

Queries the running agent. SOURCE is what named the endpoint, SINCE when its interface appeared;
`waiting`: its name may still arrive, and its flows are held back until then.
Exit codes: 0 there are endpoints, 1 there are none, 2 usage error, or a fixable problem (no
agent answers).
"""
HEADS = ("INTERFACE", "NAMESPACE", "POD", "WORKLOAD", "KIND", "SOURCE", "SINCE", "ADDRESSES")
_UNKNOWN = "unknown"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    agent_query.add_arguments(parser)
    add_namespace(parser, "endpoints")


def main(args: argparse.Namespace) -> int:
    """Return 0 if there are endpoints, 1 if there are none."""
    reply = agent_query.query(agent_query.agent_address(args), schema.ENDPOINTS, schema.Endpoints)
    if args.namespace is not None:
        chosen = [row for row in reply.endpoints if row.namespace == args.namespace]
        reply = schema.Endpoints(chosen)
    if args.output == "json":
        print_json(reply, sys.stdout)
    elif reply.endpoints:
        show(reply.endpoints, sys.stdout)
    else:
        where = "" if args.namespace is None else f" in namespace {args.namespace!r}"
        print(f"no endpoints{where}", file=sys.stderr)
    return 0 if reply.endpoints else 1


def show(rows: Sequence[schema.EndpointRow], out: TextIO) -> None:
    """Write the table, by interface; endpoints without a name stand out."""
    ordered = sorted(rows, key=lambda row: (row.interface, row.namespace, row.pod))
    marked = [row.waiting or row.pod in ("", _UNKNOWN) for row in ordered]
    print_table(HEADS, [cells(row) for row in ordered], marked, out)


def cells(row: schema.EndpointRow) -> tuple[str, ...]:
    return (
        row.interface or (f"ifindex:{row.ifindex}" if row.ifindex else ""),
        row.namespace,
        row.pod,
        row.workload,
        row.workload_kind,
        f"{row.source},waiting" if row.waiting else row.source,
        row.since,
        ",".join(row.addresses),
    )
