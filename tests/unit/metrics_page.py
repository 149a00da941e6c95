# SPDX-License-Identifier: Apache-2.0
"""Reads docs/metrics.md: the rows of its tables of metrics, its labels, and its example queries."""

import re
from pathlib import Path
from typing import NamedTuple

PATH = Path(__file__).parents[2] / "docs" / "metrics.md"
COLUMNS = ("metric", "type", "labels", "what it is", "series")
KINDS = ("counter", "gauge", "histogram")
CARDINALITIES = ("fine", "careful", "avoid")
_ROW = re.compile(r"\|(.*)\|")
_CODE = re.compile(r"`([^`]+)`")
_BLOCK = re.compile(r"^```promql\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^## (.+)\n", re.MULTILINE)


class PageError(Exception):
    """The page is not written as these functions read it."""


class Metric(NamedTuple):
    section: str
    name: str  # as it is scraped: a counter's ends in _total
    kind: str  # one of KINDS
    labels: frozenset[str]
    text: str
    series: str  # begins with one of CARDINALITIES

    def series_labels(self) -> dict[str, frozenset[str]]:
        """Names of the series that Prometheus has of it, with their labels."""
        if self.kind != "histogram":
            return {self.name: self.labels}
        bucket = {f"{self.name}_bucket": self.labels | {"le"}}
        return bucket | {f"{self.name}_{each}": self.labels for each in ("sum", "count")}


class Example(NamedTuple):
    section: str
    question: str
    expr: str


def page() -> str:
    return PATH.read_text()


def metrics(text: str | None = None) -> list[Metric]:
    """The rows of all tables of metrics, in the page's order."""
    return [
        _metric(section, cells)
        for section, body in sections(text)
        for cells in rows(body, COLUMNS[0])
    ]


def series(text: str | None = None) -> dict[str, frozenset[str]]:
    """Every series that a query may name, with its own labels (without those of the target)."""
    found = dict[str, frozenset[str]]()
    for metric in metrics(text):
        found |= metric.series_labels()
    return found


def labels(text: str | None = None) -> list[str]:
    """The labels that the page explains, in its order."""
    cells = [row[0] for _, body in sections(text) for row in rows(body, "label")]
    return [label for cell in cells for label in _CODE.findall(cell)]


def examples(text: str | None = None) -> list[Example]:
    """The queries of all blocks of PromQL: comments that ask, the expression, an empty line."""
    found = []
    for section, body in sections(text):
        for block in _BLOCK.findall(body):
            for piece in block.strip().split("\n\n"):
                lines = piece.splitlines()
                asked = [line.removeprefix("# ") for line in lines if line.startswith("#")]
                expr = "\n".join(line for line in lines if not line.startswith("#"))
                found.append(Example(section, " ".join(asked), expr))
    return found


def sections(text: str | None = None) -> list[tuple[str, str]]:
    """Headings of the second level, and what stands under them."""
    _, *parts = _HEADING.split(page() if text is None else text)
    return list(zip(parts[::2], parts[1::2], strict=True))


def rows(body: str, first: str) -> list[list[str]]:
    """Return the cells of the tables that have this title in the first column."""
    found, reading = [], False
    for line in body.splitlines():
        row = _ROW.fullmatch(line)
        cells = [cell.strip() for cell in row[1].split("|")] if row else []
        if reading and cells and not line.startswith("|---"):
            found.append(cells)
        reading = bool(cells) and (reading or cells[0] == first)
    return found


def _metric(section: str, cells: list[str]) -> Metric:
    if len(cells) != len(COLUMNS):
        raise PageError(f"{section}: {cells[0]}: {len(cells)} cells, not {len(COLUMNS)}")
    names = _CODE.findall(cells[0])
    if len(names) != 1 or cells[0] != f"`{names[0]}`":
        raise PageError(f"{section}: {cells[0]} is not one name in backticks")
    labels = [each.strip() for code in _CODE.findall(cells[2]) for each in code.split(",")]
    return Metric(section, names[0], cells[1], frozenset(labels), cells[3], cells[4])
