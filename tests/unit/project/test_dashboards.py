# SPDX-License-Identifier: Apache-2.0
"""The dashboards are what the generator makes, in Grafana's schema, and well laid out."""

import enum
import json
import re
import typing
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.generator import DASHBOARDS
from dashboards.generator.model import title_of
from tests.unit.project.dashboards_support import (
    FOLDER,
    Object,
    dashboards,
    panels,
    used,
    variables,
)
from tests.unit.project.rules_support import RUNBOOK

ALL = dashboards()
NAMES = ("agent", "dns", "egress", "health", "overview", "pod", "policy")
UNITS = {value for name, value in vars(units).items() if isinstance(value, str) and name[0] != "_"}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
VERDICTS = {"allowed": "green", "denied": "red", "undeclared": "yellow", "unknown": "#8E8E8E"}
each_dashboard = pytest.mark.parametrize("name", NAMES)


def test_there_are_seven() -> None:
    assert tuple(ALL) == NAMES


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda each: each.name)
def test_the_files_are_what_the_generator_makes(dashboard: Any) -> None:
    text = json.dumps(dashboard.to_json(), indent=2, ensure_ascii=False) + "\n"
    assert (FOLDER / dashboard.file).read_text() == text, "run scripts/generate-dashboards"


# -- Grafana's schema -------------------------------------------------------------------


# An annotation of the Prometheus data source has these, too; the schema has those of all sources.
OF_PROMETHEUS = ("step", "titleFormat", "textFormat", "tagKeys", "useValueForTime")


def lost_of(dashboard: Object, model: Dashboard) -> list[str]:
    """Fields that the schema does not have."""
    own = re.compile(rf"\.annotations\.list\[\d+\]\.({'|'.join(OF_PROMETHEUS)})")
    found = lost(dashboard, json.loads(JSONEncoder().encode(model)))
    return [each for each in found if not own.fullmatch(each)]


def lost(given: Any, kept: Any, where: str = "") -> Iterator[str]:
    """What of ``given`` is not in ``kept``: fields that the schema does not have."""
    if isinstance(given, dict):
        for key, value in given.items():
            if not isinstance(kept, dict) or key not in kept:
                yield f"{where}.{key}"
            else:
                yield from lost(value, kept[key], f"{where}.{key}")
    elif isinstance(given, list):
        if not isinstance(kept, list) or len(kept) != len(given):
            yield where
        else:
            for index, (value, other) in enumerate(zip(given, kept, strict=True)):
                yield from lost(value, other, f"{where}[{index}]")
    elif given != kept:
        yield f"{where}: {given!r} became {kept!r}"


def misfits(value: Any, hint: Any, where: str = "") -> Iterator[str]:
    """Where a model's values are not of the types that its fields are declared with."""
    if hint is object and hasattr(value, "to_json"):  # a plugin's own options
        hint = type(value)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Union:
        own = [each for each in arguments if each is type(value)]
        options = [list(misfits(value, each, where)) for each in own or arguments]
        if all(options):
            yield from options[0]
    elif origin is typing.Literal:
        if value not in arguments:
            yield f"{where}: {value!r}"
    elif origin is list:
        if not isinstance(value, list):
            yield f"{where}: {value!r}"
        else:
            for index, each in enumerate(value):
                yield from misfits(each, arguments[0], f"{where}[{index}]")
    elif isinstance(hint, type) and hint is not object:
        yield from _not_of(value, hint, where)


def _not_of(value: Any, hint: type, where: str) -> Iterator[str]:
    if issubclass(hint, enum.Enum):
        if value not in [each.value for each in hint]:
            yield f"{where}: {value!r} is no {hint.__name__}"
    elif hint is float:
        if not isinstance(value, int | float):
            yield f"{where}: {value!r}"
    elif isinstance(value, dict) and hasattr(hint, "from_json"):  # which is left to its reader
        yield from misfits(hint.from_json(value), hint, where)
    elif not isinstance(value, hint):
        yield f"{where}: {value!r} is no {hint.__name__}"
    elif hasattr(value, "to_json"):
        for name, inner in typing.get_type_hints(type(value)).items():
            yield from misfits(getattr(value, name), inner, f"{where}.{name}")


@each_dashboard
def test_it_is_in_grafanas_schema(name: str) -> None:
    plugins.register_default_plugins()
    model = Dashboard.from_json(ALL[name])
    assert lost_of(ALL[name], model) == []
    assert list(misfits(model, Dashboard)) == []


