# SPDX-License-Identifier: Apache-2.0
"""Lays out tables: no wider than a terminal, or in whole columns of words for ``awk``.

Colours are used only where the output takes them (https://no-color.org).
"""

import os
import sys
import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple, TextIO

from podtally.policy.model import DENIED, UNDECLARED, UNKNOWN

BOLD, RED, YELLOW, GREEN = "\x1b[1m", "\x1b[31;1m", "\x1b[33m", "\x1b[32m"
MAX_CUT_WIDTH = 100  # of a column where lines are cut: two Kubernetes names fit
MAX_WIDTH = 63  # of a column elsewhere: a longer name shifts only its own row
UNCUT = sys.maxsize  # columns
_RESET = "\x1b[0m"
_COLOURS = {DENIED: RED, UNDECLARED: YELLOW, UNKNOWN: YELLOW}


class Style(NamedTuple):
    """Where the lines go: how large it is, and whether it takes colours."""

    columns: int  # UNCUT: lines are never cut
    colour: bool
    rows: int | None = None  # None: no limit


class Cell(NamedTuple):
    text: str
    colour: str = ""
    right: bool = False


def print_table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    marked: Sequence[bool],
    out: TextIO,
    *,
    text_last: bool = False,
) -> None:
    """Write rows of single words, never empty; ``marked`` rows are yellow.

    With ``text_last`` the last cell may contain spaces.
    """
    words = [list(map(word, row)) for row in (heads, *rows)]
    if text_last:
        words = [
            [*cells[:-1], printable(row[-1]) or "-"]
            for cells, row in zip(words, (heads, *rows), strict=True)
        ]
    lines = table([list(map(Cell, row)) for row in words], Style(UNCUT, colour=False))
    colours = [BOLD, *(YELLOW if mark else "" for mark in marked)]
    for line, colour in zip(lines, colours, strict=True):
        out.write(f"{paint(line, colour, style_of(out))}\n")


def table(rows: Sequence[Sequence[Cell]], style: Style) -> list[str]:
    """Return a line for each row, the columns aligned."""
    most = MAX_WIDTH if style.columns == UNCUT else MAX_CUT_WIDTH
    widths = [
        min(max(len(cell.text) for cell in column), most)
        for column in zip_longest(*rows, fillvalue=Cell(""))
    ]
    if style.columns == UNCUT:
        return [_whole_line(row, widths, style) for row in rows]
    return [_cut_line(row, widths, style) for row in rows]


def _whole_line(row: Sequence[Cell], widths: Sequence[int], style: Style) -> str:
    padded = [
        paint(cell.text.rjust(width) if cell.right else cell.text.ljust(width), cell.colour, style)
        for cell, width in zip(row, widths, strict=False)
    ]
    return "  ".join(padded).rstrip()


def _cut_line(row: Sequence[Cell], widths: Sequence[int], style: Style) -> str:
    """Cut the line at the last column; drop a figure rather than cut it."""
    room, parts = style.columns, []
    for cell, width in zip(row, widths, strict=False):
        full = cell.text if len(cell.text) <= width else f"{cell.text[: width - 3]}..."
        text = (full.rjust(width) if cell.right else full.ljust(width))[: max(room, 0)]
        if cell.right and len(text) < len(full.rjust(width)):
            text = ""  # 1,234 would read as 1,23
        parts.append(paint(text, cell.colour, style))
        room -= width + 2
    return "  ".join(parts).rstrip()


def wrapped(text: str, indent: int, style: Style) -> list[str]:
    """Return the text on as many lines as it needs, each of them indented."""
    margin = " " * indent
    width = max(style.columns, 2 * indent)
    return textwrap.wrap(text, width, initial_indent=margin, subsequent_indent=margin)


def cut(text: str, style: Style) -> str:
    return text[: style.columns]


def paint(text: str, colour: str, style: Style) -> str:
    return f"{colour}{text}{_RESET}" if colour and style.colour and text.strip() else text


def style_of(out: TextIO) -> Style:
    """Return the style of output that is not cut."""
    return Style(UNCUT, wants_colour(out))


def wants_colour(out: TextIO) -> bool:
    """Return whether it is a terminal, and NO_COLOR is not set."""
    return out.isatty() and not os.environ.get("NO_COLOR")


def word(text: str) -> str:
    """Return the text as one word, without characters that control a terminal."""
    return "".join(c if c.isprintable() and not c.isspace() else "?" for c in text) or "-"


def printable(text: str) -> str:
    """Return the text without characters that control a terminal; spaces stay."""
    return "".join(c if c.isprintable() else "?" for c in text)


def verdict_colour(verdict: str) -> str:
    return _COLOURS.get(verdict, "")


def verdict_cell(verdict: str) -> Cell:
    """Return the verdict's cell; ``!`` marks a denial where there are no colours."""
    return Cell(f"! {verdict}" if verdict == DENIED else verdict, verdict_colour(verdict))


def human(count: float) -> str:
    """Return bytes in three or four digits, in decimal units: ``12.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
