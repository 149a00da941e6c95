# SPDX-License-Identifier: Apache-2.0
"""``kubectl podtally candidates``: shows what candidate policies would change in a cluster."""

import argparse
import sys
from collections.abc import Iterable, Sequence

import msgspec

from podtally.api import schema
from podtally.commands import candidates
from podtally.commands.shared.arguments import add_namespace, print_json
from podtally.plugin import fleet
from podtally.plugin.fleet import Fleet, NodeReply, UnreachableNode

EPILOG = """\
example:
  kubectl podtally candidates -n shop

Sums up what all agents observed since the candidates last changed; a connection between two pods
counts once. Otherwise as `podtally candidates`.
Exit codes: 0 nothing observed would change, 1 something would, or a node did not answer, 2 usage
error, unreadable input (a candidate file), or a fixable problem (no agent answers).
"""
_POD = "pod"
_SUMS = ("connections", "bytes")
_LABELS = tuple(name for name in schema.CandidateRow.__struct_fields__ if name not in _SUMS)
_TURNED = {"egress": "ingress", "ingress": "egress"}


class ClusterCandidates(schema.Candidates, frozen=True, kw_only=True):
    unreachable: list[UnreachableNode]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_namespace(parser, "workloads")


def main(args: argparse.Namespace, agents: Fleet) -> int:
    """Return the exit code of ``podtally candidates``, or 1 if a node did not answer."""
    found = agents.query(schema.CANDIDATES, schema.Candidates)
    found.require()
    reply = candidates.of_namespace(merge(found.replies), args.namespace)
    if args.output == "json":
        fields = msgspec.structs.asdict(reply)
        print_json(ClusterCandidates(**fields, unreachable=found.unreachable), sys.stdout)
    fleet.report_unreachable(found.unreachable, sys.stderr)
    code = candidates.report(reply, args.output == "text")
    return code or (1 if found.unreachable else 0)


def merge(replies: Sequence[NodeReply[schema.Candidates]]) -> schema.Candidates:
    """Return the union of the candidates, and the sums of what they would change."""
    answers = [each.reply for each in replies]
    in_force = {_name(each) for reply in answers for each in reply.deleted if each.in_force}
    deletions = {_name(each): each for reply in answers for each in reply.deleted}
    return schema.Candidates(
        policies=list(dict.fromkeys(each for reply in answers for each in reply.policies)),
        changes=_summed(row for reply in answers for row in reply.changes),
        deleted=[schema.CandidateDeletion(*name, in_force=name in in_force) for name in deletions],
        stale=list(dict.fromkeys(file for reply in answers for file in reply.stale)),
        since=max((reply.since for reply in answers), default=""),  # on the node that came last
    )


def _name(each: schema.CandidateDeletion) -> tuple[str, str, str]:
    return each.kind, each.namespace, each.name


def _summed(rows: Iterable[schema.CandidateRow]) -> list[schema.CandidateRow]:
    """Return one row for each label set; a connection between two pods only at its opener."""
    sums: dict[tuple[str, ...], schema.CandidateRow] = {}
    for row in rows:
        key = _labels(row)
        before = sums.get(key)
        if before is not None:
            row = msgspec.structs.replace(  # noqa: PLW2901
                row,
                connections=row.connections + before.connections,
                bytes=row.bytes + before.bytes,
            )
        sums[key] = row
    return [row for row in sums.values() if not _is_other_end(row, sums)]


def _is_other_end(
    row: schema.CandidateRow, sums: dict[tuple[str, ...], schema.CandidateRow]
) -> bool:
    """Return whether the opener's row counts the same connections, or more."""
    if row.peer_kind != _POD or row.direction != "ingress":
        return False
    opener = sums.get(_labels(_turned(row)))
    return opener is not None and opener.connections >= row.connections


def _turned(row: schema.CandidateRow) -> schema.CandidateRow:
    return msgspec.structs.replace(
        row,
        namespace=row.peer_namespace,
        workload=row.peer_workload,
        direction=_TURNED[row.direction],
        peer_namespace=row.namespace,
        peer_workload=row.workload,
    )


def _labels(row: schema.CandidateRow) -> tuple[str, ...]:
    return tuple(getattr(row, name) for name in _LABELS)
