# SPDX-License-Identifier: Apache-2.0
"""Draws conversations: lines that fit a terminal, columns of exact numbers, or JSON."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple, TextIO

import msgspec

from podtally.commands.shared.arguments import print_json
from podtally.commands.shared.tables import (
    BOLD,
    RED,
    Cell,
    Style,
    cut,
    human,
    paint,
    print_table,
    printable,
    table,
    verdict_cell,
    verdict_colour,
    word,
    wrapped,
)
from podtally.commands.traffic.conversation_rows import ConversationRate
from podtally.commands.traffic.conversations import (
    BookSummary,
    Conversation,
    TrafficSnapshot,
    TrafficTotal,
)
from podtally.commands.traffic.top_summary import colour, nothing, summary
from podtally.policy.model import UNKNOWN

ARROWS = {"egress": "->", "ingress": "<-", "both": "<>", "unknown": "--"}

_HEADS = (
    *("WORKLOAD", "TO", "PEER", "PORT", "SCOPE", "VERDICT"),
    *("CONNECTIONS", "SENT", "RECEIVED", "FAILED"),
)
_OPTIONAL = (
    "FAILED",
    "SCOPE",
    "RECEIVED",
    "CONNS",
    "SENT",
)  # left out on a narrow terminal, in this order
_NAMES = ("WORKLOAD", "PEER")
_NAME_COLUMNS = 20  # names are cut to this before a column is left out
_MIN_NAME_COLUMNS = 8
_GAP = 2  # between columns
_NO_PORT = ("", "0")


class TopPage(NamedTuple):
    """What is shown of a snapshot."""

    traffic: TrafficSnapshot
    rows: Sequence[ConversationRate]  # those selected
    limit: int | None = None  # of rows
    head: str = ""
    trouble: str = ""  # why the snapshot is not a new one
    warning: str = ""  # what it does not contain


class _Column(NamedTuple):
    head: str
    cells: list[Cell]


class ConversationRow(msgspec.Struct, frozen=True):
    """A conversation, in JSON; ``direction``: egress: the workload opened it, ingress: its peer;
    both; unknown.
    """

    namespace: str
    workload: str
    workload_kind: str
    direction: str
    peer_kind: str
    peer_namespace: str
    peer_workload: str
    scope: str
    protocol: str
    port: str
    verdict: str
    peer_domain: str
    egress_connections: int
    ingress_connections: int
    egress_bytes: int
    ingress_bytes: int
    failed_connections: int


class Top(msgspec.Struct, frozen=True):
    """``totals`` (by verdict) and ``books`` are of all traffic, whatever is selected."""

    conversations: list[ConversationRow]
    totals: Mapping[str, TrafficTotal]
    books: BookSummary


def live(page: TopPage, style: Style) -> list[str]:
    """Return as many rows as fit, and below them the summary, or what is wrong."""
    below = _footer(page, style)
    room = len(page.rows) if style.rows is None else style.rows - len(below) - 4
    shown = page.rows[: max(min(room, page.limit or room), 1)]
    lines = table(_fitting(_columns(shown), style), style)
    missing = len(page.rows) - len(shown)
    more = [cut(f"and {missing} more", style)] if missing else []
    if not page.rows:
        lines = [cut(nothing(page.traffic), style)]
    return [paint(cut(page.head, style), BOLD, style), *lines, *more, "", *below]


def once(page: TopPage, out: TextIO) -> None:
    """Write whole columns for ``awk``, with exact counters."""
    shown = page.rows[: page.limit]
    if shown:
        marked = [bool(verdict_colour(row.conversation.verdict)) for row in shown]
        print_table(_HEADS, [_cells(row) for row in shown], marked, out)
    else:
        out.write(f"{nothing(page.traffic)}\n")
    out.write(f"\n{summary(page.traffic)}\n")


def as_json(page: TopPage, out: TextIO) -> None:
    print_json(Top(json_rows(page), page.traffic.totals, page.traffic.book_summary()), out)


def json_rows(page: TopPage) -> list[ConversationRow]:
    return [
        ConversationRow(
            **row.conversation._asdict(),
            direction=row.direction,
            egress_connections=row.counts.begun,
            ingress_connections=row.counts.accepted,
            egress_bytes=row.counts.sent,
            ingress_bytes=row.counts.received,
            failed_connections=row.counts.failed,
        )
        for row in page.rows[: page.limit]
    ]


def _cells(row: ConversationRate) -> tuple[str, ...]:
    each, counts = row.conversation, row.counts
    connections = str(counts.begun + counts.accepted)
    return (
        *(_workload(each), ARROWS[row.direction], _peer(each), _port(each), each.scope),
        *(each.verdict, connections, str(counts.sent), str(counts.received), str(counts.failed)),
    )


def _workload(each: Conversation) -> str:
    return f"{each.namespace}/{each.workload}"


def _peer(each: Conversation) -> str:
    """Return the peer's name, outside its domain; without one its scope: internet, private."""
    name = "/".join(filter(None, (each.peer_namespace, each.peer_workload)))
    if not name and each.peer_domain:
        return each.peer_domain
    if not name:
        return each.scope if each.peer_kind in ("external", UNKNOWN) else each.peer_kind
    return name if each.peer_kind == "pod" else f"{each.peer_kind}:{name}"


