# SPDX-License-Identifier: Apache-2.0
"""The parts of a dashboard, and its JSON in Grafana 10's schema."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]

COLUMNS = 24  # of Grafana's grid
PREFIX = "podtally-"  # of every uid
DATASOURCE: Object = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Variable:
    """A selection at the top: the values of ``name`` in ``metric``, several unless ``single``.

    With ``everything``, All is ``.*``, which matches series without the label, too. Without it,
    All is the list of the values that were found.
    """

    name: str
    title: str
    metric: str  # a selector
    single: bool = False
    everything: bool = True

    @property
    def query(self) -> str:
        return f"label_values({self.metric}, {self.name})"

    def to_json(self) -> Object:
        every = not self.single
        current: Object = {"selected": True, "text": ["All"], "value": ["$__all"]}
        found: Object = {
            "type": "query",
            "name": self.name,
            "label": self.title,
            "datasource": DATASOURCE,
            "query": {"query": self.query, "refId": self.name},
            "refresh": 2,  # when the time range changes: pods come and go
            "sort": 1,
            "multi": every,
            "includeAll": every,
            "current": current if every else {},
            "options": [],
            "hide": 0,
            "regex": "",
            "skipUrlSync": False,
        }
        return found | ({"allValue": ".*"} if every and self.everything else {})


@dataclass(frozen=True)
class Annotation:
    """Vertical lines in all panels, at the Unix times that are the values of ``expr``."""

    name: str
    colour: str
    expr: str
    text: str

    def to_json(self) -> Object:
        return {
            "name": self.name,
            "datasource": DATASOURCE,
            "enable": True,
            "iconColor": self.colour,
            # The rest is of Grafana's Prometheus data source, with times in ms.
            "expr": f"1000 * ({self.expr})",
            "step": "60s",
            "titleFormat": self.name,
            "textFormat": self.text,
            "tagKeys": "",
            "useValueForTime": True,
        }


ANNOTATIONS = (
    Annotation(
        "Agent started",
        "blue",
        'process_start_time_seconds{cluster=~"$cluster"} and on (cluster, instance, job) '
        'podtally_build_info{cluster=~"$cluster"}',
        "on {{instance}}; its programs counted meanwhile",
    ),
    Annotation(
        "Policies changed",
        "purple",
        'max by (cluster) (podtally_policies_changed_timestamp_seconds{cluster=~"$cluster"})',
        "kubectl podtally explain FROM TO PORT says what holds now",
    ),
)


@dataclass(frozen=True)
class Panel:
    """One panel; ``width`` and ``height`` are in grid cells."""

    kind: str
    title: str
    description: str
    width: int
    height: int
    targets: tuple[Object, ...]
    options: Object
    defaults: Object  # of its fields
    overrides: tuple[Object, ...] = ()
    transformations: tuple[Object, ...] = ()

    def to_json(self, number: int, x: int, y: int) -> Object:
        found: Object = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": [{"datasource": DATASOURCE} | each for each in self.targets],
            "options": self.options,
            "fieldConfig": {"defaults": self.defaults, "overrides": list(self.overrides)},
        }
        if self.transformations:
            found["transformations"] = list(self.transformations)
        return found


@dataclass(frozen=True)
class Row:
    """Panels under a heading, from left to right, in one line or more."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    name: str  # of the file and, with PREFIX, the uid
    title: str
    description: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]

    @property
    def uid(self) -> str:
        return PREFIX + self.name

    @property
    def file(self) -> str:
        return f"{self.name}.json"

    def to_json(self) -> Object:
        return {
            "uid": self.uid,
            "title": f"podtally / {self.title}",
            "description": self.description,
            "tags": ["podtally"],
            "schemaVersion": 38,  # Grafana 10.0's; later ones read it as well
            "version": 1,
            "editable": True,
            "timezone": "browser",
            "graphTooltip": 1,  # one crosshair in all panels
            "time": {"from": "now-1h", "to": "now"},
            "refresh": "1m",
            "links": [_link(name) for name in _OTHERS if name != self.name],
            "templating": {
                "list": [_CHOICE_OF_SOURCE, *(v.to_json() for v in self.variables), _DOCS]
            },
            "annotations": {"list": [each.to_json() for each in ANNOTATIONS]},
            "panels": list(self._panels()),
        }

    def _panels(self) -> Iterator[Object]:
        y = number = 0
        for row in self.rows:
            number += 1
            place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
            heading = {"id": number, "type": "row", "title": row.title, "gridPos": place}
            yield heading | {"collapsed": False, "panels": []}
            y, x, tallest = y + 1, 0, 0
            for panel in row.panels:
                number += 1
                if x + panel.width > COLUMNS:
                    y, x, tallest = y + tallest, 0, 0
                yield panel.to_json(number, x, y)
                x, tallest = x + panel.width, max(tallest, panel.height)
            y += tallest


_OTHERS = (
    "overview",
    "pod",
    "egress",
    "policy",
    "health",
    "dns",
    "agent",
)  # in the order of the links


def title_of(name: str) -> str:
    return name.upper() if name == "dns" else name.capitalize()


def _link(name: str) -> Object:
    """Return a link to another dashboard that keeps the selection; Pod takes no All."""
    whole = name != "pod"
    chosen = "" if whole else "?${datasource:queryparam}&${cluster:queryparam}"
    return {
        "type": "link",
        "title": title_of(name),
        "url": f"/d/{PREFIX}{name}/{name}{chosen}",
        "includeVars": whole,
        "keepTime": True,
        "targetBlank": False,
        "asDropdown": False,
        "icon": "dashboard",
        "tooltip": "",
        "tags": [],
    }


DOCS_URL = "https://github.com/podtally/podtally/blob/main/docs"
# The one place where the documentation lives: change it at the top of a dashboard, or here.
_DOCS: Object = {
    "type": "textbox",
    "name": "docs",
    "label": "Documentation",
    "query": DOCS_URL,
    "current": {"selected": True, "text": DOCS_URL, "value": DOCS_URL},
    "options": [{"selected": True, "text": DOCS_URL, "value": DOCS_URL}],
    "hide": 2,  # not shown
    "skipUrlSync": False,
}
_CHOICE_OF_SOURCE: Object = {
    "type": "datasource",
    "name": "datasource",
    "label": "Data source",
    "query": "prometheus",
    "refresh": 1,
    "current": {},
    "options": [],
    "hide": 0,
    "includeAll": False,
    "multi": False,
    "regex": "",
    "skipUrlSync": False,
}