def test_the_check_of_the_schema_can_fail() -> None:
    plugins.register_default_plugins()
    wrong = json.loads(json.dumps(ALL["overview"]))
    chosen = next(panel for panel in panels(wrong) if panel["type"] == "timeseries")
    chosen["options"]["legends"] = {}
    chosen["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] = "high"
    chosen["gridPos"]["w"] = "wide"
    model = Dashboard.from_json(wrong)
    (unknown,) = lost_of(wrong, model)
    assert unknown.endswith(".options.legends")
    assert len(list(misfits(model, Dashboard))) == 2


# -- layout and words -------------------------------------------------------------------


@each_dashboard
def test_it_has_a_fixed_uid_and_is_found_by_its_tag(name: str) -> None:
    dashboard = ALL[name]
    assert dashboard["uid"] == f"podtally-{name}"
    assert dashboard["tags"] == ["podtally"]
    assert dashboard["title"] == f"podtally / {title_of(name)}"


@each_dashboard
def test_panels_have_ids_and_places_of_their_own(name: str) -> None:
    every = ALL[name]["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    titles = [panel["title"] for panel in panels(ALL[name])]
    assert len(set(titles)) == len(titles)
    for panel in every:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24, panel["title"]
    for one, other in combinations(every, 2):
        assert not _overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )


@each_dashboard
def test_panels_say_what_they_mean_and_in_which_unit(name: str) -> None:
    for panel in panels(ALL[name]):
        assert panel["type"] in ("stat", "timeseries", "table", "nodeGraph")
        assert panel["title"]
        assert re.search(r"\w\)?\.$", panel["description"]), panel["title"]
        assert _units(panel) <= UNITS, panel["title"]
        assert None not in _units(panel), panel["title"]


def _units(panel: Object) -> set[str | None]:
    """Of everything in it that is a number."""
    if panel["type"] != "table":
        return {panel["fieldConfig"]["defaults"].get("unit")}
    (organize,) = (each for each in panel["transformations"] if each["id"] == "organize")
    titles = organize["options"]["renameByName"]
    numbers = [title for column, title in titles.items() if column.startswith("Value")]
    assert len(numbers) == len(panel["targets"])
    found: dict[str, str] = {
        override["matcher"]["options"]: each["value"]
        for override in panel["fieldConfig"]["overrides"]
        for each in override["properties"]
        if each["id"] == "unit"
    }
    return {found.get(title) for title in numbers}


@each_dashboard
def test_numbers_of_a_table_have_the_names_that_the_data_source_gives(name: str) -> None:
    for panel in panels(ALL[name]):
        if panel["type"] == "table":
            letters = [each["refId"] for each in panel["targets"]]
            wanted = {"Value"} if len(letters) == 1 else {f"Value #{each}" for each in letters}
            (options,) = (t["options"] for t in panel["transformations"] if t["id"] == "organize")
            named = {column for column in options["renameByName"] if column.startswith("Value")}
            assert named == wanted, panel["title"]
            titles = options["renameByName"].values()
            assert len(set(titles)) == len(titles), panel["title"]
            assert {each["displayName"] for each in panel["options"]["sortBy"]} <= set(titles)


@each_dashboard
def test_colours_mean_the_same_everywhere_and_no_background_is_set(name: str) -> None:
    text = json.dumps(ALL[name])
    assert "background" not in text
    for panel in panels(ALL[name]):
        if any(each.get("legendFormat") == "{{verdict}}" for each in panel["targets"]):
            colours = {
                override["matcher"]["options"]: each["value"]["fixedColor"]
                for override in panel["fieldConfig"]["overrides"]
                for each in override["properties"]
                if each["id"] == "color"
            }
            assert colours == VERDICTS, panel["title"]
        for column in ("verdict", "candidate"):
            assert words(panel, column) in (None, VERDICTS), panel["title"]


def words(panel: Object, column: str) -> dict[str, str] | None:
    """Colours of a label's values in a table; None if it has no such column."""
    titles = {
        name: title
        for each in panel.get("transformations", ())
        for name, title in each["options"].get("renameByName", {}).items()
    }
    if column not in titles:
        return None
    return {
        word: shown["color"]
        for override in panel["fieldConfig"]["overrides"]
        if override["matcher"]["options"] == titles[column]
        for each in override["properties"]
        if each["id"] == "mappings"
        for word, shown in each["value"][0]["options"].items()
    }


def test_thresholds_are_where_alerts_begin() -> None:
    rules = "\n".join(path.read_text() for path in sorted((FOLDER / "rules").glob("*.yaml")))
    for metric in (
        "podtally_table_fill_ratio",
        "podtally_kubernetes_age_seconds",
        "podtally_checkpoint_age_seconds",
    ):
        (begins,) = set(re.findall(rf"{metric} > ([\d.]+)$", rules, re.MULTILINE))
        shown = [
            [step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]
            for panel in panels(ALL["agent"])
            if panel["type"] != "table" and metric in panel["targets"][0]["expr"]
        ]
        assert shown
        assert all(float(begins) in steps for steps in shown), metric


# -- variables and links ----------------------------------------------------------------


@each_dashboard
def test_the_data_source_is_a_variable_everywhere(name: str) -> None:
    def walk(part: Any) -> Iterator[Any]:
        if isinstance(part, dict):
            if "datasource" in part:
                yield part["datasource"]
            for value in part.values():
                yield from walk(value)
        elif isinstance(part, list):
            for value in part:
                yield from walk(value)

    found = list(walk(ALL[name]))
    assert len(found) > 2 * len(list(panels(ALL[name])))  # each panel's, each query's
    assert all(each == SOURCE for each in found)
    assert variables(ALL[name])["datasource"]["type"] == "datasource"


@each_dashboard
def test_variables_that_are_used_are_there_and_the_other_way_round(name: str) -> None:
    has = set(variables(ALL[name]))
    asked = {each for each in used(json.dumps(ALL[name])) if not each.startswith("__")}
    assert asked == has
    cluster = variables(ALL[name])["cluster"]
    assert (cluster["includeAll"], cluster["allValue"]) == (True, ".*")  # no such label: all


@each_dashboard
def test_links_lead_to_dashboards_and_variables_that_there_are(name: str) -> None:
    by_uid = {each["uid"]: each for each in ALL.values()}
    to = [link["url"].split("/")[2] for link in ALL[name]["links"]]
    assert sorted([*to, f"podtally-{name}"]) == sorted(by_uid)
    single = {link["url"] for link in ALL[name]["links"] if not link["includeVars"]}
    assert all(url.startswith("/d/podtally-pod/") for url in single)
    for url in re.findall(r'"url": "(/d/[^"]+)"', json.dumps(ALL[name])):
        target = by_uid[url.split("/")[2]]
        assert set(re.findall(r"var-(\w+)=", url)) <= set(variables(target)), url
        assert set(re.findall(r"\{(\w+):queryparam\}", url)) <= set(variables(target)), url


def test_numbers_lead_to_what_explains_them() -> None:
    """A dashboard, or a section of a page that exists."""
    docs = FOLDER.parent / "docs"
    for name, dashboard in ALL.items():
        for panel in panels(dashboard):
            if panel["type"] != "stat":
                continue
            (link,) = panel["fieldConfig"]["defaults"]["links"]
            page, _, section = link["url"].partition("#")
            if page.startswith("/d/"):
                assert page.split("/")[2] != f"podtally-{name}", panel["title"]
                continue
            text = (docs / page.removeprefix("${docs}/")).read_text()
            heads = {head.lower() for head in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
            assert not section or section in heads, link["url"]


def test_alerts_lead_to_the_runbook() -> None:
    (panel,) = (each for each in panels(ALL["overview"]) if each["title"] == "Alerts")
    (links,) = (
        each["value"]
        for override in panel["fieldConfig"]["overrides"]
        if override["matcher"]["options"] == "Alert"
        for each in override["properties"]
        if each["id"] == "links"
    )
    assert [link["url"] for link in links] == ["${docs}/operations.md#:~:text=${__value.text}"]
    for dashboard in ALL.values():
        assert variables(dashboard)["docs"]["query"] == RUNBOOK.rpartition("/")[0]


@each_dashboard
def test_emptiness_is_explained(name: str) -> None:
    for panel in panels(ALL[name]):
        assert len(panel["fieldConfig"]["defaults"]["noValue"]) > 5, panel["title"]


@each_dashboard
def test_restarts_and_policy_changes_are_marked(name: str) -> None:
    marks = {each["name"]: each["expr"] for each in ALL[name]["annotations"]["list"]}
    assert set(marks) == {"Agent started", "Policies changed"}
    assert all(expr.startswith("1000 * (") for expr in marks.values()), "Grafana wants ms"


def test_workloads_in_tables_lead_to_their_dashboard() -> None:
    leading = [
        panel["title"]
        for dashboard in ALL.values()
        for panel in panels(dashboard)
        if panel["type"] == "table" and "/d/podtally-pod/" in json.dumps(panel)
    ]
    assert len(leading) >= 8
