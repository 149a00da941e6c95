# SPDX-License-Identifier: Apache-2.0
"""``kubectl podtally flows``: queries the histories of all nodes, and adds up their rows."""

import argparse
import datetime
import sys
from collections.abc import Sequence
from typing import Any

from podtally.api import schema
from podtally.commands import flows
from podtally.commands.stored import flow_output
from podtally.plugin import fleet
from podtally.plugin.agent_client import AgentClient
from podtally.plugin.fleet import Fleet, NodeReply

HAS_OUTPUT = True  # arguments for the output's shape of its own
EPILOG = """\
examples:
  kubectl podtally flows --verdict denied --since yesterday
  kubectl podtally flows --with 203.0.113.10 --by workload,address --since 7d
  kubectl podtally flows --to internet --since 'this month' --by namespace --cost
  kubectl podtally flows --from shop/web --by node,peer

As `podtally flows`, over the histories of all nodes: rows with the same labels are one, their sums
added up. A connection between two pods is in the history of both ends. --new: not in the earlier
history of that node. Without --by, or with --connections, there may be very many rows.
Exit codes: 0 fine, 1 nothing found, or a node did not answer, 2 usage error, or a fixable problem
(no agent answers).
"""
_COUNTS, _AMOUNTS = ("connections", "cost_dollars"), ("bytes", "packets")
_TIMES = ("first", "last")
NODE = "node"  # a label; as the cluster names it
_Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flows.add_query(parser)


def main(args: argparse.Namespace, agents: Fleet) -> int:
    """Return 0 if something is found and every node answered, else 1."""
    words = flows.query_words(args, datetime.datetime.now().astimezone())
    top = int(words.pop("top", ["0"])[0])  # of the sums, not of each node

    def ask(client: AgentClient) -> schema.Flows:
        return client.query(schema.FLOWS, schema.Flows, **words)

    found = agents.each(ask)
    found.require()
    merged = merge(found.replies, words.get("order", ["bytes"])[0], top)
    flow_output.show(merged, args.output, args.cost, sys.stdout)
    fleet.report_unreachable(found.unreachable, sys.stderr)
    return 0 if merged.rows and not found.unreachable else 1


def merge(replies: Sequence[NodeReply[schema.Flows]], order: str, top: int) -> schema.Flows:
    """Return the sums over all nodes, the largest first; ``top`` 0: all."""
    sums: dict[tuple[tuple[str, str], ...], _Row] = {}
    for node, reply in replies:
        for said in reply.rows:
            row = {**said, NODE: node} if NODE in said else said
            labels = tuple((name, text) for name, text in row.items() if isinstance(text, str))
            key = tuple(each for each in labels if each[0] not in _TIMES)
            before = sums.get(key)
            sums[key] = dict(row) if before is None else _added(before, row)
    rows = sorted(sums.values(), key=lambda row: _size(row, order), reverse=True)
    return schema.Flows(
        min(reply.since for _, reply in replies),
        max(reply.until for _, reply in replies),
        rows[:top] if top else rows,
        len(rows),
    )


def _added(one: _Row, other: _Row) -> _Row:
    added = dict(one)
    for name in _COUNTS:
        if name in one:
            added[name] = one[name] + other[name]
    for name in _AMOUNTS:
        added[name] = {way: one[name][way] + other[name][way] for way in one[name]}
    added["first"], added["last"] = (
        min(one["first"], other["first"]),
        max(one["last"], other["last"]),
    )
    return added


def _size(row: _Row, order: str) -> Any:
    value = row["cost_dollars" if order == "cost" else order]
    return sum(value.values()) if isinstance(value, dict) else value
