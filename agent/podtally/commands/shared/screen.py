# SPDX-License-Identifier: Apache-2.0
"""Shows live tables: redrawn in place on a terminal, one after another elsewhere."""

import os
import shutil
from collections.abc import Sequence
from typing import TextIO

from podtally.commands.shared.tables import Style, wants_colour

_UP, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[{}F", "\x1b[K", "\x1b[J"
_PLAIN_COLUMNS = 120


class Screen:
    """Shows tables on ``stream``; colours only where wanted (https://no-color.org)."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.live = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._colour = self.live and wants_colour(stream)
        self._drawn = 0

    def style(self) -> Style:
        """Return the present size; the final table may be longer."""
        if not self.live:
            return Style(_PLAIN_COLUMNS, self._colour)
        size = shutil.get_terminal_size()
        return Style(size.columns, self._colour, size.lines - 1)

    def show(self, lines: Sequence[str]) -> None:
        """Replace the last table; lines beyond the terminal's are left out."""
        if not self.live:
            self.final(lines)
            return
        lines = lines[: shutil.get_terminal_size().lines - 1]
        self._stream.write(self._home() + "".join(f"{line}{_CLEAR_LINE}\n" for line in lines))
        self._stream.write(_CLEAR_BELOW)
        self._stream.flush()
        self._drawn = len(lines)

    def note(self, text: str) -> None:
        """Write a message below the table; the next table replaces it."""
        if self.live:
            self._stream.write(f"{text}{_CLEAR_LINE}\n")
            self._stream.flush()
            self._drawn += 1

    def final(self, lines: Sequence[str]) -> None:
        """Replace the last table with all lines, for good."""
        self._stream.write(self._home() + (_CLEAR_BELOW if self.live else ""))
        self._stream.write("".join(f"{line}\n" for line in lines))
        self._stream.flush()
        self._drawn = 0

    def leave(self) -> None:
        """Clear the line below the table, on which the terminal may have written ``^C``."""
        if self._drawn:
            self._stream.write(f"\r{_CLEAR_LINE}")
            self._stream.flush()

    def _home(self) -> str:
        return _UP.format(self._drawn) if self._drawn else ""
