# SPDX-License-Identifier: Apache-2.0
"""What the dashboards' queries answer to series that are given: promtool evaluates them."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.generator import queries as promql
from tests.unit.project.dashboards_support import dashboards, fill, queries

CHOSEN = {"__rate_interval": "1m", "__range": "10m", "__range_s": "600"}
EVERYTHING = dict.fromkeys(("cluster", "instance", "namespace", "workload"), ".*") | CHOSEN
AGENT = {'podtally_build_info{instance="n1"}': "1x40"}  # a sample a minute
DENIED = 'podtally_policy_denied_total{instance="n1", policy="p"'
OTHERWISE = 'podtally_flow_bytes_total{instance="n2", namespace="shop", workload="web"'
FLOW = 'podtally_flow_bytes_total{instance="n1", namespace="shop", verdict="allowed"'


def answers(
    folder: Path, expr: str, series: dict[str, str], minute: int, expected: list[dict[str, Any]]
) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool (Debian package prometheus)")
    asked = {
        "expr": fill(expr, EVERYTHING),
        "eval_time": f"{minute}m",
        "exp_samples": expected,
    }
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [asked],
    }
    path = folder / "test.yaml"
    path.write_text(yaml.safe_dump({"evaluation_interval": "1m", "tests": [test]}))
    done = subprocess.run(
        ["promtool", "test", "rules", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def sample(value: float, **labels: str) -> dict[str, Any]:
    inside = ",".join(f'{name}="{text}"' for name, text in labels.items())
    return {"labels": f"{{{inside}}}", "value": value}


@pytest.mark.parametrize(
    ("values", "grown"),
    [
        pytest.param("_x24 1x20", 1, id="born in the range"),
        pytest.param("_x24 3+2x20", 15, id="born and growing"),
        pytest.param("5x40", 0, id="old and at rest"),
        pytest.param("5+1x40", 10, id="old and growing"),
        pytest.param("5x24 _x3 5x20", 0, id="not scraped for a while"),
        pytest.param("_x24 4 _x20", 4, id="seen once"),
    ],
)
def test_growth_counts_what_a_series_is_born_with(
    tmp_path: Path, values: str, grown: float
) -> None:
    expr = promql.grown("podtally_policy_denied_total", 'instance="n1"', "policy")
    series = {**AGENT, f"{DENIED}}}": values}
    answers(tmp_path, expr, series, 30, [sample(grown, policy="p")])


def test_what_an_agent_brought_along_when_it_was_first_scraped_is_not_growth(
    tmp_path: Path,
) -> None:
    expr = promql.grown("podtally_policy_denied_total", 'instance="n1"')
    series = {'podtally_build_info{instance="n1"}': "_x24 1x20", f"{DENIED}}}": "_x24 500x20"}
    answers(tmp_path, expr, series, 30, [sample(0)])


def test_a_map_has_each_arrow_once(tmp_path: Path) -> None:
    """User asks Service web, which web answers: both have these bytes, and may judge differently."""
    pod = 'peer_kind="pod", peer_namespace="shop", scope="node"'
    service = 'peer_kind="service", peer_namespace="shop", peer_workload="web", scope="node"'
    cloud = 'peer_kind="external", peer_namespace="", peer_workload="", scope="internet"'
    series = {
        f'{FLOW}, workload="user", direction="egress", {service}}}': "0+60x40",
        f'{FLOW}, workload="user", direction="ingress", {service}}}': "0+600x40",
        f'{FLOW}, workload="web", direction="ingress", {pod}, peer_workload="user"}}': "0+60x40",
        f'{FLOW}, workload="web", direction="egress", {pod}, peer_workload="user"}}': "0+600x40",
        f'{OTHERWISE}, direction="ingress", {pod}, peer_workload="user", verdict="undeclared"}}': "0+60x40",
        f'{OTHERWISE}, direction="ingress", {pod}, peer_workload="user", verdict="denied"}}': "0+180x40",
        f'{FLOW}, workload="user", direction="ingress", {cloud}}}': "0+120x40",
        f'{FLOW}, workload="user", direction="egress", {cloud}}}': "0x40",
    }
    edges = promql.edges('cluster=~"$cluster"').replace("$__rate_interval", "5m")
    arrows = [
        ("shop/user|shop/web|allowed", 1),
        ("shop/user|shop/web|denied", 3),  # by web's policies, on another node
        ("shop/web|shop/user|allowed", 10),
        ("internet|shop/user|allowed", 2),
    ]
    expected = [sample(value, id=arrow) for arrow, value in arrows]
    answers(tmp_path, f"sum by (id) ({edges})", series, 30, expected)
    rows = [sample(1, id=arrow) for arrow, _ in arrows]
    answers(tmp_path, f"count by (id) ({edges})", series, 30, rows)


def test_arrows_of_what_series_limits_took_have_a_colour(tmp_path: Path) -> None:
    other = 'namespace="other", workload="other", peer_kind="other", peer_namespace="other"'
    series = {
        f'podtally_flow_bytes_total{{{other}, peer_workload="other", scope="other", '
        'verdict="other", direction="egress"}': "0+60x40"
    }
    edges = promql.edges('cluster=~"$cluster"').replace("$__rate_interval", "5m")
    answers(tmp_path, f"sum by (color) ({edges})", series, 30, [sample(1, color="#8E8E8E")])


def _query(name: str) -> str:
    every = [query for each, made in dashboards().items() for query in queries(each, made)]
    (found,) = (query.expr for query in every if query.name == name)
    return found


def test_new_destinations_are_those_that_were_not_there_before(tmp_path: Path) -> None:
    known, new = f'{FLOW}, direction="egress", port="443"', f'{FLOW}, direction="egress", port="25"'
    series = {**AGENT, f"{known}}}": "0+10x40", f"{new}}}": "_x24 7x20"}
    labels = {"namespace": "shop", "port": "25"}
    answers(tmp_path, _query("egress: New destinations A"), series, 30, [sample(7, **labels)])


def test_destinations_are_not_new_to_a_new_prometheus(tmp_path: Path) -> None:
    series = {
        'podtally_build_info{instance="n1"}': "_x24 1x20",
        f'{FLOW}, direction="egress", port="25"}}': "_x24 7+1x20",
    }
    answers(tmp_path, _query("egress: New destinations A"), series, 30, [])


def test_a_fleet_that_is_silent_does_not_look_well(tmp_path: Path) -> None:
    """Of two agents none answers any more; another job's target is not ours."""
    agents = {f'podtally_build_info{{job="podtally", instance="n{n}"}}': "1x24" for n in (1, 2)}
    silent = {f'up{{job="podtally", instance="n{n}"}}': "1x24 0x20" for n in (1, 2)}
    series = {**agents, **silent, 'up{job="others", instance="n1"}': "0x40"}
    name = "overview: Agents down A"
    answers(tmp_path, _query(name), series, 30, [sample(2)])
    well = {f'up{{job="podtally", instance="n{n}"}}': "1x40" for n in (1, 2)}
    answers(tmp_path, _query(name), {**agents, **well}, 30, [sample(0)])
