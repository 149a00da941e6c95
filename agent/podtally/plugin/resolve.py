# SPDX-License-Identifier: Apache-2.0
"""``kubectl podtally resolve``: shows the owners of an address, and the addresses of a domain name.

As the nodes know them, now or at a given time.
"""

import argparse
import sys
from collections.abc import Sequence

import msgspec

from podtally.api import schema
from podtally.api.dns_schema import NameAnswer, NameAnswers
from podtally.commands import resolve
from podtally.commands.shared.arguments import print_json
from podtally.commands.shared.tables import print_table, printable
from podtally.plugin import fleet
from podtally.plugin.fleet import Fleet, NodeReply, UnreachableNode

EPILOG = """\
examples:
  kubectl podtally resolve 10.0.0.7
  kubectl podtally resolve 10.0.0.7 --at '5m ago'
  kubectl podtally resolve api.example.com

Queries all nodes: each knows the pods of the API, and more of its own. SCOPE is as seen from the
nearest node that knows the owner; NODES is how many know it.
Of a domain name: which endpoints got which addresses, each from the agent of its node.
Exit codes: 0 an owner or an answer is known, 1 none is, or a node did not answer, 2 usage error,
or a fixable problem (no agent answers).
"""
_NEAREST = ("node", "zone", "cluster", "cross_zone")


class ClusterOwner(schema.AddressOwner, frozen=True, kw_only=True, rename={"from_": "from"}):
    nodes: int  # that know it


class ClusterResolve(msgspec.Struct, frozen=True):
    address: str
    at: str
    owners: list[ClusterOwner]
    unreachable: list[UnreachableNode]


class NodeAnswer(NameAnswer, frozen=True, kw_only=True):
    node: str


class ClusterAnswers(msgspec.Struct, frozen=True):
    """Answers for a name, the last first."""

    name: str
    at: str
    answers: list[NodeAnswer]
    left_off: int  # beyond the limit of a node
    unreachable: list[UnreachableNode]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    resolve.add_address(parser, "ADDRESS|NAME", "an IPv4 or IPv6 address, or a domain name")


def main(args: argparse.Namespace, agents: Fleet) -> int:
    """Return 0 if an owner or an answer is known and every node answered, else 1."""
    if resolve.is_name(args.address):
        return _name(args, agents)
    query = resolve.query(args)
    found = agents.query(schema.RESOLVE, schema.ResolveReply, **query)
    found.require()
    owners = merge(found.replies)
    if args.output == "json":
        address, at = query["address"], query.get("at", "")
        print_json(ClusterResolve(address, at, owners, found.unreachable), sys.stdout)
    elif owners:
        marked = [each.kind == "unknown" for each in owners]
        cells = [(*resolve.cells(each), str(each.nodes)) for each in owners]
        print_table((*resolve.HEADS, "NODES"), cells, marked, sys.stdout)
    else:
        print(f"no known owner of {query['address']}", file=sys.stderr)
    fleet.report_unreachable(found.unreachable, sys.stderr)
    return 0 if owners and not found.unreachable else 1


def _name(args: argparse.Namespace, agents: Fleet) -> int:
    words = resolve.name_query(args)
    found = agents.query(schema.NAMES, NameAnswers, **words)
    found.require()
    answers = [
        NodeAnswer(**msgspec.structs.asdict(each), node=node)
        for node, reply in found.replies
        for each in reply.answers
    ]
    answers.sort(key=lambda each: each.at, reverse=True)
    left_off = sum(reply.left_off for _, reply in found.replies)
    if args.output == "json":
        about = (args.address, words.get("at", ""))
        print_json(ClusterAnswers(*about, answers, left_off, found.unreachable), sys.stdout)
    elif answers:
        cells = [(each.node, *resolve.answer_cells(each)) for each in answers]
        marked = [not each.trusted for each in answers]
        print_table(("NODE", *resolve.NAME_HEADS), cells, marked, sys.stdout)
        if left_off:
            print(f"and {left_off} earlier answers", file=sys.stderr)
    else:
        print(f"no DNS answer for {printable(args.address)} is known", file=sys.stderr)
    fleet.report_unreachable(found.unreachable, sys.stderr)
    return 0 if answers and not found.unreachable else 1


def merge(replies: Sequence[NodeReply[schema.ResolveReply]]) -> list[ClusterOwner]:
    """Return each owner once: the current ones first, then the latest."""
    known: dict[tuple[str, ...], list[schema.AddressOwner]] = {}
    for _, reply in replies:
        for each in {_key(owner): owner for owner in reply.owners}.values():
            known.setdefault(_key(each), []).append(each)
    owners = []
    for reports in known.values():
        best = min(reports, key=_distance)
        fields = msgspec.structs.asdict(best)
        owners.append(ClusterOwner(**fields, nodes=len(reports)))
    return sorted(owners, key=lambda each: (not each.until, each.until, each.from_))[::-1]


def _key(owner: schema.AddressOwner) -> tuple[str, ...]:
    """Return what all nodes say alike; an owner may have the address now and have had it."""
    current = "" if owner.until else "now"
    return (owner.kind, owner.namespace, owner.name, owner.workload, current)


def _distance(owner: schema.AddressOwner) -> tuple[int, str]:
    known = owner.scope in _NEAREST
    return _NEAREST.index(owner.scope) if known else len(_NEAREST), owner.from_ or "~"
