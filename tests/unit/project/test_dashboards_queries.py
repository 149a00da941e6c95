# SPDX-License-Identifier: Apache-2.0
"""Every query of the dashboards parses, and names metrics and labels that docs/metrics.md has."""

import json
import re
from datetime import timedelta

import promql_parser as promql
import pytest

from podtally.export.documentation import documented
from tests.unit.project.dashboards_support import (
    Object,
    Query,
    dashboards,
    fill,
    queries,
    variables,
)
from tests.unit.promql_labels import PAGE, catalogue, check

ALL = dashboards()
QUERIES = [query for name, each in ALL.items() for query in queries(name, each)]
METRICS = catalogue(PAGE.read_text())
BUILT_IN = {"__rate_interval": "1m", "__range": "1h", "__range_s": "3600"}
# No other range vectors, and above all no interval that is written by hand.
RANGES = {
    ("rate", timedelta(minutes=1)),
    ("increase", timedelta(hours=1)),
    ("last_over_time", timedelta(hours=1)),
}


def values(dashboard: Object) -> dict[str, str]:
    return BUILT_IN | dict.fromkeys(variables(dashboard), "x")


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)
def test_it_names_what_there_is(query: Query) -> None:
    labels, faults = check(fill(query.expr, values(ALL[query.dashboard])), METRICS)
    assert faults == []
    legend = query.target.get("legendFormat", "")
    assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= labels
    assert set(re.findall(r"__data\.fields\.(\w+)", json.dumps(query.panel))) <= labels
    if query.panel["type"] == "table":
        assert titled(query.panel) == labels  # none is left without a title


def titled(panel: Object) -> set[str]:
    """Labels that a table has columns of."""
    (organize,) = (each for each in panel["transformations"] if each["id"] == "organize")
    return {name for name in organize["options"]["renameByName"] if not name.startswith("Value")}


def test_maps_have_the_fields_that_a_node_graph_takes() -> None:
    """By their real names, with a number in mainstat; nodes it makes of the edges."""
    maps = [query for query in QUERIES if query.panel["type"] == "nodeGraph"]
    assert {query.dashboard for query in maps} == {"overview", "pod"}
    for query in maps:
        labels, _ = check(fill(query.expr, values(ALL[query.dashboard])), METRICS)
        assert labels >= {"id", "source", "target", "secondarystat", "color", "highlighted"}
        (calculate,) = query.panel["transformations"]
        assert (calculate["id"], calculate["options"]["alias"]) == ("calculateField", "mainstat")
        assert calculate["options"]["binary"]["left"] == "Value"
        assert [each["refId"] for each in query.panel["targets"]] == ["edges"]


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)
def test_rates_are_over_the_rate_interval_and_growth_over_the_range(query: Query) -> None:
    found = list[tuple[str, timedelta]]()

    def look(node: promql.Expr) -> None:
        if isinstance(node, promql.Call):
            spans = [each for each in node.args if isinstance(each, promql.MatrixSelector)]
            found.extend((node.func.name, each.range) for each in spans)

    promql.walk(promql.parse(fill(query.expr, values(ALL[query.dashboard]))), look)
    assert set(found) <= RANGES


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)
def test_only_chosen_clusters_are_queried(query: Query) -> None:
    selectors = re.findall(r"\{[^}]*\}", query.expr)
    assert selectors
    assert all('cluster=~"$cluster"' in each for each in selectors)


@pytest.mark.parametrize("name", ALL)
def test_variables_query_metrics_that_exist(name: str) -> None:
    for variable in variables(ALL[name]).values():
        if variable["type"] == "query":
            selector, label = parts(variable["query"]["query"])
            labels, faults = check(fill(selector, values(ALL[name])), METRICS)
            assert faults == []
            assert label in labels


def parts(text: str) -> tuple[str, str]:
    """Selector and label of ``label_values(SELECTOR, LABEL)``."""
    found = re.fullmatch(r"label_values\((.*), (\w+)\)", text)
    assert found, text
    return found[1], found[2]


@pytest.mark.parametrize(
    ("expr", "fault"),
    [
        ("sum(podtally_flow_byte_total)", "no metric podtally_flow_byte_total"),
        ('podtally_books_bytes_total{pod="a"}', "podtally_books_bytes_total has no label pod"),
        ("sum by (scope) (podtally_pod_bytes_total)", "sum has no label scope"),
        ("max by (job) (sum by (pod) (podtally_pod_bytes_total))", "max has no label job"),
        ('label_replace(up, "a", "$1", "b", "(.*)")', "label_replace has no label b"),
        ("up and on (pod) podtally_pod_bytes_total", "and has no label pod"),
    ],
)
def test_faults_are_found(expr: str, fault: str) -> None:
    assert check(expr, METRICS)[1] == [fault]


def test_every_metric_is_on_a_dashboard() -> None:
    """Except those that are declared to be on none, since others say the same."""
    names = set(re.findall(r"podtally_\w+", " ".join(query.expr for query in QUERIES)))
    shown = {re.sub(r"_bucket$", "", name) for name in names}
    for metric in documented():
        name = metric.declared.sample_name
        if name.startswith("podtally_"):
            assert (name in shown) == metric.declared.on_dashboards, name
