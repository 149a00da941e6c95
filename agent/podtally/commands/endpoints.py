# SPDX-License-Identifier: Apache-2.0
"""``podtally endpoints``: the table of who is behind each watched interface."""

import argparse
import sys
from collections.abc import Sequence
from typing import TextIO

from podtally.api import schema
from podtally.commands import agent_query
from podtally.commands.columns import print_columns

_EPILOG = """\
example:
  podtally endpoints --listen 127.0.0.1:9775

Asks the running agent. SOURCE tells how an endpoint was found, SINCE from when on it was;
`waiting` means that its name may still come, and its flows are held back for it.
Exit codes: 0 there are endpoints, 1 there are none, 2 wrong use or no agent answers.
"""
_HEADS = ("INTERFACE", "NAMESPACE", "POD", "WORKLOAD", "KIND", "SOURCE", "SINCE", "ADDRESSES")
_UNKNOWN = "unknown"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    agent_query.add_arguments(parser)
    parser.add_argument(
        "-n", "--namespace", metavar="NAMESPACE", help="only endpoints of this namespace"
    )


def main(args: argparse.Namespace) -> int:
    """Return 0 if there are endpoints, 1 if there are none."""
    told = agent_query.query(agent_query.agent_address(args), schema.ENDPOINTS, schema.Endpoints)
    if args.namespace is not None:
        chosen = [row for row in told.endpoints if row.namespace == args.namespace]
        told = schema.Endpoints(chosen)
    if args.output == "json":
        agent_query.print_json(told, sys.stdout)
    elif told.endpoints:
        show(told.endpoints, sys.stdout)
    else:
        where = "" if args.namespace is None else f" with an endpoint of {args.namespace!r}"
        print(f"no interface{where} is watched", file=sys.stderr)
    return 0 if told.endpoints else 1


def show(rows: Sequence[schema.EndpointRow], out: TextIO) -> None:
    """Write the table, by interface; who has no name yet, or none at all, stands out."""
    ordered = sorted(rows, key=lambda row: (row.interface, row.namespace, row.pod))
    doubtful = [row.waiting or row.pod in ("", _UNKNOWN) for row in ordered]
    print_columns(_HEADS, [_words(row) for row in ordered], doubtful, out)


def _words(row: schema.EndpointRow) -> tuple[str, ...]:
    return (
        row.interface or f"ifindex:{row.ifindex}",
        row.namespace,
        row.pod,
        row.workload,
        row.workload_kind,
        f"{row.source},waiting" if row.waiting else row.source,
        row.since,
        ",".join(row.addresses),
    )
