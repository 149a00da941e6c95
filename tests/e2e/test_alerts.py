# SPDX-License-Identifier: Apache-2.0
"""Alerts on the way that a person gets them: a stray pod, the real agent, Prometheus, Alertmanager, a webhook.

The rules, scrapes and routes are those of dashboards/rules and docs/operations.md. Only time is
shortened, in a copy: windows of ten minutes are eight seconds, rules are evaluated each second, and
the two alerts that are waited for hold for a second. promtool's tests have the real durations.
"""

import copy
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.agents import Agent, value
from tests.e2e.alertmanager import Notice, Watch, need_programs, watch
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Node, Pod
from tests.e2e.policy_world import (
    DENIED,
    OUTSIDE,
    Static,
    by,
    configuration,
    converse,
    eventually,
    outside,
)
from tests.unit.project.rules_support import (
    FILES,
    GRAFANA,
    RUNBOOK,
    SECTIONS,
    configurations,
    groups,
)

WINDOW_SECONDS = 8
FIRST_SECONDS = 40  # the same, while both start on a busy machine
START_TIME = "podtally_counters_start_time_seconds"
WAITED_FOR = ("PodtallyEgressDenied", "PodtallyEgressToMetadata")
NOTICE_SECONDS = 60.0  # on the busiest machine; a few are usual
METADATA = OUTSIDE[2]  # stands for the metadata address by its name: that one is not ours
PODS = {
    "web": Static("shop", "web", {"app": "web"}),
    "stray": Static("shop", "stray", {"app": "stray"}),
    "mail": Static("post", "mail", {}),
}
POLICIES = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress: [{to: [{ipBlock: {cidr: 203.0.113.0/24}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: shut, namespace: shop}
spec: {podSelector: {matchLabels: {app: stray}}, policyTypes: [Egress]}
"""


@pytest.fixture
def world(node: Node) -> Pod:
    need_programs()
    for number, name in enumerate(PODS, 5):
        node.routed_pod(name, number)
    return outside(node)


def running(node: Node, make_agent: MakeAgent, folder: Path) -> Agent:
    config, policies = folder / "podtally.yaml", folder / "policies.yaml"
    flags = configuration(config, {node.pods[name].netns: each for name, each in PODS.items()})
    known = yaml.safe_load(config.read_text()) | {"networks": {"metadata": f"{METADATA}/32"}}
    config.write_text(yaml.safe_dump(known))
    policies.write_text(POLICIES)
    agent = make_agent(*flags, "--policies", str(policies))
    agent.start()
    agent.wait_ready()
    return agent


def scraping(agent: Agent, folder: Path, window: int = WINDOW_SECONDS) -> dict[str, Any]:
    proposed = copy.deepcopy(configurations().prometheus)
    targets = {"targets": [f"127.0.0.1:{agent.places.port}"], "labels": {"node": "n1"}}
    proposed["scrape_configs"][0]["static_configs"] = [targets]
    proposed["global"] = {"scrape_interval": "1s"}
    proposed["rule_files"] = [str(quickened(path, folder, window)) for path in FILES]
    return proposed


def quickened(path: Path, folder: Path, window: int) -> Path:
    quick = [
        {**group, "interval": "1s", "rules": [quick_rule(rule, window) for rule in group["rules"]]}
        for group in groups(path)
    ]
    copied = folder / path.name
    copied.write_text(yaml.safe_dump({"groups": quick}))
    return copied


def quick_rule(rule: Mapping[str, Any], window: int) -> dict[str, Any]:
    expr = re.sub(r"\b10m\b", f"{window}s", rule["expr"])
    quick = {**rule, "expr": re.sub(r"\b600\b", str(window), expr)}
    return {**quick, "for": "1s"} if rule.get("alert") in WAITED_FOR else quick


def routes() -> dict[str, Any]:
    proposed = copy.deepcopy(configurations().alertmanager)
    proposed["route"] |= {"group_wait": "100ms", "group_interval": "1s", "repeat_interval": "1h"}
    return proposed


def is_notice(status: str, **labels: str) -> Callable[[Notice], bool]:
    wanted = labels.items()
    return lambda notice: notice.status == status and wanted <= notice.labels.items()


def fired(seen: Watch) -> set[str]:
    """Names of all alerts that fired since the beginning, notified or not."""
    asked = 'count by (alertname) (count_over_time(ALERTS{alertstate="firing"}[10m]))'
    return {each.labels["alertname"] for each in seen.prometheus.instant(asked, time.time())}


def heard(seen: Watch) -> bool:
    """Whether the agent is there, and was a window ago."""
    asked = f"podtally_build_info and podtally_build_info offset {WINDOW_SECONDS}s"
    return bool(seen.prometheus.instant(asked, time.time()))


def wait_until_heard(seen: Watch) -> None:
    end = time.monotonic() + 4 * WINDOW_SECONDS
    while not heard(seen):
        assert time.monotonic() < end, "Prometheus does not hear the agent"
        time.sleep(0.2)


def test_a_stray_pods_first_denied_connection_reaches_the_webhook(
    node: Node, world: Pod, make_agent: MakeAgent, tmp_path: Path
) -> None:
    agent, pods = running(node, make_agent, tmp_path), node.pods
    converse(pods["stray"], world, 4443, (OUTSIDE[0], 4443))  # before anybody looks
    eventually(agent, lambda samples: by("port", samples, DENIED), {"4443": 1})
    wait_until_old(agent)
    with watch(tmp_path, scraping(agent, tmp_path), routes()) as seen:
        converse(pods["web"], world, 443, (OUTSIDE[1], 443))
        wait_until_heard(seen)
        assert seen.webhook.notices == []
        assert seen.unhealthy_rules() == {}
        began = time.monotonic()
        converse(pods["stray"], world, 4444, (OUTSIDE[0], 4444))
        converse(pods["mail"], world, 80, (METADATA, 80))
        denied = seen.webhook.wait_for(is_notice("firing", workload="stray"), NOTICE_SECONDS)
        metadata = seen.webhook.wait_for(is_notice("firing", workload="mail"), NOTICE_SECONDS)
        print(f"notified {time.monotonic() - began:.1f} s after the first connection")
        assert_told(denied, metadata)
        for workload in ("stray", "mail"):
            wanted = is_notice("resolved", workload=workload)
            seen.webhook.wait_for(wanted, WINDOW_SECONDS + NOTICE_SECONDS)
        before = len(seen.webhook.notices)
        agent.kill()
        agent.start()
        agent.wait_ready()
        wait_until_gone_and_heard(seen)
        assert seen.webhook.notices[before:] == []
        converse(pods["stray"], world, 4445, (OUTSIDE[0], 4445))
        seen.webhook.wait_for(is_notice("firing", port="4445"), NOTICE_SECONDS)
        assert fired(seen) == set(WAITED_FOR)
        assert {notice.labels["port"] for notice in seen.webhook.notices} == {"4444", "4445", "80"}


def test_the_first_connection_of_a_new_agent_reaches_the_webhook(
    node: Node, world: Pod, make_agent: MakeAgent, tmp_path: Path
) -> None:
    """Agent and Prometheus are both new: the connection is in the first scrape."""
    agent, pods = running(node, make_agent, tmp_path), node.pods
    converse(pods["mail"], world, 80, (METADATA, 80))
    seen_by_agent = {"peer_workload": "metadata", "direction": "egress"}
    eventually(
        agent,
        lambda samples: by("port", samples, "podtally_connections_total", **seen_by_agent),
        {"80": 1},
    )
    with watch(tmp_path, scraping(agent, tmp_path, FIRST_SECONDS), routes()) as seen:
        result = seen.webhook.wait_for(is_notice("firing", workload="mail"), NOTICE_SECONDS)
        assert result.name == "PodtallyEgressToMetadata"
        seen.webhook.wait_for(
            is_notice("resolved", workload="mail"), FIRST_SECONDS + NOTICE_SECONDS
        )
        assert fired(seen) == {"PodtallyEgressToMetadata"}


def wait_until_old(agent: Agent) -> None:
    """Until the agent's counters are older than a window."""
    while value(agent.samples(), START_TIME) > time.time() - WINDOW_SECONDS - 1:
        time.sleep(0.2)


def wait_until_gone_and_heard(seen: Watch) -> None:
    """The restart, a window later; and a few evaluations in which the past is in no window."""
    time.sleep(WINDOW_SECONDS)
    wait_until_heard(seen)
    time.sleep(3)


def assert_told(denied: Notice, metadata: Notice) -> None:
    assert denied.receiver == "team"
    assert denied.labels == {
        "alertname": "PodtallyEgressDenied",
        "severity": "warning",
        "namespace": "shop",
        "workload": "stray",
        "peer_kind": "external",
        "protocol": "tcp",
        "port": "4444",
        "policy": "shop/shut",
    }
    assert denied.annotations == {
        "summary": "shop/stray opens connections that policy denies",
        "description": "1 connections in 10 minutes to external, tcp port 4444. Denied by shop/shut.",
        "runbook_url": f"{RUNBOOK}#podtallyegressdenied",
        "dashboard_url": f"{GRAFANA}/d/podtally-pod/pod?var-namespace=shop&var-workload=stray",
    }
    assert (metadata.receiver, metadata.name) == ("pager", "PodtallyEgressToMetadata")
    assert metadata.labels["severity"] == "critical"
    assert metadata.labels["verdict"] == "undeclared"
    for notice in (denied, metadata):
        anchor = notice.annotations["runbook_url"].removeprefix(f"{RUNBOOK}#")
        assert anchor in {name.lower() for name in SECTIONS}
