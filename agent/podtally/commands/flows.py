# SPDX-License-Identifier: Apache-2.0
"""``podtally flows``: shows what was connected to what, and when, from the history."""

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path

from podtally.api import schema
from podtally.commands.shared import agent_query, times
from podtally.commands.shared.agent_query import AgentAddress
from podtally.commands.stored import flow_watch
from podtally.commands.stored.flow_output import SHAPES, show
from podtally.config.node_name import node_name
from podtally.errors import PodtallyError

_EPILOG = """\
examples:
  podtally flows --since yesterday                      what happened last night
  podtally flows --with 203.0.113.10 --at 03:00         who talked to this address at 03:00
  podtally flows --from shop/web --since 7d --by peer,address
                                                        all destinations of a workload in the last
                                                        week, with first and last time
  podtally flows --new --since monday                   what is new since Monday
  podtally flows --pod stray-x2 --connections           what a deleted pod did
  podtally flows --to internet --since 'this month' --by workload,domain --cost
                                                        bytes and cost to the internet
  podtally flows --verdict denied --by policy,workload  what was denied, by policy
  podtally flows --outcome refused --outcome unanswered --by workload,peer,port,outcome
                                                        connections that failed, by server
  podtally flows --store clickhouse --to 203.0.113.10 --by node,workload
                                                        the same, of all nodes
  podtally flows --watch --verdict denied               live: new and changed conversations
  podtally flows --from shop/web --to internet --since yesterday --until 06:00 --top 20

An END is NAMESPACE/NAME of a workload or pod, a name (also of a named network or a domain), an
address, a prefix, a scope (internet, private, cluster, ...) or a kind (pod, service, host, ...);
* matches any text. --from and --to are the ends that opened and accepted connections.
A TIME is 14:05, yesterday, 'monday 14:05', 2026-01-31, RFC 3339, 90s or '5m ago'.
Times are rounded to minutes; where minutes are no longer retained, to hours or days.
Exit codes: 0 fine, 1 nothing found, 2 usage error, or a fixable problem (no agent answers).
"""
_LABELS = (
    *("namespace", "pod", "uid", "workload", "workload-kind", "interface", "peer-kind"),
    *("peer-namespace", "peer-workload", "peer-domain", "address", "protocol", "port", "scope"),
    *("initiator", "verdict", "policy", "cause", "outcome"),
)
CLICKHOUSE = "clickhouse"  # in the place of a store's file
_SELECTED, _ALL = ("namespace", "workload"), ".*"  # by the variables of dashboards
_DEFAULT_TOP = 50
_AT_SECONDS = 60.0
_SKEW = datetime.timedelta(minutes=5)  # a dashboard's now, by the clock of another machine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    add_query(parser)
    parser.add_argument("--watch", action="store_true", help="show new and changed rows, live")
    agent_query.add_address(parser)
    parser.add_argument("--store", metavar="FILE", help="a history file, without its agent")
    parser.add_argument(
        "--node", action="append", metavar="TEXT", help="only of this node (--store clickhouse)"
    )


