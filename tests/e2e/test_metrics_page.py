# SPDX-License-Identifier: Apache-2.0
"""What a real agent exposes is on docs/metrics.md, passes promtool, and answers the page's example queries."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.agents import Agent, Samples, value
from tests.e2e.conftest import MakeAgent, free_port
from tests.e2e.pods import Node, Pod
from tests.e2e.policy_cluster import Cluster, cluster
from tests.e2e.policy_world import OUTSIDE, converse, eventually, outside, talk
from tests.e2e.prometheus import Prometheus, prometheus
from tests.unit import metrics_page

CONFIG = {
    "prices": {"egress": {"internet": 0.09}, "ingress": {"node": 0.01}},
    "kubecost_alias": True,
    "nat_gateway": {},
    "expected": [
        {"workload": "shop/db", "peer": "shop/web-0", "until": "2999-12-31", "reason": "a test"}
    ],
}
COMPARES = re.compile(r" (>|==|!=) ").search
CANDIDATE = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: alone, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}
"""
ENDINGS = "podtally_connection_endings_total"
TIMES = 7
HEARD_SECONDS = 60.0
SCRAPED_SECONDS = 120.0
# Families without a series here, and why.
NO_SERIES = {
    "podtally_foreign_programs": "no other program runs before ours",
    "podtally_books_drops_bytes_total": "the kernel drops nothing",
    "podtally_conflicting_addresses": "no endpoint configures another's address",
    "podtally_kubernetes_unsynced": "the API answers everything",
    "podtally_spoofed_packets_total": "no packet is forged",
    "podtally_scan_connections_total": "nothing scans",
    "podtally_interface_drops_total": "the kernel drops nothing",
    "podtally_retransmits_total": "nothing is lost",
    "podtally_retransmits_lost_total": "nothing is lost",
    "podtally_policy_expired_names_total": "no rule names domains",
    **dict.fromkeys(
        (
            "podtally_dns_queries_total",
            "podtally_dns_response_seconds",
            "podtally_dns_messages_total",
            "podtally_dns_untrusted_queries_total",
            "podtally_dns_long_names_total",
        ),
        "nothing queries names",
    ),
}

# Questions of the page that are about trouble, and find none here.
NO_TROUBLE = {
    "Which share of new TCP connections fails, by workload?",
    "Who resets established connections?",
}


class Shop(NamedTuple):
    """Pods with the names that the page's examples ask for."""

    cluster: Cluster
    world: Pod
    web: Pod
    db: Pod


@pytest.fixture
def shop(node: Node) -> Iterator[Shop]:
    with cluster(node) as made:
        web, db = made.pod("web-0", {"app": "web"}), made.pod("db", {"app": "db"})
        chosen = {"matchLabels": {"app": "db"}}
        made.policy("shop/shut", podSelector=chosen, policyTypes=["Egress"])
        yield Shop(made, outside(node), web, db)


def run(shop: Shop, make_agent: MakeAgent, folder: Path) -> Agent:
    config, candidate = folder / "podtally.yaml", folder / "alone.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    candidate.write_text(CANDIDATE)
    files = ("--config", str(config), "--candidate", str(candidate))
    agent = make_agent(*files, *shop.cluster.flags(folder))
    agent.start()
    agent.wait_ready()
    unheard = "podtally_policy_resources_unsynced"
    eventually(agent, lambda samples: value(samples, unheard), 0, HEARD_SECONDS)
    return agent


def send(shop: Shop) -> None:
    """Something for every family: denied, sent to the internet, received from it, and within."""
    for _ in range(TIMES):
        converse(shop.db, shop.world, 4444, (OUTSIDE[0], 4444))
        converse(shop.web, shop.world, 443, (OUTSIDE[1], 443))
        converse(shop.world, shop.web, 80, source=OUTSIDE[1])
        converse(shop.db, shop.web, 80)
        converse(shop.web, shop.db, 3306)


def booked(samples: Samples) -> tuple[float, float, float]:
    """Connections that are denied (to the internet, and within), exposed, and of an unknown beginning."""
    denied = value(samples, "podtally_policy_denied_total", direction="egress")
    exposed = value(samples, "podtally_undeclared_exposure_connections_total")
    unknown = value(
        samples, "podtally_verdict_unknown_connections_total", cause="unknown initiator"
    )
    return denied, exposed, unknown


def test_a_real_agents_metrics_are_those_of_the_page(
    shop: Shop, make_agent: MakeAgent, tmp_path: Path
) -> None:
    with talk(
        shop.db, shop.world, 81, (OUTSIDE[2], 81)
    ) as older:  # opened before the agent started
        older.exchange(1)
        agent = run(shop, make_agent, tmp_path)
        older.exchange(1)
        send(shop)
        eventually(agent, booked, (2 * TIMES, TIMES, 1))
        eventually(agent, lambda each: value(each, ENDINGS) > 0, True)
        _, text = agent.get("/metrics")
        assert_the_same(text)
        assert_lint_is_silent(text)
        with prometheus(tmp_path, free_port(), scrapes(agent)) as source:
            at = scraped(source)
            answers = {e: source.instant(e.expr, at) for e in metrics_page.examples()}
    # Only those that compare, and so look for what should not be, may find nothing.
    assert [
        e.question
        for e, samples in answers.items()
        if not (
            samples
            or COMPARES(e.expr)
            or e.question in NO_TROUBLE
            or any(name in e.expr for name in NO_SERIES)
        )
    ] == []


def scraped(source: Prometheus) -> float:
    """Wait until rates can be computed; return when that was."""
    end = time.monotonic() + SCRAPED_SECONDS
    while not source.instant("count_over_time(podtally_build_info[1m]) > 2", time.time()):
        assert time.monotonic() < end, "Prometheus does not get to scrape"
        time.sleep(0.5)
    return time.time()


def scrapes(agent: Agent) -> list[dict[str, object]]:
    targets = [{"targets": [f"127.0.0.1:{agent.places.port}"]}]
    return [{"job_name": "podtally", "static_configs": targets}]


def assert_the_same(text: str) -> None:
    page = {metric.name: metric for metric in metrics_page.metrics()}
    seen, empty = set(), set()
    for family in text_string_to_metric_families(text):
        name = family.name + ("_total" if family.type == "counter" else "")
        seen.add(name)
        assert name in page, f"{name} is not on the page"
        assert family.type == page[name].kind, name
        for sample in family.samples:
            assert frozenset(sample.labels) - {"le"} == page[name].labels, name
        if not family.samples:
            empty.add(name)
    assert seen == set(page)
    assert sorted(empty) == sorted(NO_SERIES)


def assert_lint_is_silent(text: str) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
