# SPDX-License-Identifier: Apache-2.0
"""Each network shape: the same traffic, pod removal and restart; names, verdicts and books are right."""

import time
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.agents import Agent, Samples, booked, gaps, value
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Counters
from tests.e2e.policy_world import CONNECTIONS, FLOWS, by, eventually
from tests.networks.lab import BACK, FRONT, SERVICE, UPLINK, WORLD, Lab, Shape, lab
from tests.networks.ovs import OpenVSwitch
from tests.networks.shapes import (
    AwsVpc,
    Bridge,
    Calico,
    Cilium,
    Docker,
    Ipvs,
    Mesh,
    PointToPoint,
    SharedClsact,
)
from tests.networks.traffic import connected, converse, datagrams, exchange
from tests.networks.uplinks import CARDS, Bond, Netkit, Vlan, VlanOnBond, Vrf

SHAPES: dict[str, Shape] = {
    "bridge, kube-proxy nftables": Bridge(),
    "bridge, dual stack": Bridge(versions=(4, 6)),
    "point to point": PointToPoint(),
    "IPv6 only": PointToPoint(versions=(6,)),
    "dual stack": PointToPoint(versions=(4, 6)),
    "conntrack zone (OVN, Antrea)": PointToPoint(zone=7),
    "Calico, kube-proxy iptables": Calico(),
    "AWS VPC": AwsVpc(),
    "Docker, published port": Docker(),
    "service mesh": Mesh(),
    "clsact, shared with another": SharedClsact(),
    "Calico, clsact": Calico(flags=("--attach", "clsact")),
    "Cilium, redirected to neighbours": Cilium(),
    "VLAN as the uplink": Vlan(),
    "VLAN, named beside its card": Vlan(interfaces=f"veth*,card*,{UPLINK}", uplinks=CARDS[:1]),
    "bond as the uplink, LACP": Bond(),
    "bond as the uplink, active-backup": Bond(mode="active-backup"),
    "bond as the uplink, clsact": Bond(flags=("--attach", "clsact")),
    "VLAN on a bond": VlanOnBond(),
    "VRF as the uplink": Vrf(),
    "kube-proxy IPVS": Ipvs(),
    "netkit": Netkit(),
    "netkit, clsact": Netkit(flags=("--attach", "clsact")),
    "Open vSwitch": OpenVSwitch(),
}
DROPS = "podtally_books_drops_bytes_total"
OUT, PROBE, DEAD, DATA_PORT = 443, 10254, 8081, 5000

Row = tuple[str, ...]  # workload, direction, peer_kind, peer, protocol, port, verdict


def connections(samples: Samples) -> dict[Row, int]:
    names = ("workload", "direction", "peer_kind", "peer_workload", "protocol", "port", "verdict")
    found = Counter[Row]()
    for (name, labels), count in samples.items():
        if name == CONNECTIONS and count:
            of = dict(labels)
            found[tuple(of[each] for each in names)] += int(count)
    return dict(found)


def of_pods(samples: Samples) -> dict[Row, int]:
    """Return the connections but for those of the host on an uplink that is watched."""
    return {row: count for row, count in connections(samples).items() if row[0] != "host"}


def balance(samples: Samples, made: Lab, opening: Counters) -> Counters:
    """Bytes that each interface has counted and the books have not, or too often; gaps beside."""
    books, wrong = booked(samples), {}
    for (name, labels), number in samples.items():
        of = dict(labels)
        if name == DROPS and of["kind"] == "header":  # booked, and not counted by the interface
            books[of["interface"], of["direction"]] -= int(number)
    for key, now in made.counters().items():
        off = now - opening.get(key, 0) - books.get(key, 0)
        if off:
            wrong[key] = off
    return wrong | {key: gap for key, gap in gaps(samples).items() if gap}


def double(samples: Samples, made: Lab) -> float:
    """Bytes in the pods' series beyond those of their links' flows, or missing from them."""
    flows = by("interface", samples, "podtally_books_bytes_total", account="flows")
    of_pods = sum(flows.values()) - sum(flows.get(each, 0) for each in made.shape.uplinks)
    series = by("workload", samples, FLOWS)
    return sum(series.values()) - series.get("host", 0) - of_pods


