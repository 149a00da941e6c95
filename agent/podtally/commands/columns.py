# SPDX-License-Identifier: Apache-2.0
"""Prints rows of words in columns, and colours only where they are wanted."""

import os
from collections.abc import Sequence
from typing import TextIO

BOLD, YELLOW = "1", "33"
MAX_WIDTH = 63  # a name of Kubernetes; whatever is longer moves its own row only


def print_columns(
    heads: Sequence[str], rows: Sequence[Sequence[str]], doubtful: Sequence[bool], out: TextIO
) -> None:
    """Write a table whose cells are never empty, so that ``awk`` finds the columns; in a
    ``doubtful`` row the cells stand in yellow, where there are colours.
    """
    table = [[word(text) for text in row] for row in (heads, *rows)]
    widths = [min(max(map(len, column)), MAX_WIDTH) for column in zip(*table, strict=True)]
    paints = [BOLD, *(YELLOW if doubt else "" for doubt in doubtful)]
    coloured = wants_colour(out)
    for row, paint in zip(table, paints, strict=True):
        line = "  ".join(map(str.ljust, row, widths)).rstrip()
        out.write(f"\x1b[{paint}m{line}\x1b[0m\n" if paint and coloured else f"{line}\n")


def wants_colour(out: TextIO) -> bool:
    """On a terminal whose owner does not object (https://no-color.org)."""
    return out.isatty() and not os.environ.get("NO_COLOR")


def word(text: str) -> str:
    """One word, without what a terminal would take for a command."""
    return "".join(c if c.isprintable() and not c.isspace() else "?" for c in text) or "-"


def printable(text: str) -> str:
    """Without what a terminal would take for a command; spaces stay."""
    return "".join(c if c.isprintable() else "?" for c in text)