def add_query(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``query_words``, and the output's shape."""
    ends = parser.add_argument_group("ends of the connections")
    ends.add_argument("--from", dest="source", metavar="END", help="opened by this end")
    ends.add_argument("--to", dest="destination", metavar="END", help="opened to this end")
    ends.add_argument("--with", dest="either", metavar="END", help="either end")
    when = parser.add_argument_group("times")
    when.add_argument("--since", metavar="TIME", help="from then on (default: 1h ago)")
    when.add_argument("--until", metavar="TIME", help="up to then (default: now)")
    when.add_argument("--at", metavar="TIME", help="in that minute")
    when.add_argument("--new", action="store_true", help="only what is not in earlier history")
    labels = parser.add_argument_group("labels (* matches any text; may be repeated)")
    for label in _LABELS:
        short = ["-n"] if label == "namespace" else []
        labels.add_argument(*short, f"--{label}", action="append", metavar="TEXT")
    shown = parser.add_argument_group("output")
    shown.add_argument("--by", metavar="COLUMNS", help="group by columns, such as peer,port")
    shown.add_argument(
        "--connections", action="store_true", help="all columns, by address and port"
    )
    shown.add_argument("--cost", action="store_true", help="add what the bytes cost (prices)")
    shown.add_argument(
        "--order", choices=("bytes", "connections", "packets", "cost", "first", "last"),
        help="largest first (default: bytes)",
    )  # fmt: skip
    shown.add_argument("--top", type=_positive, metavar="N", help="at most N rows")
    shown.add_argument(
        "--all-accounts", action="store_true", help="add what is no flow of an endpoint"
    )
    parser.add_argument(
        "-o", "--output", choices=tuple(SHAPES), default="table", help="default: table"
    )


def main(args: argparse.Namespace) -> int:
    """Return 0, or 1 if nothing is found."""
    words = query_words(args, datetime.datetime.now().astimezone())
    if args.node:
        words["node"] = args.node
    agent = agent_query.agent_address(args)
    if args.watch:
        return flow_watch.watch(agent, words, args.output, sys.stdout)
    found = answer(agent, words, args.store)
    if args.cost and found.rows and "cost_dollars" not in found.rows[0]:
        raise PodtallyError("no prices are configured", "set prices: see docs/configuration.md")
    show(found, args.output, args.cost, sys.stdout)
    return 0 if found.rows else 1


def answer(agent: AgentAddress, words: dict[str, list[str]], store: str | None) -> schema.Flows:
    """Ask the agent, or read the file: the one named, or the agent's if none runs."""
    node = ""  # of a file from elsewhere it is not known
    if store is None:
        try:
            return agent_query.query_words(agent, schema.FLOWS, schema.Flows, words)
        except agent_query.NoAgentError:
            history = agent.config.history
            if agent.socket is None or not history.is_on or not history.file.exists():
                raise
            print(f"no agent runs; reading {history.path}", file=sys.stderr)
            store, node = history.path, node_name(agent.config)
    if store == CLICKHOUSE:
        from podtally.commands.stored.history_server import flows_of_server

        return flows_of_server(agent.config, words)
    from podtally.commands.stored.history_file import flows_of_file

    return flows_of_file(Path(store), words, agent.config.prices.by_scope(), node)


def query_words(args: argparse.Namespace, now: datetime.datetime) -> dict[str, list[str]]:
    """Return the parameters of the query; PodtallyError if times are invalid."""
    words: dict[str, list[str]] = {}
    for name, value in (
        *(("from", args.source), ("to", args.destination), ("with", args.either)),
        *(("order", args.order or ("cost" if args.cost else "")), ("by", _by(args))),
    ):
        if value:
            words[name] = [value]
    for label in _LABELS:
        name = label.replace("-", "_")
        if given := _values(label, getattr(args, name) or ()):
            words[name] = given
    words |= _times(args, now)
    top = args.top or (_DEFAULT_TOP if args.output == "table" else 0)
    if top:
        words["top"] = [str(top)]
    if args.new:
        words["new"] = ["1"]
    if args.all_accounts:
        words["account"] = ["all"]
    return words


def _values(label: str, given: Sequence[str]) -> list[str]:
    """Return a label's patterns; a dashboard writes a,b for several values, and .* for all."""
    if label in _SELECTED:
        given = [each for text in given for each in text.split(",") if each]
        if _ALL in given:
            return []
    return list(given)


def _by(args: argparse.Namespace) -> str:
    if args.by and args.connections:
        raise PodtallyError("--by and --connections exclude each other", "use one of them")
    return "connection" if args.connections else args.by or ""


def _times(args: argparse.Namespace, now: datetime.datetime) -> dict[str, list[str]]:
    if args.at:
        if args.since or args.until:
            raise PodtallyError("--at excludes --since and --until", "use --at alone")
        at = times.parse(args.at, now).replace(second=0, microsecond=0)
        return _window(at, at + datetime.timedelta(seconds=_AT_SECONDS))
    since = times.parse(args.since or "1h", now, "--since")
    if args.until is None:
        return _window(since, None)
    until = times.parse(args.until, now + _SKEW, "--until")
    if until > now:
        return _window(since, None)
    if until <= since:
        raise PodtallyError(
            f"--until {args.until!r} is not after --since {args.since or '1h'!r}",
            "give an earlier --since",
        )
    return _window(since, until)


def _window(since: datetime.datetime, until: datetime.datetime | None) -> dict[str, list[str]]:
    words = {"since": [since.isoformat()]}
    return words if until is None else {**words, "until": [until.isoformat()]}


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number
