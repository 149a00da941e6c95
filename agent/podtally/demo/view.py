"""Draws a snapshot as lines of text, or as JSON: values in, text out."""

import json
from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

from podtally.demo.snapshot import BookRow, PodRow, Snapshot, Use, faults

_MOST_USES = 4  # lines of a pod, so that the table stays on one screen

_BOLD, _RED, _GREEN, _RESET = "\x1b[1m", "\x1b[31;1m", "\x1b[32m", "\x1b[0m"


class Style(NamedTuple):
    """Where the lines go: how wide it is, and whether it knows colours."""

    columns: int
    colour: bool


class _Cell(NamedTuple):
    text: str
    colour: str = ""
    right: bool = False


def render(now: Snapshot, before: Snapshot, url: str, style: Style) -> list[str]:
    """Draw ``now``; rates are those since ``before``."""
    lines = [
        _paint(
            "user -> frontend :80 -> backend :3000 -> database :3306, and a stray", _BOLD, style
        ),
        f"{now.at_seconds:.0f} s of traffic; all that podtally counts: {url}",
        "",
        *_table(_pods(now, before, style), style),
        "",
        *_table(_books(now.books), style),
        "",
        *_judgement(now, style),
    ]
    return lines


def to_json(final: Snapshot) -> str:
    """Return the final table for machines: bytes, and seconds of traffic."""
    pods = [
        row._asdict()
        | {"served": [use._asdict() for use in row.served]}
        | {"asked": [use._asdict() for use in row.asked]}
        for row in final.pods
    ]
    found = {
        "seconds": round(final.at_seconds, 3),
        "pods": pods,
        "books": [book._asdict() for book in final.books],
        "faults": faults(final),
    }
    return json.dumps(found, indent=2)


def _pods(now: Snapshot, before: Snapshot, style: Style) -> list[list[_Cell]]:
    span = now.at_seconds - before.at_seconds
    earlier = {row.pod: row.bytes for row in before.pods}
    wide = style.columns >= 96
    figures = ["received", "sent"] if wide else ["bytes"]
    heads = ["pod", "ingress, by", "egress, to", *figures, "packets", "rate"]
    table = [[_Cell(head.upper(), _BOLD, i > 2) for i, head in enumerate(heads)]]
    for row in now.pods:
        rate = (row.bytes - earlier.get(row.pod, 0)) / span if span > 0 else 0.0
        counts = [row.received_bytes, row.sent_bytes] if wide else [row.bytes]
        figures = [*map(human, counts), f"{row.packets:,}", human(rate) + "/s"]
        table += _pod(row, figures)
    return table


def _pod(row: PodRow, figures: Sequence[str]) -> list[list[_Cell]]:
    served = [_Cell(f"{_port(use, ':')} {use.peer}") for use in row.served]
    asked = [_target(use) for use in row.asked]
    first = [_Cell(figure, right=True) for figure in figures]
    return [
        [_Cell("" if i else row.pod), use, target, *([] if i else first)]
        for i, (use, target) in enumerate(
            zip_longest(
                _few(served) or [_Cell("-")], _few(asked) or [_Cell("-")], fillvalue=_Cell("")
            )
        )
    ]


def _target(use: Use) -> _Cell:
    text = f"{use.peer} ({_port(use, 'port ')})"
    return _Cell("! " + text, _RED) if use.outside else _Cell(text)


def _port(use: Use, before: str) -> str:
    """A protocol without ports goes by its own name: ``icmp``."""
    return use.protocol if use.port in ("", "0") else before + use.port


def _few(cells: list[_Cell]) -> list[_Cell]:
    if len(cells) <= _MOST_USES:
        return cells
    return [*cells[: _MOST_USES - 1], _Cell(f"and {len(cells) - _MOST_USES + 1} more")]


def _books(books: Sequence[BookRow]) -> list[list[_Cell]]:
    heads = ["books (bytes)", "", "flows", "other", "overflow", "gap"]
    table = [[_Cell(head.upper(), _BOLD, i > 1) for i, head in enumerate(heads)]]
    for book in books:
        counts = (book.flows, book.other, book.overflow)
        gap = "?" if book.gap is None else f"{book.gap:,}"
        table.append(
            [
                _Cell(book.interface),
                _Cell(book.direction),
                *(_Cell(f"{count:,}", right=True) for count in counts),
                _Cell(gap, _GREEN if book.gap == 0 else _RED, right=True),
            ]
        )
    return table


def _judgement(now: Snapshot, style: Style) -> list[str]:
    wrong = faults(now)
    if wrong:
        return [_paint(line[: style.columns], _RED, style) for line in wrong[:3]]
    counted = sum(book.flows + book.other + book.overflow for book in now.books)
    text = f"the books close: {counted:,} bytes on the interfaces, each one accounted for"
    return [_paint(text[: style.columns], _GREEN, style)]


def _table(rows: Sequence[Sequence[_Cell]], style: Style) -> list[str]:
    widths = [
        max(len(cell.text) for cell in column) for column in zip_longest(*rows, fillvalue=_Cell(""))
    ]
    return [_line(row, widths, style) for row in rows]


def _line(row: Sequence[_Cell], widths: Sequence[int], style: Style) -> str:
    """One line, cut at the last column; colours take no room."""
    room, parts = style.columns, []
    for cell, width in zip(row, widths, strict=False):
        text = (cell.text.rjust(width) if cell.right else cell.text.ljust(width))[: max(room, 0)]
        parts.append(_paint(text, cell.colour, style))
        room -= width + 2
    return "  ".join(parts).rstrip()


def _paint(text: str, colour: str, style: Style) -> str:
    return f"{colour}{text}{_RESET}" if colour and style.colour and text.strip() else text


def human(count: float) -> str:
    """Bytes in three or four digits, decimal units: ``12.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
