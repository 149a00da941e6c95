# SPDX-License-Identifier: Apache-2.0
"""Draws DNS questions: sums by workload, name, type, answer and resolver."""

import statistics
import sys
from collections.abc import Sequence
from typing import NamedTuple, TextIO

from podtally.api.dns_schema import DnsQueries, DnsQuery
from podtally.commands.shared.tables import (
    BOLD,
    RED,
    YELLOW,
    Cell,
    Style,
    cut,
    paint,
    print_table,
    table,
    word,
)
from podtally.dns.wire_names import display_name

_HEADS = (
    *("NAMESPACE", "WORKLOAD", "NAME", "TYPE", "ANSWER", "QUERIES", "MEDIAN", "MAX"),
    *("RESOLVER", "LAST"),
)
_RIGHT = ("QUERIES", "MEDIAN", "MAX")
_FINE, _NO_NAME = "NOERROR", "NXDOMAIN"  # search paths make many of the latter
_CLOCK = slice(11, 19)  # of RFC 3339


class QuerySum(NamedTuple):
    """Questions that are alike; times in seconds, None: no answer."""

    query: DnsQuery  # the last one
    queries: int
    median: float | None
    longest: float | None


def summed(queries: Sequence[DnsQuery]) -> list[QuerySum]:
    """Return sums, the most frequent first."""
    alike: dict[tuple[str, ...], list[DnsQuery]] = {}
    for each in queries:
        about = (each.name, each.type, each.rcode, each.resolver)
        alike.setdefault((each.namespace, each.workload, *about), []).append(each)
    sums = []
    for some in alike.values():
        took = [each.seconds for each in some if each.seconds is not None]
        median = statistics.median(took) if took else None
        sums.append(QuerySum(some[0], len(some), median, max(took, default=None)))
    return sorted(sums, key=lambda each: -each.queries)


def once(reply: DnsQueries, limit: int | None, out: TextIO) -> None:
    """Write whole columns of words for ``awk``."""
    sums = summed(reply.queries)[:limit]
    if not sums:
        print(_nothing(reply), file=sys.stderr)
        return
    marked = [each.query.rcode not in (_FINE, _NO_NAME) for each in sums]
    print_table(_HEADS, [_cells(each) for each in sums], marked, out)


def live(
    reply: DnsQueries, limit: int | None, style: Style, head: str, trouble: str = ""
) -> list[str]:
    """Return as many lines as fit, and below them the sums, or what is wrong."""
    sums = summed(reply.queries)
    below = cut(trouble or _summary(reply), style)
    room = len(sums) if style.rows is None else style.rows - 5
    shown = sums[: max(min(room, limit or room), 1)]
    rows = [[Cell(each, right=each in _RIGHT) for each in _HEADS], *map(_coloured, shown)]
    lines = table(rows, style) if sums else [cut(_nothing(reply), style)]
    missing = len(sums) - len(shown)
    more = [cut(f"and {missing} more", style)] if missing else []
    return [
        paint(cut(head, style), BOLD, style),
        *lines,
        *more,
        "",
        paint(below, RED if trouble else "", style),
    ]


def _coloured(each: QuerySum) -> list[Cell]:
    colour = {_FINE: "", _NO_NAME: YELLOW}.get(each.query.rcode, RED)
    cells = zip(_HEADS, _cells(each), strict=True)
    return [Cell(word(text), colour, head in _RIGHT) for head, text in cells]


def _cells(each: QuerySum) -> tuple[str, ...]:
    query = each.query
    resolver = query.resolver_name or query.resolver
    return (
        query.namespace,
        query.workload,
        display_name(query.name).replace(" ", ""),
        query.type,
        query.rcode,
        str(each.queries),
        _milliseconds(each.median),
        _milliseconds(each.longest),
        resolver if query.trusted else f"{resolver}!",
        query.at[_CLOCK],
    )


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f}ms"


def _summary(reply: DnsQueries) -> str:
    queries = reply.queries
    failed = [each for each in queries if each.rcode not in (_FINE, _NO_NAME)]
    missing = sum(each.rcode == _NO_NAME for each in queries)
    doubtful = sum(not each.trusted for each in queries)
    since = f" since {queries[-1].at[_CLOCK]} UTC" if queries else ""
    words = f"{len(queries)} questions{since}: {len(failed)} failed, {missing} NXDOMAIN"
    return f"{words}, {doubtful} to resolvers that are not trusted"


def _nothing(reply: DnsQueries) -> str:
    if reply.remembered:
        return f"none of the last {reply.remembered} DNS questions is selected"
    return "no DNS questions seen yet"
