# SPDX-License-Identifier: Apache-2.0
"""docs/metrics.md and /metrics have the same metrics, types and labels, and its example queries are good ones."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from prometheus_client import Gauge
from prometheus_client.parser import text_string_to_metric_families

from podtally.config import ExpectedTraffic
from podtally.export import documentation
from podtally.export.agent_metrics import AgentMetrics
from podtally.export.expected import ExpectedMatcher
from podtally.export.publisher import Health, Publisher
from podtally.identity.name_table import WELL_KNOWN
from podtally.ledger.metrics.families import DENIED, FAMILIES
from podtally.ledger.metrics.view import View
from podtally.ledger.series.label_sets import ACCOUNTS
from podtally.ledger.series.series import SeriesView
from podtally.ledger.verdicts.judgements import FOREIGN_SENDER, UNKNOWN_INITIATOR
from podtally.ledger.verdicts.verdict_columns import NAMES
from podtally.netlink.model import Hook, Mode
from podtally.policy.model import VERDICTS
from podtally.policy.reference import engine
from tests.unit import metrics_page
from tests.unit.metrics_page import CARDINALITIES, KINDS, Example, Metric, PageError
from tests.unit.promql_labels import check

METRICS = metrics_page.metrics()
EXAMPLES = metrics_page.examples()
CAUSES = {UNKNOWN_INITIATOR, FOREIGN_SENDER, NAMES} | {
    engine.UNKNOWN_END,
    engine.UNREADABLE,
    engine.DOUBT,
    engine.SELECTION,
    engine.SAME_PRIORITY,
    engine.PROTOCOL,
}
RULES = metrics_page.PATH.parents[1] / "dashboards" / "rules"
NEEDS_PROMTOOL = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)

Described = dict[str, tuple[str, frozenset[str]]]  # by name: type and labels


def exposed() -> str:
    """/metrics with at least one series of every family."""
    series = {}
    for family in FAMILIES:
        label_sets = [family.labels(*("x",) * len(family.label_names))]
        if any(metric.only for metric in family.metrics):
            named = [dict([metric.only]) for metric in family.metrics if metric.only]
            label_sets = [label_sets[0]._replace(**each) for each in named]
        sums = np.full((len(label_sets), len(family.sums)), 23)
        series[family.name] = SeriesView(label_sets, sums)
    own = AgentMetrics()
    labels = {metric.name: metric.labels for metric in METRICS}
    for gauge in vars(own).values():
        if isinstance(gauge, Gauge):
            name = next(iter(gauge.describe())).name
            if labels.get(name):  # a ValueError, if the code has others
                gauge.labels(**dict.fromkeys(labels[name], "x")).set(23)
    some = series[DENIED.name]
    egress = some.labels[0]._replace(direction="egress")
    series[DENIED.name] = SeriesView([*some.labels, egress], np.repeat(some.values, 2, axis=0))
    expected = ExpectedTraffic(workload="x/x", peer="x/x", until="2999-12-31", reason="x")
    health = Health("", "")
    publisher = Publisher(View(series), own, lambda: health, ExpectedMatcher([expected]))
    return publisher.render("")[0].decode()


def described(text: str) -> Described:
    found: Described = {}
    for family in text_string_to_metric_families(text):
        assert family.samples, f"{family.name} has no series that would show its labels"
        (labels,) = {frozenset(sample.labels) - {"le"} for sample in family.samples}
        name = family.name + ("_total" if family.type == "counter" else "")
        found[name] = family.type, labels
    return found


def documented(metrics: list[Metric]) -> Described:
    return {metric.name: (metric.kind, metric.labels) for metric in metrics}


def test_the_page_has_the_metrics_as_they_are_declared() -> None:
    """scripts/generate-docs writes its tables."""
    page = metrics_page.page()
    assert documentation.updated(page) == page
    assert len(METRICS) == len(documentation.documented())


def test_the_page_has_what_metrics_has() -> None:
    assert documented(METRICS) == described(exposed())
    assert len({metric.name for metric in METRICS}) == len(METRICS)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("| `podtally_build_info` ", "| `podtally_build_infos` "),
        ("`podtally_policies` | gauge", "`podtally_policies` | counter"),
        ("`namespace, pod, direction` | Packets", "`namespace, direction` | Packets"),
        ("| counter | | Checkpoints", "| counter | `path` | Checkpoints"),
        ("gauge | `kind` |", "gauge | |"),
    ],
)
def test_a_page_that_says_otherwise_is_found(old: str, new: str) -> None:
    page = metrics_page.page()
    assert page.count(old) == 1
    assert documented(metrics_page.metrics(page.replace(old, new))) != described(exposed())


@pytest.mark.parametrize(
    "row", ["| `podtally_x` | gauge | | x |", "| podtally_x | gauge | | x | fine: 1 |"]
)
def test_a_row_that_cannot_be_read_is_no_row_left_out(row: str) -> None:
    head = "## Traffic\n\n| metric | type | labels | what it is | series |\n|---|---|---|---|---|\n"
    with pytest.raises(PageError, match="podtally_x"):
        metrics_page.metrics(f"# Metrics\n\n{head}{row}\n")


def test_every_row_says_all_that_it_should() -> None:
    for metric in METRICS:
        assert metric.kind in KINDS, metric.name
        assert metric.text, metric.name
        cardinality, _, grows_with = metric.series.partition(": ")
        assert cardinality in CARDINALITIES, metric.name
        assert grows_with, metric.name


def test_how_many_series_there_are_where_it_is_a_number() -> None:
    shown = {
        family.name + ("_total" if family.type == "counter" else ""): len(family.samples)
        for family in text_string_to_metric_families(exposed())
    }
    for metric in METRICS:
        if not metric.labels:
            assert metric.series == f"fine: {shown[metric.name]}", metric.name
    (unknown_verdicts,) = (metric for metric in METRICS if metric.labels == {"cause"})
    assert unknown_verdicts.series == f"fine: {len(CAUSES)}"


def test_every_label_is_explained() -> None:
    labels = metrics_page.labels()
    assert len(set(labels)) == len(labels)
    assert set(labels) == frozenset[str]().union(*(metric.labels for metric in METRICS))


@pytest.mark.parametrize(
    ("label", "values"),
    [
        ("verdict", VERDICTS),
        ("cause", CAUSES),
        ("account", ACCOUNTS),
        ("peer_workload", WELL_KNOWN),
        ("hook", [each.value for each in Hook]),
        ("mode", [each.value for each in Mode]),
    ],
)
def test_a_label_says_what_the_page_says(label: str, values: list[str]) -> None:
    (row,) = re.findall(rf"^\| [^|]*`{label}`.*$", metrics_page.page(), re.MULTILINE)
    assert set(values) - set(re.findall(r"`([^`]+)`", row)) == set()


def test_names_in_the_text_are_those_of_metrics() -> None:
    named = set(re.findall(r"\bpodtally_\w+", metrics_page.page()))
    assert named - {metric.name for metric in METRICS} - set(metrics_page.series()) == set()


def test_recorded_names_in_the_text_are_those_of_rules() -> None:
    rules = "\n".join(path.read_text() for path in sorted(RULES.glob("*.yaml")))
    named = set(re.findall(r"\bpodtally:[\w:]+", metrics_page.page()))
    assert named - set(re.findall(r"record: (podtally:[\w:]+)", rules)) == set()


@pytest.mark.parametrize("page", ["metrics.md", "configuration.md"])
def test_links_lead_somewhere(page: str) -> None:
    folder = metrics_page.PATH.parent
    for name, anchor in re.findall(r"\]\(([\w./-]*)#?([\w-]*)\)", (folder / page).read_text()):
        target = (folder / (name or page)).read_text()
        headings = re.findall(r"^#+ (.+)$", target, re.MULTILINE)
        assert not anchor or anchor in {h.lower().replace(" ", "-") for h in headings}, (
            name,
            anchor,
        )


def test_every_metric_is_asked_for_in_an_example() -> None:
    for metric in METRICS:
        asked = {e for e in EXAMPLES if any(s in names(e) for s in metric.series_labels())}
        assert any(example.section == metric.section for example in asked), metric.name


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.question)
def test_an_example_names_what_there_is(example: Example) -> None:
    assert example.question
    _, faults = check(example.expr, metrics_page.series())
    assert faults == []


@NEEDS_PROMTOOL
def test_promtool_reads_every_example(tmp_path: Path) -> None:
    rules = [{"record": f"x:{i}", "expr": e.expr} for i, e in enumerate(EXAMPLES)]
    file = tmp_path / "examples.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "examples", "rules": rules}]}))
    promtool("check", "rules", str(file))


@NEEDS_PROMTOOL
def test_promtool_has_nothing_to_say_of_any_family() -> None:
    assert promtool("check", "metrics", text=exposed()) == ""


def names(example: Example) -> set[str]:
    return set(re.findall(r"\b[a-z]+_\w+\b", example.expr))


def promtool(*words: str, text: str = "") -> str:
    done = subprocess.run(
        ["promtool", *words], input=text, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr
