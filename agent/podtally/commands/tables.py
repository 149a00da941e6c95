# SPDX-License-Identifier: Apache-2.0
"""Lays cells out as lines of text, in colour where there is any, and no wider than the place."""

import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

from podtally.policy.model import DENIED, UNDECLARED, UNKNOWN

BOLD, RED, YELLOW, GREEN = "\x1b[1m", "\x1b[31;1m", "\x1b[33m", "\x1b[32m"
MAX_WIDTH = 100  # two names of Kubernetes may stand in one column
_RESET = "\x1b[0m"
_COLOURS = {DENIED: RED, UNDECLARED: YELLOW, UNKNOWN: YELLOW}


class Style(NamedTuple):
    """Where the lines go: how large it is, and whether it knows colours."""

    columns: int
    colour: bool
    rows: int | None = None  # None: as many as it takes


class Cell(NamedTuple):
    text: str
    colour: str = ""
    right: bool = False


def table(rows: Sequence[Sequence[Cell]], style: Style) -> list[str]:
    widths = [
        min(max(len(cell.text) for cell in column), MAX_WIDTH)
        for column in zip_longest(*rows, fillvalue=Cell(""))
    ]
    return [_line(row, widths, style) for row in rows]


def _line(row: Sequence[Cell], widths: Sequence[int], style: Style) -> str:
    """One line, cut at the last column, but never a figure; colours take no room."""
    room, parts = style.columns, []
    for cell, width in zip(row, widths, strict=False):
        whole = cell.text if len(cell.text) <= width else f"{cell.text[: width - 3]}..."
        text = (whole.rjust(width) if cell.right else whole.ljust(width))[: max(room, 0)]
        if cell.right and len(text) < len(whole.rjust(width)):
            text = ""  # 1,234 would read as 1,23
        parts.append(paint(text, cell.colour, style))
        room -= width + 2
    return "  ".join(parts).rstrip()


def wrapped(text: str, indent: int, style: Style) -> list[str]:
    """A text on as many lines as it takes, all of them indented."""
    margin = " " * indent
    width = max(style.columns, 2 * indent)
    return textwrap.wrap(text, width, initial_indent=margin, subsequent_indent=margin)


def cut(text: str, style: Style) -> str:
    return text[: style.columns]


def paint(text: str, colour: str, style: Style) -> str:
    return f"{colour}{text}{_RESET}" if colour and style.colour and text.strip() else text


def verdict_colour(verdict: str) -> str:
    return _COLOURS.get(verdict, "")


def verdict_cell(verdict: str) -> Cell:
    """With a "!" for those who see no colours."""
    return Cell(f"! {verdict}" if verdict == DENIED else verdict, verdict_colour(verdict))


def human(count: float) -> str:
    """Bytes in three or four digits, decimal units: ``12.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