def isolate(made: Lab) -> None:
    """``web`` may be asked by users on BACK; the node always may, as everywhere."""
    peers = [{"podSelector": {"matchLabels": {"role": "user"}}}]
    made.policy(
        "web",
        podSelector={"matchLabels": {"app": "web"}},
        policyTypes=["Ingress"],
        ingress=[{"from": peers, "ports": [{"port": BACK}]}],
    )


def expected(versions: int) -> dict[Row, int]:
    tcp, out = ("tcp", str(BACK)), ("tcp", str(OUT))
    rows: dict[Row, int] = {
        ("client", "egress", "service", "front", "tcp", str(FRONT), "allowed"): 1,
        ("client", "egress", "pod", "web", *tcp, "allowed"): 1,
        ("client", "egress", "external", "", *out, "undeclared"): 1,
        ("client", "egress", "pod", "web", "tcp", str(DEAD), "denied"): 1,
        ("web", "ingress", "pod", "client", *tcp, "allowed"): 2,
        ("web", "ingress", "pod", "client", "tcp", str(DEAD), "denied"): 1,
        ("web", "ingress", "host", "host", *tcp, "allowed"): 1,
        ("web", "ingress", "external", "", *tcp, "denied"): 1,
        ("web", "egress", "pod", "client", "udp", str(DATA_PORT), "undeclared"): 1,
        ("client", "ingress", "pod", "web", "udp", str(DATA_PORT), "undeclared"): 1,
        ("stray", "egress", "pod", "web", *tcp, "denied"): 1,
        ("web", "ingress", "pod", "stray", *tcp, "denied"): 1,
        ("stray", "ingress", "host", "host", "tcp", str(PROBE), "allowed"): 1,
    }
    return {row: count * versions for row, count in rows.items()}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_a_network(shape: Shape, make_agent: MakeAgent, tmp_path: Path) -> None:
    with lab(shape) as made:
        web = made.pod("web", app="web")
        client, stray = made.pod("client", role="user"), made.pod("stray", role="stray")
        isolate(made)
        made.service("front", web)
        agent: Agent = make_agent(*made.flags(tmp_path))
        opening = made.quiet()
        started(agent)
        for version in shape.versions:
            address = web.addresses[version]
            converse(client.netns, web.netns, (SERVICE[version], FRONT), BACK)
            converse(client.netns, web.netns, (address, BACK), BACK)
            converse(client.netns, made.world, (WORLD[version], OUT), OUT)
            converse("", web.netns, (address, BACK), BACK)  # the kubelet's probe
            converse("", stray.netns, (stray.addresses[version], PROBE), PROBE)
            converse(made.world, web.netns, shape.entry(web, version), BACK)
            converse(stray.netns, web.netns, (address, BACK), BACK)
            datagrams(web.netns, client.netns, client.addresses[version], DATA_PORT)
        settled(agent, made, opening)
        made.remove("stray")
        for number, version in enumerate(shape.versions, 1):
            to = (web.addresses[version], DEAD)
            with connected(client.netns, web.netns, to, DEAD) as ends:
                exchange(*ends)
                eventually(agent, judged_at_both_ends, [number] * 2)
                agent.kill()
                exchange(*ends)
                started(agent)
                exchange(*ends)
        eventually(agent, of_pods, expected(len(shape.versions)))
        samples = settled(agent, made, opening)
        assert value(samples, "podtally_pod_bytes_total", pod="stray") > 0
        assert "Traceback" not in agent.said()


def started(agent: Agent) -> None:
    """Start it, and wait until it knows the policies."""
    agent.start()
    agent.wait_ready()
    eventually(agent, lambda s: value(s, "podtally_policy_resources_unsynced"), 0)


def judged_at_both_ends(samples: Samples) -> list[int]:
    """Return the counts of the connections that outlive the agent, at either end."""
    ends = (row for row in connections(samples).items() if str(DEAD) in row[0])
    return [count for row, count in ends if row[-1] == "denied"]


def settled(agent: Agent, made: Lab, opening: Counters) -> Samples:
    time.sleep(0.5)  # of the links: retransmissions and acknowledgements
    return eventually(agent, lambda s: (balance(s, made, opening), double(s, made)), ({}, 0))
