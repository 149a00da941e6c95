# SPDX-License-Identifier: Apache-2.0
"""Tunnels between nodes: pods are counted on their links, the outer packets on the uplink only."""

from pathlib import Path

import pytest

from tests.e2e import kube_objects as objects
from tests.e2e.agents import value
from tests.e2e.conftest import MakeAgent
from tests.e2e.policy_world import FLOWS, by, eventually
from tests.networks.lab import BACK, FRONT, SERVICE, Lab, Member, lab
from tests.networks.overlays import OTHER_POD, OTHER_STRAY, OVERLAYS, TUNNEL, Overlay
from tests.networks.test_shapes import Row, isolate, of_pods, settled, started
from tests.networks.traffic import connected, converse, exchange

TCP = ("tcp", str(BACK))
DENIED: Row = ("web", "ingress", "pod", "loner", "tcp", "8081", "denied")


def elsewhere(made: Lab, name: str, address: str, role: str) -> Member:
    """A pod of the other node, which the API reports."""
    who = objects.Identity(name, f"{name}-uid", name[0] * 64, (address,))
    item = objects.running(objects.admitted(who), who)
    item["metadata"] |= {"namespace": "shop", "labels": {"role": role}}
    item["spec"]["nodeName"] = "node-2"
    made.api.put("pods", item)
    return Member(name, 0, made.world, "", who.uid, {4: address})


@pytest.mark.parametrize("shape", OVERLAYS.values(), ids=OVERLAYS.keys())
def test_an_overlay(shape: Overlay, make_agent: MakeAgent, tmp_path: Path) -> None:
    with lab(shape) as made:
        web, client = made.pod("web", app="web"), made.pod("client", role="user")
        stray = made.pod("stray", role="stray")
        isolate(made)
        far = elsewhere(made, "far", OTHER_POD, "user")
        elsewhere(made, "loner", OTHER_STRAY, "stray")
        made.service("front", far)
        agent = make_agent(*made.flags(tmp_path))
        opening = made.quiet()
        started(agent)
        agent.wait_said(f"{TUNNEL} cannot be watched: {shape.refused}")
        converse(client.netns, made.world, (OTHER_POD, 443), 443)
        converse(client.netns, made.world, (SERVICE[4], FRONT), BACK)
        converse(stray.netns, made.world, (OTHER_POD, 443), 443)
        there = (web.addresses[4], BACK)
        converse(made.world, web.netns, there, BACK, source=OTHER_POD)
        converse(made.world, web.netns, there, BACK, source=OTHER_STRAY)
        settled(agent, made, opening)
        made.remove("stray")
        to, port = (web.addresses[4], 8081), 8081
        with connected(made.world, web.netns, to, port, source=OTHER_STRAY) as ends:
            exchange(*ends)
            eventually(agent, lambda s: of_pods(s).get(DENIED), 1)
            agent.kill()
            exchange(*ends)
            started(agent)
            exchange(*ends)
        eventually(agent, of_pods, EXPECTED)
        samples = settled(agent, made, opening)
        links = [pod.link for pod in made.pods.values()]
        flows = by("interface", samples, "podtally_books_bytes_total", account="flows")
        assert flows[shape.uplinks[0]] > sum(flows[each] for each in links)  # with headers
        outer = by("port", samples, FLOWS, workload="host")
        assert outer.keys() <= {shape.outer_port}, outer
        assert value(samples, "podtally_pod_bytes_total", pod="stray") > 0
        assert "Traceback" not in agent.said()


EXPECTED: dict[Row, int] = {
    ("client", "egress", "pod", "far", "tcp", "443", "undeclared"): 1,
    ("client", "egress", "service", "front", "tcp", str(FRONT), "undeclared"): 1,
    ("stray", "egress", "pod", "far", "tcp", "443", "undeclared"): 1,
    ("web", "ingress", "pod", "far", *TCP, "allowed"): 1,
    ("web", "ingress", "pod", "loner", *TCP, "denied"): 1,
    DENIED: 1,
}