def _port(each: Conversation) -> str:
    return each.protocol if each.port in _NO_PORT else f"{each.port}/{each.protocol}"


def _columns(rows: Sequence[ConversationRate]) -> list[_Column]:
    columns = {
        "WORKLOAD": [Cell(word(_workload(row.conversation))) for row in rows],
        "": [Cell(ARROWS[row.direction], _shade(row)) for row in rows],
        "PEER": [Cell(word(_peer(row.conversation)), _shade(row)) for row in rows],
        "PORT": [Cell(word(_port(row.conversation))) for row in rows],
        "SCOPE": [Cell(word(row.conversation.scope)) for row in rows],
        "VERDICT": [verdict_cell(word(row.conversation.verdict)) for row in rows],
        "CONNS": [_figure(f"{row.counts.begun + row.counts.accepted:,}") for row in rows],
        "SENT": [_figure(human(row.counts.sent)) for row in rows],
        "RECEIVED": [_figure(human(row.counts.received)) for row in rows],
        "RATE": [_figure("-" if row.rate is None else f"{human(row.rate)}/s") for row in rows],
    }
    if any(row.counts.failed for row in rows):
        columns["FAILED"] = [_figure(f"{row.counts.failed:,}") for row in rows]
    return [
        _Column(head, [Cell(head, BOLD, right=bool(cells) and cells[0].right), *cells])
        for head, cells in columns.items()
    ]


def _shade(row: ConversationRate) -> str:
    return verdict_colour(row.conversation.verdict)


def _figure(text: str) -> Cell:
    return Cell(text, right=True)


def _fitting(columns: list[_Column], style: Style) -> list[list[Cell]]:
    """Leave out columns, then cut names, until the lines fit; verdict and rate stay."""
    for head in _OPTIONAL:
        if _width(columns, _NAME_COLUMNS) > style.columns:
            columns = [column for column in columns if column.head != head]
    most = max(chain(*(map(_length, column.cells) for column in columns)), default=0)
    while most > _MIN_NAME_COLUMNS and _width(columns, most) > style.columns:
        most -= 1
    columns = [
        column._replace(cells=[_shortened(cell, most) for cell in column.cells])
        if column.head in _NAMES
        else column
        for column in columns
    ]
    return [list(row) for row in zip(*(column.cells for column in columns), strict=True)]


def _width(columns: Sequence[_Column], most: int) -> int:
    """Return the width of a line with names cut to ``most``."""
    widths = [max(map(_length, column.cells)) for column in columns]
    named = zip(columns, widths, strict=True)
    cut_to = [min(width, most) if column.head in _NAMES else width for column, width in named]
    return sum(cut_to) + _GAP * (len(columns) - 1)


def _length(cell: Cell) -> int:
    return len(cell.text)


def _shortened(cell: Cell, most: int) -> Cell:
    """Cut the beginning: the namespace is often the same."""
    return cell if len(cell.text) <= most else cell._replace(text=f"..{cell.text[2 - most :]}")


def _footer(page: TopPage, style: Style) -> list[str]:
    if page.trouble:
        text, shade = printable(page.trouble), RED
    else:
        text, shade = summary(page.traffic), colour(page.traffic)
    lines = [paint(line, shade, style) for line in wrapped(text, 0, style)]
    missing = wrapped(printable(page.warning), 0, style) if page.warning else []
    return [*(paint(line, RED, style) for line in missing), *lines]
