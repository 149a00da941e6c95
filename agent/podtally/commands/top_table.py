# SPDX-License-Identifier: Apache-2.0
"""Draws conversations: lines that fit a terminal, or columns of exact numbers, or JSON."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple, TextIO

import msgspec

from podtally.commands.arguments import print_json
from podtally.commands.conversations import (
    BookSummary,
    Conversation,
    ConversationRate,
    TrafficSnapshot,
    TrafficTotal,
)
from podtally.commands.tables import (
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
from podtally.commands.top_summary import colour, nothing, summary
from podtally.policy.model import UNKNOWN

ARROWS = {"egress": "->", "ingress": "<-", "both": "<>", "unknown": "--"}

_HEADS = (
    *("WORKLOAD", "TO", "PEER", "PORT", "SCOPE", "VERDICT"),
    *("CONNECTIONS", "SENT", "RECEIVED"),
)
_DISPENSABLE = ("SCOPE", "RECEIVED", "CONNS", "SENT")  # on a narrow terminal, in this order
_NAMES = ("WORKLOAD", "PEER")
_NAME_COLUMNS = 20  # of a long name at least so many, before anything else has to go
_LEAST_COLUMNS = 8
_GAP = 2  # between columns
_NO_NAME = ("", "0")


class TopPage(NamedTuple):
    """What is to be shown of a look."""

    look: TrafficSnapshot
    rows: Sequence[ConversationRate]  # that are wanted
    limit: int | None = None  # of rows
    head: str = ""
    trouble: str = ""  # why it is an old one


class _Column(NamedTuple):
    head: str
    cells: list[Cell]


class ConversationRow(msgspec.Struct, frozen=True):
    """``direction`` tells who began it: egress: the workload, ingress: the peer; both; unknown."""

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
    egress_connections: int
    ingress_connections: int
    egress_bytes: int
    ingress_bytes: int


class Top(msgspec.Struct, frozen=True):
    """``totals`` (by verdict) and ``books`` are of everything, whatever is asked for."""

    conversations: list[ConversationRow]
    totals: Mapping[str, TrafficTotal]
    books: BookSummary


def live(page: TopPage, style: Style) -> list[str]:
    """Draw as many rows as there is room for, with a line of what is wrong below them."""
    below = _footer(page, style)
    room = len(page.rows) if style.rows is None else style.rows - len(below) - 4
    shown = page.rows[: max(min(room, page.limit or room), 1)]
    lines = table(_fitting(_columns(shown), style), style)
    missing = len(page.rows) - len(shown)
    more = [cut(f"and {missing} more", style)] if missing else []
    if not page.rows:
        lines = [cut(nothing(page.look), style)]
    return [paint(cut(page.head, style), BOLD, style), *lines, *more, "", *below]


def once(page: TopPage, out: TextIO) -> None:
    """Write columns that ``awk`` finds, with the counters as they are."""
    shown = page.rows[: page.limit]
    if shown:
        doubtful = [bool(verdict_colour(row.conversation.verdict)) for row in shown]
        print_table(_HEADS, [_words(row) for row in shown], doubtful, out)
    else:
        out.write(f"{nothing(page.look)}\n")
    out.write(f"\n{summary(page.look)}\n")


def as_json(page: TopPage, out: TextIO) -> None:
    conversations = [
        ConversationRow(
            *row.conversation[:3], row.direction, *row.conversation[3:],
            egress_connections=row.counts.begun, ingress_connections=row.counts.accepted,
            egress_bytes=row.counts.sent, ingress_bytes=row.counts.received,
        )
        for row in page.rows[: page.limit]
    ]  # fmt: skip
    print_json(Top(conversations, page.look.totals, page.look.books), out)


def _words(row: ConversationRate) -> tuple[str, ...]:
    each, counts = row.conversation, row.counts
    connections = str(counts.begun + counts.accepted)
    return (
        *(_workload(each), ARROWS[row.direction], _peer(each), _port(each), each.scope),
        *(each.verdict, connections, str(counts.sent), str(counts.received)),
    )


def _workload(each: Conversation) -> str:
    return f"{each.namespace}/{each.workload}"


def _peer(each: Conversation) -> str:
    """An address without a name goes by how far away it is: internet, private."""
    name = "/".join(filter(None, (each.peer_namespace, each.peer_workload)))
    if not name:
        return each.scope if each.peer_kind in ("external", UNKNOWN) else each.peer_kind
    return name if each.peer_kind == "pod" else f"{each.peer_kind}:{name}"


def _port(each: Conversation) -> str:
    return each.protocol if each.port in _NO_NAME else f"{each.port}/{each.protocol}"


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
    return [
        _Column(head, [Cell(head, BOLD, right=bool(cells) and cells[0].right), *cells])
        for head, cells in columns.items()
    ]


def _shade(row: ConversationRate) -> str:
    return verdict_colour(row.conversation.verdict)


def _figure(text: str) -> Cell:
    return Cell(text, right=True)


def _fitting(columns: list[_Column], style: Style) -> list[list[Cell]]:
    """Leave out, then shorten names, until the lines fit; the verdict and the rate stay."""
    for head in _DISPENSABLE:
        if _width(columns, _NAME_COLUMNS) > style.columns:
            columns = [column for column in columns if column.head != head]
    most = max(chain(*(map(_length, column.cells) for column in columns)), default=0)
    while most > _LEAST_COLUMNS and _width(columns, most) > style.columns:
        most -= 1
    columns = [
        column._replace(cells=[_shortened(cell, most) for cell in column.cells])
        if column.head in _NAMES
        else column
        for column in columns
    ]
    return [list(row) for row in zip(*(column.cells for column in columns), strict=True)]


def _width(columns: Sequence[_Column], most: int) -> int:
    """Of a line whose names are not longer than ``most``."""
    widths = [max(map(_length, column.cells)) for column in columns]
    named = zip(columns, widths, strict=True)
    cut_to = [min(width, most) if column.head in _NAMES else width for column, width in named]
    return sum(cut_to) + _GAP * (len(columns) - 1)


def _length(cell: Cell) -> int:
    return len(cell.text)


def _shortened(cell: Cell, most: int) -> Cell:
    """The end tells more: the namespace is often the same."""
    return cell if len(cell.text) <= most else cell._replace(text=f"..{cell.text[2 - most :]}")


def _footer(page: TopPage, style: Style) -> list[str]:
    if page.trouble:
        text, shade = printable(page.trouble), RED
    else:
        text, shade = summary(page.look), colour(page.look)
    return [paint(line, shade, style) for line in wrapped(text, 0, style)]
