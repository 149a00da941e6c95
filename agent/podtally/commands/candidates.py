# SPDX-License-Identifier: Apache-2.0
"""``podtally candidates``: what candidate policies would newly deny or allow of what was seen."""

import argparse
import sys
from typing import TextIO

import msgspec

from podtally.api import schema
from podtally.commands import agent_query
from podtally.commands.columns import print_columns, printable
from podtally.errors import PodtallyError
from podtally.policy.model import ALLOWED, DENIED, UNDECLARED

_EPILOG = """\
example:
  podtally run --policies policies/ --candidate next.yaml
  podtally run --policies policies/ --candidate-delete NetworkPolicy/shop/old
  podtally candidates --listen 127.0.0.1:9775

Asks the running agent. NOW is the verdict as things are, THEN the one with the candidates
applied, each in the place of its namesake or beside the rest; POLICY is what would deny. The
direction is that of the connection as the endpoint sees it. Connections and bytes are sums since
the candidates are what they are; on /metrics (podtally_candidate_...) the series of earlier ones
stay until they expire.
Exit codes: 0 the candidates would change nothing that was seen, 1 they would, 2 wrong use, no
agent answers, it has no candidates, or a file of theirs cannot be read any more.
"""
_HEADS = (
    *("NOW", "THEN", "ENDPOINT", "DIRECTION", "PEER", "PROTOCOL", "PORT", "POLICY"),
    *("CONNECTIONS", "BYTES"),
)
_POD = "pod"
_PASSES = (ALLOWED, UNDECLARED)
_NAMES_TOLD = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    agent_query.add_arguments(parser)
    parser.add_argument(
        "-n", "--namespace", metavar="NAMESPACE", help="only workloads of this namespace"
    )


def main(args: argparse.Namespace) -> int:
    """Return 0 if the candidates would change nothing that was seen, 1 if they would."""
    told = agent_query.query(agent_query.agent_address(args), schema.CANDIDATES, schema.Candidates)
    if args.namespace is not None:
        chosen = [row for row in told.changes if row.namespace == args.namespace]
        told = msgspec.structs.replace(told, changes=chosen)
    if args.output == "json":
        agent_query.print_json(told, sys.stdout)
    if not told.policies and not told.deleted:
        raise PodtallyError("the agent has no candidates", "start it with --candidate PATH")
    _warn(told)
    if args.output != "json":
        show(told, sys.stdout)
    if told.stale:
        return 2
    return 1 if told.changes else 0


def _warn(told: schema.Candidates) -> None:
    for policy in told.policies:
        if policy.unreadable:
            name = _name(policy)
            print(f"podtally: {name} cannot be read: {policy.unreadable}", file=sys.stderr)
    for each in told.deleted:
        if not each.in_force:
            print(f"podtally: {_full(each)}: nothing to delete; check the name", file=sys.stderr)
    for file in told.stale:
        print(
            f"podtally: {printable(file)} cannot be read; an earlier version of it is tried",
            file=sys.stderr,
        )


def show(told: schema.Candidates, out: TextIO) -> None:
    """Write the table: what would newly be denied first, then what would newly pass."""
    if not told.changes:
        names = [_name(each) for each in told.policies]
        names += [f"without {_full(each)}" for each in told.deleted]
        more = f" and {len(names) - _NAMES_TOLD} more" if len(names) > _NAMES_TOLD else ""
        listed = ", ".join(names[:_NAMES_TOLD]) + more
        out.write(f"nothing that was seen would change; candidates: {listed}\n")
        return
    ordered = sorted(told.changes, key=lambda row: (_rank(row), -row.connections, -row.bytes))
    denied = [row.candidate == DENIED for row in ordered]
    print_columns(_HEADS, [_words(row) for row in ordered], denied, out)


def _rank(row: schema.CandidateRow) -> int:
    """What somebody has to look at first."""
    if row.candidate == DENIED:
        return 0
    passes = row.candidate in _PASSES and row.verdict not in _PASSES
    return 1 if passes else 2


def _words(row: schema.CandidateRow) -> tuple[str, ...]:
    peer = "/".join(filter(None, (row.peer_namespace, row.peer_workload)))
    if row.peer_kind != _POD or not peer:
        peer = ":".join(filter(None, (row.peer_kind, peer)))
    return (
        row.verdict,
        row.candidate,
        f"{row.namespace}/{row.workload}",
        row.direction,
        peer,
        row.protocol,
        row.port,
        row.policy,
        str(row.connections),
        str(row.bytes),
    )


def _name(each: schema.CandidatePolicy) -> str:
    return f"{each.namespace}/{each.name}" if each.namespace else f"{each.kind}/{each.name}"


def _full(each: schema.CandidateDeletion) -> str:
    return "/".join(filter(None, (each.kind, each.namespace, each.name)))
