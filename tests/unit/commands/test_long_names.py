# SPDX-License-Identifier: Apache-2.0
"""One long name does not stretch the rows of the others."""

import io

from podtally.commands.shared.tables import Cell, Style, print_table, table

LONG = "x" * 250


def test_columns() -> None:
    out = io.StringIO()
    print_table(["NAME", "KIND"], [["web", "Pod"], [LONG, "Pod"]], [False, False], out)
    heads, web, long = out.getvalue().splitlines()
    assert len(heads) == len(web) + 1 < 80
    assert long.split() == [LONG, "Pod"]


def test_a_table() -> None:
    style = Style(200, colour=False)
    web, long = table([[Cell("web"), Cell("Pod")], [Cell(LONG), Cell("Pod")]], style)
    assert len(web) == len(long) < 120
    assert "..." in long
    assert long.endswith("Pod")
