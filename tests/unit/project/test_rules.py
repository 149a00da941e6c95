# SPDX-License-Identifier: Apache-2.0
"""The rules of Prometheus hold what docs/operations.md and docs/metrics.md say; promtool fires and silences each."""

import functools
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from tests.unit.project.dashboards_support import dashboards
from tests.unit.project.rules_support import (
    FILES,
    GRAFANA,
    PAGE_TEXT,
    ROOT,
    RULES,
    RUNBOOK,
    SECTIONS,
    Rule,
    configurations,
    groups,
    rules,
)
from tests.unit.promql_labels import PAGE, Catalogue, catalogue, check

AGENT = ROOT / "agent" / "podtally"
SCRIPT = ROOT / "scripts" / "generate-rules"
OPERATOR = ROOT / "deploy" / "overlays" / "prometheus-operator" / "prometheusrule.yaml"
TESTS = sorted((RULES / "tests").glob("*.yaml"))
WEEKS = ("traffic", "usual")
PACKAGES = {"promtool": "prometheus", "amtool": "prometheus-alertmanager"}
SEVERITIES = ("critical", "warning", "info")
# prometheus_client's ProcessCollector: docs/metrics.md has it as `process_*`.
PROCESS = {"process_start_time_seconds": frozenset[str]()}


ALERTS = [rule for rule in rules() if rule.alert]
RECORDS = [rule for rule in rules() if rule.record]
by_name = pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule.name)


def metrics() -> Catalogue:
    """Those of the page, and those that the recording rules make."""
    found = {**catalogue(PAGE.read_text()), **PROCESS}
    for rule in (*RECORDS, *RECORDS):  # again, since one of them looks at its own past
        labels, _ = check(rule.expr, {rule.record: frozenset[str](), **found})
        found[rule.record] = found.get(rule.record, frozenset()) | labels | rule.labels.keys()
    return found


def promtool(*words: str | Path) -> None:
    tool("promtool", *words)


