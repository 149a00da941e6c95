# SPDX-License-Identifier: Apache-2.0
"""The kinds of panels: numbers, lines, tables and the service map."""

from collections.abc import Mapping
from dataclasses import dataclass

from dashboards.generator.model import PREFIX, Object, Panel, title_of
from dashboards.generator.queries import edges, grown

GREEN, RED, YELLOW, GREY = "green", "red", "yellow", "#8E8E8E"
VERDICT_COLOURS = {"allowed": GREEN, "denied": RED, "undeclared": YELLOW, "unknown": GREY}
# Colours of label values in tables; other labels have none.
WORD_COLOURS: Mapping[str, Mapping[str, str]] = {
    "verdict": VERDICT_COLOURS,
    "candidate": VERDICT_COLOURS,
    "severity": {"critical": RED, "warning": YELLOW},
    "alertstate": {"firing": RED, "pending": YELLOW},
}
LETTERS = "ABCDEFGHIJ"

BYTES, BYTES_PER_SECOND, BITS = "bytes", "Bps", "bps"
COUNT, PER_SECOND, SHARE, SECONDS = "short", "cps", "percentunit", "s"
DOLLARS, YES_NO = "currencyUSD", "bool_yes_no"


@dataclass(frozen=True)
class Line:
    expr: str
    legend: str


@dataclass(frozen=True)
class Value:
    """A column of numbers."""

    title: str
    expr: str
    unit: str


@dataclass(frozen=True)
class Counted:
    """A column of what a counter has grown by over the dashboard's range."""

    title: str
    metric: str
    selector: str


@dataclass(frozen=True)
class Column:
    """A column of a label's values."""

    label: str
    title: str


def labels(columns: tuple[Column, ...]) -> tuple[str, ...]:
    return tuple(each.label for each in columns)


@dataclass(frozen=True)
class Steps:
    """Thresholds from which a number has a colour; below all of them it has ``base``."""

    yellow: float | None = None
    red: float | None = None
    green: float | None = None
    base: str = GREEN

    def to_json(self) -> Object:
        steps: list[Object] = [{"color": self.base, "value": None}]
        for colour, value in ((YELLOW, self.yellow), (RED, self.red), (GREEN, self.green)):
            if value is not None:
                steps.append({"color": colour, "value": value})
        return {"mode": "absolute", "steps": steps}


PLAIN = Steps(base="text")
BELOW_ALL_IS_BAD = Steps(base=RED, green=1)
ANY_IS_BAD = Steps(red=1)
ANY_IS_ODD = Steps(yellow=1)


@dataclass(frozen=True)
class Look:
    """Unit, size and style of a panel."""

    unit: str
    width: int
    height: int = 8
    steps: Steps = PLAIN
    stacked: bool = False
    colours: Mapping[str, str] | None = None  # by legend
    empty: str = ""  # what it means that there is nothing to show


def number(  # noqa: PLR0913 - a panel has as many parts
    title: str,
    description: str,
    expr: str,
    unit: str,
    steps: Steps = PLAIN,
    *,
    to: str = "",
    empty: str = "no agent",
) -> Panel:
    """Return a panel with one current number; six fit into a line.

    A click leads ``to`` what explains it: a dashboard, or a section of the documentation
    (PAGE.md#SECTION). ``empty`` says what it means that there is no value.
    """
    links = {"links": [_to(to)]} if to else {}
    return Panel(
        kind="stat",
        title=title,
        description=description,
        width=4,
        height=4,
        targets=(_target("A", expr) | {"instant": True, "range": False},),
        options={
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "orientation": "auto",
            "textMode": "value",
            "colorMode": "value",
            "graphMode": "none",
            "justifyMode": "auto",
        },
        defaults={
            "unit": unit,
            "color": {"mode": "thresholds"},
            "thresholds": steps.to_json(),
            "noValue": empty,
            **links,
        },
    )


