# SPDX-License-Identifier: Apache-2.0
"""Reads the dashboards as Grafana would: their JSON, its panels, and queries with variables filled in."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

Object = dict[str, Any]

FOLDER = Path(__file__).parents[3] / "dashboards"
_VARIABLE = re.compile(r"\$(?:\{([a-z_]\w*)[^}]*\}|([a-z_]\w*))")  # not $1


class Query(NamedTuple):
    dashboard: str  # its file's name without the suffix
    panel: Object
    target: Object

    @property
    def name(self) -> str:
        return f"{self.dashboard}: {self.panel['title']} {self.target['refId']}"

    @property
    def expr(self) -> str:
        return str(self.target["expr"])


def dashboards() -> dict[str, Object]:
    """By the names of their files, without the suffix."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def panels(dashboard: Object) -> Iterator[Object]:
    """All that show data: no headings of rows, no texts."""
    return (each for each in dashboard["panels"] if each["type"] not in ("row", "text"))


def queries(name: str, dashboard: Object) -> Iterator[Query]:
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield Query(name, panel, target)
    for each in dashboard["annotations"]["list"]:
        marks = {"title": each["name"], "type": "annotation", "targets": []}
        yield Query(name, marks, {"refId": "A", "expr": each["expr"], "range": True})


def variables(dashboard: Object) -> dict[str, Object]:
    return {each["name"]: each for each in dashboard["templating"]["list"]}


def used(text: str) -> set[str]:
    """Names of the variables in a text, Grafana's own (``__...``) as well."""
    return {braced or bare for braced, bare in _VARIABLE.findall(text)}


def fill(text: str, values: Mapping[str, str]) -> str:
    """Put in the values; a variable that has none is a KeyError."""
    return _VARIABLE.sub(lambda found: values[found[1] or found[2]], text)
