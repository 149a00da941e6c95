# SPDX-License-Identifier: Apache-2.0
"""Traffic from outside: declared by an Ingress, a load balancer or not at all."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from podtally.export.event_log import EventRecord
from podtally.export.flow_log import FlowRecord
from tests.apiserver.store import Object
from tests.e2e.agents import Agent, Samples, Scraper, assert_books_close, value
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Node, Pod, counters
from tests.e2e.policy_cluster import Cluster, cluster
from tests.e2e.policy_world import (
    OUTSIDE,
    by,
    converse,
    events,
    eventually,
    outside,
    records,
    series_of,
    until_verdict,
    verdicts,
    wait_for,
)

EXPOSED = "podtally_undeclared_exposure_connections_total"
BALANCER = "203.0.113.200"
STATUS = {"loadBalancer": {"ingress": [{"ip": BALANCER}]}}
HEARD_SECONDS = 60.0
CHANGED_SECONDS = 2.5  # what is declared is looked at every two


class Front(NamedTuple):
    """A controller of Ingresses behind a load balancer, a pod that one exposes, one that none does."""

    cluster: Cluster
    world: Pod
    controller: Pod
    web: Pod
    stray: Pod


@pytest.fixture
def front(node: Node) -> Iterator[Front]:
    with cluster(node) as made:
        made.namespace("ingress")
        controller = made.pod("controller", {"app": "ingress"}, namespace="ingress")
        web, stray = made.pod("web", {"app": "web"}), made.pod("stray", {})
        balanced = {"type": "LoadBalancer", "clusterIP": "10.99.200.1"}
        made.service("ingress/controller", 443, controller, 8443, spec=balanced, status=STATUS)
        made.service("shop/web", 80, web, 8080, spec={"clusterIP": "10.99.200.2"})
        made.api.put("ingresses", ingress("web"))
        yield Front(made, outside(node), controller, web, stray)


def ingress(service: str) -> Object:
    backend = {"service": {"name": service, "port": {"number": 80}}}
    path = {"path": "/", "pathType": "Prefix", "backend": backend}
    rule = {"host": "web.example", "http": {"paths": [path]}}
    return {
        "metadata": {"namespace": "shop", "name": "front"},
        "spec": {"rules": [rule]},
        "status": STATUS,
    }


def running(front: Front, make_agent: MakeAgent, folder: Path) -> Agent:
    logs = ("--events", str(folder / "events"), "--flow-log", str(folder / "flows"))
    agent = make_agent(*front.cluster.flags(folder), *logs)
    agent.start()
    agent.wait_ready()
    unheard = "podtally_policy_resources_unsynced"
    eventually(agent, lambda samples: value(samples, unheard), 0, HEARD_SECONDS)
    return agent


def test_undeclared_exposure_is_counted_and_reported(
    front: Front, make_agent: MakeAgent, tmp_path: Path
) -> None:
    agent, opening, world = running(front, make_agent, tmp_path), counters(), front.world
    with Scraper(agent.places.url).running() as scraper:
        converse(world, front.controller, 8443, source=OUTSIDE[0])
        converse(front.controller, front.web, 8080)
        converse(world, front.web, 8080, source=OUTSIDE[0])
        converse(front.stray, front.web, 8080)
        converse(front.stray, world, 8080, (OUTSIDE[0], 8080))
        front.cluster.node.quiet(0.3)
        assert exposed(assert_books_close(agent, opening)) == {}
        converse(world, front.stray, 8080, source=OUTSIDE[1])
        converse(world, front.web, 9090, source=OUTSIDE[1])  # another port than the declared one
        samples = eventually(agent, exposed, {("stray", "8080"): 1, ("web", "9090"): 1})
        assert by("scope", samples, EXPOSED) == {"internet": 2}
        for pod, port in (("stray", 8080), ("web", 9090)):
            line = wait_for(partial(events, tmp_path / "events"), partial(is_exposed, pod))
            assert (line.event, line.direction) == ("undeclared", "ingress")
            assert (line.peer.address, line.port) == (OUTSIDE[1], port)
        lines = events(tmp_path / "events")
        told_of = {(e.endpoint.pod, e.port) for e in lines if e.exposure == "undeclared"}
        assert told_of == {("stray", 8080), ("web", 9090)}
        balanced = "LoadBalancer ingress/controller:443"
        assert balanced in {e.exposure for e in lines if e.endpoint.pod == "controller"}
    assert scraper.faults == []
    assert exposure(tmp_path, "web", 8080, front.controller.ipv4) == (
        "Ingress shop/front (web.example/)"
    )
    declared = exposure(tmp_path, "web", 8080, OUTSIDE[0])
    assert declared == "Ingress shop/front (web.example/) by Service shop/web:80"
    balanced = exposure(tmp_path, "controller", 8443, OUTSIDE[0])
    assert balanced == "LoadBalancer ingress/controller:443"
    assert exposure(tmp_path, "web", 8080, front.stray.ipv4) == ""
    assert exposure(tmp_path, "stray", 8080, OUTSIDE[1]) == "undeclared"


def test_what_is_declared_may_change(front: Front, make_agent: MakeAgent, tmp_path: Path) -> None:
    agent, opening, node = running(front, make_agent, tmp_path), counters(), front.cluster.node
    connect = partial(converse, front.world, front.web, 8080, source=OUTSIDE[1])
    took = []
    with Scraper(agent.places.url).running() as scraper:
        connect()
        node.quiet(0.3)
        assert exposed(assert_books_close(agent, opening)) == {}
        front.cluster.api.delete("ingresses", "shop", "front")
        took.append(until_verdict(agent, connect, exposed_web, "undeclared"))
        front.cluster.api.put("ingresses", ingress("another"))  # which there is not
        time.sleep(CHANGED_SECONDS)
        took.append(until_verdict(agent, connect, exposed_web, "undeclared"))
        front.cluster.api.put("ingresses", ingress("web"))
        time.sleep(CHANGED_SECONDS)
        before = exposed(assert_books_close(agent, opening))
        connect()
        node.quiet(0.3)
        samples = assert_books_close(agent, opening)
        assert exposed(samples) == before
        web = {"workload": "web", "peer_kind": "external"}
        assert verdicts(samples, **web).keys() == {"undeclared"}  # exposure is no verdict
    assert scraper.faults == []
    print(f"an Ingress that goes is noticed after {took[0]:.2f} s")


def exposed(samples: Samples) -> dict[tuple[str, str], int]:
    return {
        (dict(labels)["workload"], dict(labels)["port"]): count
        for labels, count in series_of(samples, EXPOSED).items()
    }


def exposed_web(samples: Samples) -> dict[str, int]:
    return {"undeclared": exposed(samples).get(("web", "8080"), 0)}


def is_exposed(pod: str, line: EventRecord) -> bool:
    return line.exposure == "undeclared" and line.endpoint.pod == pod


def exposure(folder: Path, pod: str, port: int, peer: str) -> str:
    def wanted(line: FlowRecord) -> bool:
        here, there = line.endpoint, line.peer
        return (here.pod, here.port, there.address) == (pod, port, peer)

    return wait_for(lambda: records(folder / "flows"), wanted).exposure
