# SPDX-License-Identifier: Apache-2.0
"""Print the results of a benchmark, as a table or JSON."""

import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

Cell = str | int | float | bool | None


class Report(NamedTuple):
    """One row for each case; a column ``ok`` says whether the row's target was met."""

    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]

    @property
    def met(self) -> bool:
        place = self.columns.index("ok")
        return all(row[place] for row in self.rows)


def show(report: Report, output: str) -> None:
    if output == "json":
        rows = [dict(zip(report.columns, row, strict=True)) for row in report.rows]
        print(json.dumps({"machine": machine(), "rows": rows}, indent=2))
        return
    print(machine())
    print("\t".join(report.columns))
    for row in report.rows:
        print("\t".join(map(_text, row)))


def progress(words: str) -> None:
    print(f"bench: {words}", file=sys.stderr, flush=True)


def machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    models = _values(cpuinfo.read_text().splitlines(), "model name")
    model = models[0] if models else platform.machine()
    return f"{model}, {len(models)} CPUs, Linux {platform.release()}"


def _values(lines: Sequence[str], name: str) -> list[str]:
    return [line.partition(":")[2].strip() for line in lines if line.startswith(name)]


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "ok" if cell else "MISSED"
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell)
