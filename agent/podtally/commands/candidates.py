# SPDX-License-Identifier: Apache-2.0
"""``podtally candidates``: shows what candidate policies would change for observed traffic."""

import argparse
import sys
from typing import TextIO

import msgspec

from podtally.api import schema
from podtally.commands.shared import agent_query
from podtally.commands.shared.arguments import add_namespace, print_json
from podtally.commands.shared.tables import print_table, printable
from podtally.errors import PodtallyError
from podtally.policy.model import ALLOWED, DENIED, UNDECLARED

_EPILOG = """\
examples:
  podtally run --policies policies/ --candidate next.yaml
  podtally run --policies policies/ --candidate-delete NetworkPolicy/shop/old
  podtally candidates --listen 127.0.0.1:9775

Queries the running agent. NOW is the present verdict, THEN the verdict with the candidates
applied: each replaces the policy of its name, or is added. POLICY is the one that would deny.
DIRECTION is the connection's, seen from the endpoint. Connections and bytes are sums since the
candidates last changed; on /metrics (podtally_candidate_...) older series stay until they expire.
Exit codes: 0 nothing observed would change, 1 something would, 2 usage error, unreadable
input (a candidate file), or a fixable problem (no agent answers, it has no candidates).
"""
_HEADS = (
    *("NOW", "THEN", "ENDPOINT", "DIRECTION", "PEER", "PROTOCOL", "PORT", "POLICY"),
    *("CONNECTIONS", "BYTES"),
)
_POD = "pod"
_PASSES = (ALLOWED, UNDECLARED)
_MAX_NAMES = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    agent_query.add_arguments(parser)
    add_namespace(parser, "workloads")


def main(args: argparse.Namespace) -> int:
    """Return 0 if the candidates would change nothing observed, 1 if they would."""
    reply = agent_query.query(agent_query.agent_address(args), schema.CANDIDATES, schema.Candidates)
    reply = of_namespace(reply, args.namespace)
    if args.output == "json":
        print_json(reply, sys.stdout)
    return report(reply, args.output == "text")


def of_namespace(reply: schema.Candidates, namespace: str | None) -> schema.Candidates:
    """Return the reply with the changes of one namespace; None: of all."""
    if namespace is None:
        return reply
    chosen = [row for row in reply.changes if row.namespace == namespace]
    return msgspec.structs.replace(reply, changes=chosen)


def report(reply: schema.Candidates, as_text: bool) -> int:
    """Write warnings and, ``as_text``, the table; return the exit code; PodtallyError."""
    if not reply.policies and not reply.deleted:
        raise PodtallyError(
            "the agent has no candidates",
            "start it with --candidate PATH or --candidate-delete NAME; files that were just "
            "written there are read within seconds",
        )
    _warn(reply)
    if as_text:
        show(reply, sys.stdout)
    if reply.stale:
        return 2
    return 1 if reply.changes else 0


def _warn(reply: schema.Candidates) -> None:
    for policy in reply.policies:
        if policy.unreadable:
            name = _name(policy)
            print(f"podtally: {name} is unreadable: {policy.unreadable}", file=sys.stderr)
    for each in reply.deleted:
        if not each.in_force:
            print(f"podtally: {_full(each)}: nothing to delete; check the name", file=sys.stderr)
    for file in reply.stale:
        print(
            f"podtally: {printable(file)} is unreadable; its last version is evaluated",
            file=sys.stderr,
        )


def show(reply: schema.Candidates, out: TextIO) -> None:
    """Write the table: what would newly be denied first, then what would newly pass."""
    if not reply.changes:
        names = [_name(each) for each in reply.policies]
        names += [f"without {_full(each)}" for each in reply.deleted]
        more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        listed = ", ".join(names[:_MAX_NAMES]) + more
        since = f" since {reply.since}" if reply.since else ""
        out.write(f"nothing observed would change{since}; candidates: {listed}\n")
        return
    ordered = sorted(reply.changes, key=lambda row: (_rank(row), -row.connections, -row.bytes))
    marked = [row.candidate == DENIED for row in ordered]
    print_table(_HEADS, [_cells(row) for row in ordered], marked, out)


def _rank(row: schema.CandidateRow) -> int:
    """Return the sort key: new denials first, then what would newly pass."""
    if row.candidate == DENIED:
        return 0
    passes = row.candidate in _PASSES and row.verdict not in _PASSES
    return 1 if passes else 2


def _cells(row: schema.CandidateRow) -> tuple[str, ...]:
    peer = "/".join(filter(None, (row.peer_namespace, row.peer_workload))) or row.peer_domain
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