def lines(title: str, description: str, of: tuple[Line, ...] | Line, look: Look) -> Panel:
    """Return a panel of time series; ``look.empty`` says what it means that there are none."""
    of = of if isinstance(of, tuple) else (of,)
    stacking = {"mode": "normal" if look.stacked else "none", "group": "A"}
    custom: Object = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 30 if look.stacked else 5,
        "showPoints": "auto",
        "stacking": stacking,
        "thresholdsStyle": {"mode": "off" if look.steps is PLAIN else "line"},
    }
    return Panel(
        kind="timeseries",
        title=title,
        description=description,
        width=look.width,
        height=look.height,
        targets=tuple(
            _target(letter, line.expr) | {"legendFormat": line.legend, "range": True}
            for letter, line in zip(LETTERS, of, strict=False)
        ),
        options={
            "legend": {
                "displayMode": "list",
                "placement": "bottom",
                "showLegend": True,
                "calcs": [],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        defaults={
            "unit": look.unit,
            "min": 0,
            "color": {"mode": "palette-classic"},
            "custom": custom,
            "thresholds": look.steps.to_json(),
            "noValue": look.empty or "nothing counted in this time range",
        },
        overrides=tuple(_colour(name, colour) for name, colour in (look.colours or {}).items()),
    )


def table(
    title: str, description: str, columns: tuple[Column, ...], values: tuple[Value, ...], look: Look
) -> Panel:
    """Return a table by labels, sorted by its first value; workloads link to their dashboard.

    The data source calls the numbers of a single query ``Value``, those of several ``Value #A``.
    """
    letters = LETTERS[: len(values)]
    names = ["Value"] if len(values) == 1 else [f"Value #{letter}" for letter in letters]
    titles = {each.label: each.title for each in columns}
    titles |= {name: each.title for name, each in zip(names, values, strict=True)}
    organize: Object = {
        "excludeByName": {"Time": True},
        "indexByName": {name: index for index, name in enumerate(titles)},
        "renameByName": titles,
    }
    merge: tuple[Object, ...] = ({"id": "merge", "options": {}},) if len(values) > 1 else ()
    labels = {each.label for each in columns}
    linked = {"namespace", "workload"} <= labels
    return Panel(
        kind="table",
        title=title,
        description=description,
        width=look.width,
        height=look.height,
        targets=tuple(
            _table_target(letter, each.expr) for letter, each in zip(letters, values, strict=True)
        ),
        options={
            "showHeader": True,
            "cellHeight": "sm",
            "sortBy": [{"displayName": values[0].title, "desc": True}],
        },
        defaults={
            "custom": {"align": "auto", "filterable": True},
            "noValue": look.empty or "none in this time range",
        },
        overrides=(
            *(_unit(each.title, each.unit) for each in values),
            *(
                _words(each.title, WORD_COLOURS[each.label])
                for each in columns
                if each.label in WORD_COLOURS
            ),
            *([_links(titles["workload"], (_to_pod("", "Open"),))] if linked else ()),
            *([_links(titles["alertname"], (_RUNBOOK,))] if "alertname" in labels else ()),
        ),
        transformations=(*merge, {"id": "organize", "options": organize}),
    )


def growth_table(
    title: str, description: str, columns: tuple[Column, ...], counted: Counted, look: Look
) -> Panel:
    """Return a table of what a counter has grown by, summed by the labels of its columns."""
    query = grown(counted.metric, counted.selector, *labels(columns))
    return table(title, description, columns, (Value(counted.title, query, COUNT),), look)


def service_map(title: str, description: str, selector: str, height: int = 14) -> Panel:
    """Return a node graph.

    It reads fields by their original names, which renaming does not change, so ``mainstat`` is
    calculated. Without a frame of nodes, it derives the nodes from the edges.
    """
    calculated: Object = {
        "mode": "binary",
        "alias": "mainstat",
        "binary": {"left": "Value", "operator": "/", "right": "1000"},
        "replaceFields": False,
    }
    return Panel(
        kind="nodeGraph",
        title=title,
        description=description,
        width=24,
        height=height,
        targets=(_table_target("edges", edges(selector)),),
        options={"nodes": {"mainStatUnit": "kB/s"}, "edges": {"mainStatUnit": "kB/s"}},
        defaults={"unit": "KBs", "noValue": "no traffic now between what is selected"},
        overrides=(
            _links("source", (_to_pod("", "Open the workload"),)),
            _links("target", (_to_pod("peer_", "Open the peer, if it is a workload"),)),
        ),
        transformations=({"id": "calculateField", "options": calculated},),
    )


def by_verdict(title: str, description: str, expr: str, unit: str, width: int) -> Panel:
    """Return lines by the label ``verdict``, in the colours that verdicts have everywhere."""
    look = Look(unit, width, stacked=True, colours=VERDICT_COLOURS)
    return lines(title, description, Line(expr, "{{verdict}}"), look)


def _target(letter: str, expr: str) -> Object:
    return {"refId": letter, "expr": expr, "editorMode": "code"}


def _table_target(letter: str, expr: str) -> Object:
    return _target(letter, expr) | {"format": "table", "instant": True, "range": False}


def _override(name: str, *properties: Object) -> Object:
    return {"matcher": {"id": "byName", "options": name}, "properties": list(properties)}


def _colour(name: str, colour: str) -> Object:
    return _override(name, {"id": "color", "value": {"mode": "fixed", "fixedColor": colour}})


def _unit(name: str, unit: str) -> Object:
    return _override(name, {"id": "unit", "value": unit})


def _words(name: str, colours: Mapping[str, str]) -> Object:
    """Return the override that colours a column's texts."""
    options = {
        word: {"color": colour, "index": index}
        for index, (word, colour) in enumerate(colours.items())
    }
    return _override(
        name,
        {"id": "custom.cellOptions", "value": {"type": "color-text"}},
        {"id": "mappings", "value": [{"type": "value", "options": options}]},
        # Other values have the colour of text.
        {"id": "thresholds", "value": PLAIN.to_json()},
    )


# A text fragment: a data link cannot write the alert's name in lower case, as anchors are.
_RUNBOOK: Object = {
    "title": "Open the runbook",
    "url": "${docs}/operations.md#:~:text=${__value.text}",
    "targetBlank": True,
}


def _to(target: str) -> Object:
    """Return a link to a dashboard, with the selection, or to a page of the documentation."""
    if ".md" in target:
        return {"title": "What it means", "url": f"${{docs}}/{target}", "targetBlank": True}
    kept = "${datasource:queryparam}&${cluster:queryparam}&${__url_time_range}"
    url = f"/d/{PREFIX}{target}/{target}?{kept}"
    return {"title": f"Open {title_of(target)}", "url": url}


def _links(name: str, links: tuple[Object, ...]) -> Object:
    return _override(name, {"id": "links", "value": list(links)})


def _to_pod(prefix: str, title: str) -> Object:
    """Return a link to the dashboard of a row's workload; ``prefix`` is that of its labels."""
    chosen = "&".join(
        f"var-{name}=${{__data.fields.{prefix}{name}:percentencode}}"
        for name in ("namespace", "workload")
    )
    kept = "${datasource:queryparam}&${cluster:queryparam}&${__url_time_range}"
    return {"title": title, "url": f"/d/{PREFIX}pod/pod?{kept}&{chosen}"}
