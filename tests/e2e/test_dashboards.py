# SPDX-License-Identifier: Apache-2.0
"""Every query of every panel and variable, run in a real Prometheus over a real agent's traffic."""

import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from dns.message import make_query

from tests.e2e.agents import Agent, value
from tests.e2e.conftest import MakeAgent, free_port
from tests.e2e.dns_servers import dnsmasq
from tests.e2e.pods import Node, Pod, pod_socket
from tests.e2e.policy_cluster import Cluster, cluster
from tests.e2e.policy_world import OUTSIDE, Talk, converse, eventually, outside, talk
from tests.e2e.prometheus import SCRAPE_SECONDS, Prometheus, Sample, prometheus
from tests.unit.project.dashboards_support import (
    FOLDER,
    Query,
    dashboards,
    fill,
    queries,
    variables,
)
from tests.unit.project.test_dashboards_queries import parts

RANGE_SECONDS, STEP_SECONDS, TALK_SECONDS = 20, 5, 8
CLUSTER = "c1"
RULES = FOLDER / "rules"
HEARD_SECONDS = 60.0
METADATA = OUTSIDE[2]  # stands for the metadata address by its name: that one is not ours
DNS_PORT, NAME = 53, "api.example.com"
LATE_PORT, LATE_TIMES = 4445, 3  # denied once everything has been watched for long
CONFIG = {
    "networks": {"metadata": f"{METADATA}/32"},
    "prices": {"egress": {"internet": 0.09, "node": 0.01}, "ingress": {"internet": 0.01}},
}
CANDIDATE = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: tight, namespace: shop}
spec: {podSelector: {matchLabels: {role: user}}, policyTypes: [Egress]}
"""
# Queries that find nothing here, and why.
NOTHING = {
    "agent: Foreign programs A": "no foreign program runs here",
    "agent: Programs ahead of podtally A": "the same",
    "agent: Kubernetes resources not synced A": "every resource is synced",
    "agent: Conflicting addresses A": "no pod has another's address",
    "overview: Dropped bytes, by kind A": "nothing is dropped",
    "policy: Scans A": "no scans",
    "policy: Spoofed packets A": "no spoofing",
    "policy: Undecided at isolated workloads A": "policy decides everything",
    "policy: Allowed by expired names A": "no rule names domains",
    **dict.fromkeys(
        (
            "health: Failed TCP connections A",
            "health: Failed connections A",
            "health: Reset connections A",
            "health: Resets A",
        ),
        "every connection works",
    ),
    "health: Dropped frames A": "nothing is dropped",
    **dict.fromkeys(
        ("health: Retransmit ratio A", "health: Retransmits A"), "nothing is sent again"
    ),
    "egress: Now and a week ago B": "there was no Prometheus a week ago",
}
MAY_BE_EMPTY = {"health: Retransmits that are not counted A"}  # where there is no tracefs

Choice = dict[str, str]


class Stage(NamedTuple):
    cluster: Cluster
    world: Pod
    user: Pod
    web: Pod
    stray: Pod
    mail: Pod


@pytest.fixture
def stage(node: Node) -> Iterator[Stage]:
    with cluster(node) as made:
        made.namespace("post")
        user, web = made.pod("user", {"role": "user"}), made.pod("web", {"app": "web"})
        stray, mail = made.pod("stray", {"app": "stray"}), made.pod("mail", {}, namespace="post")
        peer = [{"podSelector": {"matchLabels": {"role": "user"}}}]
        made.policy(
            "shop/web", podSelector={"matchLabels": {"app": "web"}}, ingress=[{"from": peer}]
        )
        made.policy(
            "shop/shut", podSelector={"matchLabels": {"app": "stray"}}, policyTypes=["Egress"]
        )
        yield Stage(made, outside(node), user, web, stray, mail)


def running(stage: Stage, make_agent: MakeAgent, folder: Path) -> Agent:
    config, candidate = folder / "podtally.yaml", folder / "candidate.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    candidate.write_text(CANDIDATE)
    agent = make_agent(
        *("--config", str(config), "--candidate", str(candidate)),
        *("--events", str(folder / "events"), "--flow-log", str(folder / "flows")),
        *stage.cluster.flags(folder),
    )
    agent.start()
    agent.wait_ready()
    unheard = "podtally_policy_resources_unsynced"
    eventually(agent, lambda samples: value(samples, unheard), 0, HEARD_SECONDS)
    return agent


def once(stage: Stage, older: Talk) -> None:
    """A bit of everything: each verdict, each scope that there is here, and outsiders that come in."""
    older.exchange(1)
    converse(stage.user, stage.web, 80)
    converse(stage.stray, stage.web, 80)
    converse(stage.user, stage.stray, 81)
    converse(stage.stray, stage.world, 4444, (OUTSIDE[0], 4444))
    converse(stage.mail, stage.world, 25, (OUTSIDE[1], 25))
    converse(stage.mail, stage.world, 80, (METADATA, 80))
    converse(stage.world, stage.stray, 8080, source=OUTSIDE[1])
    questions(stage.user, stage.web)


def questions(pod: Pod, deaf: Pod) -> None:
    """Questions to a resolver that is not trusted, garbage, and a question to no resolver."""
    asked = [make_query(name, "A").to_wire() for name in (NAME, f"{'a' * 60}.{NAME}", "a.missing")]
    with pod_socket(pod, socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(HEARD_SECONDS)
        asking.sendto(asked[0], (deaf.ipv4, DNS_PORT))
        asking.sendto(b"garbage", (OUTSIDE[0], DNS_PORT))
        for message in asked:
            asking.sendto(message, (OUTSIDE[0], DNS_PORT))
            asking.recv(4096)


@contextmanager
def repeated(work: Callable[[], None]) -> Iterator[None]:
    """Again and again by another thread, which lives in the same namespace as its maker."""
    stop, broken = threading.Event(), list[Exception]()

    def run() -> None:
        while not stop.wait(0.3):
            try:
                work()
            except (OSError, AssertionError) as error:
                broken.append(error)
                return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert broken == []


def scrapes(agent: Agent) -> list[dict[str, object]]:
    """The agent twice, once with a label that says which cluster it is in; and one that is away."""
    target, away = f"127.0.0.1:{agent.places.port}", f"127.0.0.1:{free_port()}"
    return [
        {"job_name": "podtally", "static_configs": [{"targets": [target, away]}]},
        {
            "job_name": "podtally-named",
            "static_configs": [{"targets": [target, away], "labels": {"cluster": CLUSTER}}],
        },
    ]


def quick_rules(folder: Path) -> list[Path]:
    """The rules as they are, but looked at each second: alerts are soon pending."""
    found = []
    for path in sorted(RULES.glob("*.yaml")):
        rules = yaml.safe_load(path.read_text())
        for group in rules["groups"]:
            group["interval"] = f"{SCRAPE_SECONDS}s"
        (folder / path.name).write_text(yaml.safe_dump(rules))
        found.append(folder / path.name)
    assert found
    return found


def choices(cluster: str) -> dict[str, str]:
    """What a person may have chosen, as Grafana writes it into queries."""
    return {
        "__rate_interval": f"{TALK_SECONDS}s",
        "__range": f"{RANGE_SECONDS}s",
        "__range_s": str(RANGE_SECONDS),
        "cluster": cluster,
        "job": "(podtally|podtally-named)",
        "instance": ".*",
        "namespace": "(post|shop)",
        "workload": ".*",
    }


ONE_WORKLOAD = {"namespace": "shop", "workload": "stray"}  # of the Pod dashboard


def asked(source: Prometheus, query: Query, choice: Choice, at: float) -> list[Sample]:
    """Without the zero that panels show where there is nothing: that would hide what is missing."""
    values = choice | ONE_WORKLOAD if query.dashboard == "pod" else choice
    expr = fill(query.expr, values).replace(" or vector(0)", "")
    if query.target.get("instant"):
        return source.instant(expr, at)
    return source.over(expr, at, TALK_SECONDS, STEP_SECONDS)


def is_something(found: list[Sample]) -> bool:
    return any(math.isfinite(value) for sample in found for value in sample.values)


def test_every_query_finds_something(stage: Stage, make_agent: MakeAgent, tmp_path: Path) -> None:
    with ExitStack() as stack:
        older = stack.enter_context(talk(stage.user, stage.web, 82))  # of before the agent
        older.exchange(1)
        records = {NAME: (OUTSIDE[0], 60)}
        stack.enter_context(dnsmasq(stage.world, records, "--local=/missing/"))
        agent = running(stage, make_agent, tmp_path)
        rules = quick_rules(tmp_path)
        source = stack.enter_context(prometheus(tmp_path, free_port(), scrapes(agent), rules))
        with repeated(lambda: once(stage, older)):
            time.sleep(RANGE_SECONDS + 6)  # a whole range before what comes late
            for _ in range(LATE_TIMES):
                converse(stage.stray, stage.world, LATE_PORT, (OUTSIDE[0], LATE_PORT))
            time.sleep(4)
            at = time.time()
        began = time.monotonic()
        every = [query for name, each in dashboards().items() for query in queries(name, each)]
        for cluster_choice in (CLUSTER, ".*"):
            choice = choices(cluster_choice)
            empty = {q.name for q in every if not is_something(asked(source, q, choice, at))}
            assert empty - MAY_BE_EMPTY == set(NOTHING), f"with cluster {cluster_choice}"
        print(f"2 x {len(every)} queries took {time.monotonic() - began:.1f} s")
        by_name = {query.name: query for query in every}

        def answer(name: str) -> list[Sample]:
            return asked(source, by_name[name], choices(CLUSTER), at)

        assert_variables(source)
        assert_late_is_whole(answer)
        assert_map(answer)
        assert_numbers(answer)


Answer = Callable[[str], list[Sample]]


def assert_variables(source: Prometheus) -> None:
    for name, each in dashboards().items():
        for variable in variables(each).values():
            if variable["type"] == "query":
                selector, label = parts(variable["query"]["query"])
                values = choices(".*") | (ONE_WORKLOAD if name == "pod" else {})
                assert source.values_of(label, fill(selector, values)), (name, label)


def assert_late_is_whole(answer: Answer) -> None:
    """A series that is born within the range counts from its first connection on."""
    for name in ("egress: Denied A", "policy: Denied A", "pod: Denied A"):
        (late,) = (each for each in answer(name) if each.labels["port"] == str(LATE_PORT))
        assert (late.values, late.labels["policy"]) == ((LATE_TIMES,), "shop/shut"), name
    new = [each.labels for each in answer("egress: New destinations A")]
    assert [(each["workload"], each["port"]) for each in new] == [("stray", str(LATE_PORT))]


def assert_map(answer: Answer) -> None:
    edges = answer("overview: Who sends to whom, in kB/s edges")
    ids = [each.labels["id"] for each in edges]
    assert len(ids) == len(set(ids))
    shown = {
        (each.labels["source"], each.labels["target"], each.labels["secondarystat"]): each.labels
        for each in edges
    }
    assert "highlighted" in shown["shop/stray", "internet", "denied"]
    assert "highlighted" in shown["internet", "shop/stray", "denied"]  # it is answered
    assert "highlighted" not in shown["shop/user", "shop/web", "allowed"]
    assert shown["shop/user", "shop/stray", "undeclared"]["peer_workload"] == "stray"
    assert ("post/mail", "metadata", "undeclared") in shown
    assert all(each["color"].startswith("#") for each in shown.values())


def assert_numbers(answer: Answer) -> None:
    def number(name: str) -> float:
        (sample,) = answer(name)
        return sample.values[-1]

    assert number("overview: Gap in the books A") == 0
    assert number("overview: Agents down A") == 1
    assert number("agent: Overflow bytes A") == 0
    assert number("overview: Nodes watched A") == 1
    assert number("agent: Agents up A") == 0.5
    assert number("policy: Candidates A") == 1
    assert number("policy: Policies A") == 2
    for name in ("Denied connections", "Undeclared exposure", "To the internet"):
        assert number(f"overview: {name} A") > 0
    declared = {
        (each.labels["workload"], each.labels["direction"]): each.values[0]
        for each in answer("policy: Covered by policy A")
    }
    assert declared["mail", "egress"] == 0
    assert declared["stray", "egress"] == 1
    changed = answer("policy: Verdicts that would change A")
    assert {(e.labels["verdict"], e.labels["candidate"]) for e in changed} >= {
        ("allowed", "denied"),
        ("undeclared", "denied"),
    }
    sent, cost = number("egress: To the internet A"), number("egress: Cost of egress A")
    assert cost >= sent / 1e9 * 0.09 * 0.9


def test_what_finds_nothing_is_still_queried() -> None:
    every = {q.name for name, each in dashboards().items() for q in queries(name, each)}
    assert {*NOTHING, *MAY_BE_EMPTY} <= every, json.dumps(sorted(every), indent=1)
