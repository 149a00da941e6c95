"""``podtally candidates``: what candidate policies would newly deny or allow of what was seen."""

import argparse
import sys
from typing import TextIO

import msgspec

from podtally.commands import asking
from podtally.commands.columns import print_columns
from podtally.errors import PodtallyError
from podtally.export import api
from podtally.policy.model import ALLOWED, DENIED, UNDECLARED

_EPILOG = """\
example:
  podtally run --policies policies/ --candidate next.yaml
  podtally candidates --listen 127.0.0.1:9775

Asks the running agent. NOW is the verdict as things are, THEN the one with the candidates
applied, each in the place of its namesake or beside the rest; POLICY is what would deny. The
direction is that of the connection as the endpoint sees it. Connections and bytes are sums, as
on /metrics (podtally_candidate_...): until they expire there, what earlier candidates made
is among them.
Exit codes: 0 the candidates would change nothing that was seen, 1 they would, 2 wrong use, no
agent answers, or it has no candidates.
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
    asking.add_arguments(parser)
    parser.add_argument(
        "-n", "--namespace", metavar="NAMESPACE", help="only workloads of this namespace"
    )


def main(args: argparse.Namespace) -> int:
    """Return 0 if the candidates would change nothing that was seen, 1 if they would."""
    told = asking.ask(asking.agent_address(args), api.CANDIDATES, api.Candidates)
    if args.namespace is not None:
        chosen = [row for row in told.changes if row.namespace == args.namespace]
        told = msgspec.structs.replace(told, changes=chosen)
    if args.output == "json":
        asking.print_json(told, sys.stdout)
    if not told.policies:
        raise PodtallyError("the agent has no candidates", "start it with --candidate PATH")
    if args.output != "json":
        for each in told.policies:
            if each.unreadable:
                print(f"podtally: {_name(each)} cannot be read: {each.unreadable}", file=sys.stderr)
        show(told, sys.stdout)
    return 1 if told.changes else 0


def show(told: api.Candidates, out: TextIO) -> None:
    """Write the table: what would newly be denied first, then what would newly pass."""
    if not told.changes:
        names = [_name(each) for each in told.policies]
        more = f" and {len(names) - _NAMES_TOLD} more" if len(names) > _NAMES_TOLD else ""
        listed = ", ".join(names[:_NAMES_TOLD]) + more
        out.write(f"nothing that was seen would change; candidates: {listed}\n")
        return
    ordered = sorted(told.changes, key=lambda row: (_rank(row), -row.connections, -row.bytes))
    denied = [row.candidate == DENIED for row in ordered]
    print_columns(_HEADS, [_words(row) for row in ordered], denied, out)


def _rank(row: api.CandidateRow) -> int:
    """What somebody has to look at first."""
    if row.candidate == DENIED:
        return 0
    passes = row.candidate in _PASSES and row.verdict not in _PASSES
    return 1 if passes else 2


def _words(row: api.CandidateRow) -> tuple[str, ...]:
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


def _name(each: api.CandidatePolicy) -> str:
    return f"{each.namespace}/{each.name}" if each.namespace else f"{each.kind}/{each.name}"