def tool(name: str, *words: str | Path) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"needs {name} (Debian: {PACKAGES[name]})")
    done = subprocess.run([name, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", *FILES)


@pytest.mark.parametrize(
    "path",
    [
        # weeks of samples: 7 and 17 s of CPU
        pytest.param(path, marks=pytest.mark.slow if path.stem in WEEKS else (), id=path.stem)
        for path in TESTS
    ],
)
def test_promtool_fires_and_silences(path: Path) -> None:
    promtool("test", "rules", path)


@functools.cache
def expected_by_alert() -> dict[str, set[bool]]:
    """Return for each alert whether promtool's tests expect it to fire, and to be silent."""
    found: dict[str, set[bool]] = defaultdict(set)
    for path in TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for each in test.get("alert_rule_test", ()):
                found[each["alertname"]].add(bool(each["exp_alerts"]))
    return found


@by_name
def test_every_alert_is_fired_and_silenced(rule: Rule) -> None:
    assert expected_by_alert()[rule.alert] == {True, False}


@by_name
def test_every_alert_says_what_it_is_and_where_to_read_on(rule: Rule) -> None:
    assert set(rule.labels) == {"severity"}
    assert rule.labels["severity"] in SEVERITIES
    assert re.fullmatch(r"[1-9]\d*[mh]|0m", rule.holds)
    assert set(rule.annotations) == {"summary", "description", "runbook_url", "dashboard_url"}
    assert all(rule.annotations.values())
    assert rule.annotations["runbook_url"] == f"{RUNBOOK}#{rule.alert.lower()}"


@by_name
def test_every_alert_leads_to_a_dashboard(rule: Rule) -> None:
    """One that there is, with variables that it has, selected by labels that the alert has."""
    url = rule.annotations["dashboard_url"]
    found = re.match(rf"{re.escape(GRAFANA)}/d/podtally-(\w+)/(\w+)(\?.*)?$", url)
    assert found is not None, url
    name, slug, query = found.groups()
    assert name == slug
    variables = set(re.findall(r"var-(\w+)=", query or ""))
    assert variables <= {each["name"] for each in dashboards()[name]["templating"]["list"]}
    assert variables <= check(rule.expr, metrics())[0], "labels of the alert"
    assert set(re.findall(r"{{ (?:with )?\$labels\.(\w+)", query or "")) == variables
    assert query is None or query.count("| urlquery }}") == len(variables)


@by_name
def test_every_alert_has_its_section(rule: Rule) -> None:
    section = SECTIONS[rule.alert]
    words = re.findall(r"\*\*(Means|Look|Do|Assumes)\*\*", section.replace(".**", "**"))
    assert words == ["Means", "Look", "Do", "Assumes"]


def test_no_section_is_about_an_alert_that_there_is_not() -> None:
    assert list(SECTIONS) == sorted(SECTIONS, key=[rule.alert for rule in ALERTS].index)
    names = {rule.alert for rule in ALERTS}
    assert set(re.findall(r"\bPodtally[A-Z]\w+", PAGE_TEXT)) <= names


@pytest.mark.parametrize("rule", [*RECORDS, *ALERTS], ids=lambda rule: rule.name)
def test_metrics_and_labels_of_rules_exist(rule: Rule) -> None:
    labels, faults = check(rule.expr, metrics())
    assert faults == []
    texts = " ".join(rule.annotations.values())
    assert set(re.findall(r"\$labels\.(\w+)", texts)) <= labels


def test_a_rule_that_names_what_there_is_not_is_found() -> None:
    there = metrics()
    for expr, fault in (
        ("podtally_nonsense > 0", "no metric podtally_nonsense"),
        (
            'podtally:policy_denied:increase10m{scope="internet"}',
            "podtally:policy_denied:increase10m has no label scope",
        ),
        ("podtally:no:such", "no metric podtally:no:such"),
    ):
        assert check(expr, there)[1] == [fault]


def test_groups_and_rules_have_names_of_their_own() -> None:
    """All files go into one PrometheusRule, where groups must differ."""
    names = [group["name"] for path in FILES for group in groups(path)]
    assert len(set(names)) == len(names)
    assert len({rule.alert for rule in ALERTS}) == len(ALERTS)
    assert all(rule.record.startswith("podtally:") for rule in RECORDS)


def test_the_operators_rules_are_these() -> None:
    done = subprocess.run([SCRIPT, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = yaml.safe_load(OPERATOR.read_text())["spec"]["groups"]
    assert made == [group for path in sorted(FILES) for group in groups(path)]


def test_the_runbooks_configurations_are_accepted(tmp_path: Path) -> None:
    """Its piece of prometheus.yml, and its piece of alertmanager.yml with receivers added."""
    scraping, alerting = configurations()
    folders = {Path(each).parent for each in scraping["rule_files"]}
    assert [Path(each).name for each in scraping["rule_files"]] == [path.name for path in FILES]
    assert folders == {Path("/etc/prometheus/podtally")}
    scraping["rule_files"] = [str(path) for path in FILES]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(scraping))
    promtool("check", "config", tmp_path / "prometheus.yml")
    alerting["receivers"] = [{"name": name} for name in ("team", "pager", "nobody")]
    (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump(alerting))
    tool("amtool", "check-config", tmp_path / "alertmanager.yml")
    named = re.findall(r"Podtally\w+", str(alerting["inhibit_rules"]))
    assert set(named) <= {rule.alert for rule in ALERTS}


def test_metrics_that_the_runbook_asks_for_exist() -> None:
    named = set(re.findall(r"\b(podtally[_:][a-z_0-9:]*[a-z0-9])\b", PAGE_TEXT))
    assert named - set(metrics()) == set()


def test_files_that_the_runbook_names_exist() -> None:
    links = [ROOT / "docs" / each for each in re.findall(r"\]\(([\w.-]+)[#)]", PAGE_TEXT)]
    paths = [ROOT / each for each in re.findall(r"`(\w+/[\w./-]+)[`*]", PAGE_TEXT)]
    assert len(links) > 3
    assert len(paths) > 3
    assert [path for path in (*links, *paths) if not path.exists()] == []


def test_messages_that_the_runbook_explains_are_the_agents() -> None:
    """The words before, between and after what is put in: ``...``, and names in capitals."""
    table = PAGE_TEXT.partition("| words | |\n|---|---|\n")[2].partition("\n\n")[0]
    result = [
        code for row in table.splitlines() for code in re.findall(r"`([^`]+)`", row.split(" | ")[0])
    ]
    pieces = {
        piece for each in result for piece in re.split(r"\W*(?:\.{3}|\b[A-Z]+\b)\W*", each) if piece
    }
    said = "".join(re.sub(r'"\s*\n\s*f?"', "", path.read_text()) for path in AGENT.rglob("*.py"))
    assert len(pieces) > 10
    assert {piece for piece in pieces if piece not in said} == set()


# -- what no file for promtool can say: that Prometheus itself was away -------------------

REMEMBERED = "podtally:outside_destination:last_seen_seconds"
CART = 'namespace="shop", workload="cart", scope="internet", protocol="tcp"'
HTTPS, MAIL = f'{CART}, port="443"', f'{CART}, port="25"'
DAYS = 30 * 3600  # seconds: memories of the samples below are not older


def rule_named(name: str) -> Rule:
    return next(rule for rule in rules() if rule.name == name)


def expect(folder: Path, name: str, hours: int, series: dict[str, str], ports: list[str]) -> None:
    """The rule's expression, ``hours`` after the first of samples every 4 minutes, finds ``ports``."""
    asked = {
        "expr": f"count by (port) ({rule_named(name).expr})",
        "eval_time": f"{hours}h",
        "exp_samples": [{"labels": f'{{port="{port}"}}', "value": 1} for port in ports],
    }
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    test = {"interval": "4m", "input_series": inputs, "promql_expr_test": [asked]}
    (folder / "test.yaml").write_text(yaml.safe_dump({"tests": [test]}))
    promtool("test", "rules", folder / "test.yaml")


def test_destinations_are_remembered_while_prometheus_is_away(tmp_path: Path) -> None:
    """For 20 hours from the 30th on; only one of two destinations is there when it comes back."""
    series = {
        f"{REMEMBERED}{{{HTTPS}}}": f"{DAYS}x450",
        f"{REMEMBERED}{{{MAIL}}}": f"{DAYS}x450",
        f'podtally_connections_total{{direction="egress", peer_kind="external", {HTTPS}}}': "_x750 9x9",
    }
    expect(tmp_path, REMEMBERED, 50, series, ["443", "25"])


def test_what_was_known_before_prometheus_was_away_is_not_new(tmp_path: Path) -> None:
    """Away for 4 hours from the 30th on; then both are remembered, and a third is seen."""
    dns = f'{CART}, port="53"'
    series = {
        f"{REMEMBERED}{{{HTTPS}}}": f"{DAYS}x450 _x59 {DAYS}x40",
        f"{REMEMBERED}{{{MAIL}}}": f"{DAYS}x450 _x59 {DAYS}x40",
        f"{REMEMBERED}{{{dns}}}": f"_x510 {DAYS}x40",
    }
    expect(tmp_path, "PodtallyEgressNewDestination", 34, series, ["53"])


def test_what_was_not_there_for_a_week_is_new_again(tmp_path: Path) -> None:
    """Last there on the second day, remembered until the ninth, and back half an hour ago."""
    now = 199 * 3600 + 1800
    series = {
        f"{REMEMBERED}{{{HTTPS}}}": f"{DAYS}x2970 _x21 {now}x9",
        f"{REMEMBERED}{{{MAIL}}}": f"{now}x3000",
    }
    expect(tmp_path, "PodtallyEgressNewDestination", 200, series, ["443"])


def test_destinations_are_remembered_for_a_week(tmp_path: Path) -> None:
    """Of one hour less and one hour more than a week before the 200th hour."""
    series = {
        f"{REMEMBERED}{{{HTTPS}}}": f"{31 * 3600}x2999",
        f"{REMEMBERED}{{{MAIL}}}": f"{33 * 3600}x2999",
    }
    expect(tmp_path, REMEMBERED, 200, series, ["25"])
