# SPDX-License-Identifier: Apache-2.0
"""What networks have beside pods and links: overlays, published ports, a mesh, node-local DNS."""

import subprocess
import sys
import uuid
from contextlib import ExitStack
from pathlib import Path

from tests.e2e import kube_objects as objects
from tests.e2e.agents import Agent, Samples, environment, value
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Counters, ip
from tests.e2e.policy_cluster import pod_process
from tests.e2e.policy_world import FLOWS, SIZE, by, eventually
from tests.e2e.test_host import cgroup
from tests.networks.lab import BACK, UPLINK, WORLD, Lab, lab, nft
from tests.networks.shapes import Overlay, PointToPoint
from tests.networks.test_shapes import Row, balance, connections, isolate, settled, started
from tests.networks.traffic import DATAGRAM, converse, datagrams, socket_in

TCP = ("tcp", str(BACK))


def test_an_overlay_is_counted_once(make_agent: MakeAgent, tmp_path: Path) -> None:
    """Flannel's vxlan: pods by name on their links; the uplink has the outer packets, as the host's."""
    with lab(Overlay()) as made:
        web, client = made.pod("web", app="web"), made.pod("client", role="user")
        isolate(made)
        far = objects.Identity("far", "far-uid", "f" * 64, (Overlay.OTHER_POD,))
        item = objects.running(objects.admitted(far), far)
        item["metadata"] |= {"namespace": "shop", "labels": {"role": "user"}}
        item["spec"]["nodeName"] = "node-2"
        made.api.put("pods", item)
        agent = make_agent(*made.flags(tmp_path))
        opening = made.quiet()
        started(agent)
        agent.wait_said("flannel.1 cannot be watched: it is a tunnel (vxlan)")
        converse(client.netns, made.world, (Overlay.OTHER_POD, 443), 443)
        there = (web.addresses[4], BACK)
        converse(made.world, web.netns, there, BACK, source=Overlay.OTHER_POD)
        rows: dict[Row, int] = {
            ("client", "egress", "pod", "far", "tcp", "443", "undeclared"): 1,
            ("web", "ingress", "pod", "far", *TCP, "allowed"): 1,
        }
        eventually(agent, lambda s: of_workloads(connections(s), "client", "web"), rows)
        samples = eventually_closed(agent, made, opening)
        links = {pod.link for pod in made.pods.values()}
        flows = "podtally_books_bytes_total"
        on_links = sum(value(samples, flows, account="flows", interface=each) for each in links)
        assert value(samples, flows, account="flows", interface=UPLINK) > on_links  # with headers
        assert sum(value(samples, FLOWS, workload=each) for each in ("client", "web")) == on_links
        outer = by("port", samples, FLOWS, workload="host")
        assert outer.keys() <= {"8472"}, outer


def eventually_closed(agent: Agent, made: Lab, opening: Counters) -> Samples:
    return eventually(agent, lambda s: balance(s, made, opening), {})


def of_workloads(rows: dict[Row, int], *workloads: str) -> dict[Row, int]:
    return {row: count for row, count in rows.items() if row[0] in workloads}


DNS_PORTS = [{"protocol": "UDP", "port": 53}]
LOCAL_DNS, CLUSTER_DNS = "169.254.20.10", "10.99.200.53"


def test_node_local_dns(make_agent: MakeAgent, tmp_path: Path) -> None:
    """The cache listens on a local address and on the Service's, past the connection tracker."""
    with lab(PointToPoint()) as made:
        client, dns = made.pod("client", app="client"), made.pod("dns", app="dns")
        ip("link", "add", "nodelocaldns", "type", "bridge")
        for address in (LOCAL_DNS, CLUSTER_DNS):
            ip("addr", "add", f"{address}/32", "dev", "nodelocaldns")
            nft(f"""
            table ip raw-dns {{
              chain prerouting {{
                type filter hook prerouting priority raw;
                ip daddr {address} udp dport 53 notrack
              }}
              chain output {{
                type filter hook output priority raw;
                ip saddr {address} udp sport 53 notrack
              }}
            }}
            """)
        ip("link", "set", "nodelocaldns", "up")
        metadata = {"namespace": "shop", "name": "kube-dns"}
        ports = [{"port": 53, "targetPort": 53, "protocol": "UDP"}]
        spec = {"type": "ClusterIP", "clusterIP": CLUSTER_DNS, "ports": ports}
        made.api.put("services", {"metadata": metadata, "spec": spec})
        backends = {
            "metadata": metadata
            | {"name": "kube-dns-1", "labels": {"kubernetes.io/service-name": "kube-dns"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [dns.addresses[4]], "conditions": {"ready": True}}],
            "ports": [{"port": 53, "protocol": "UDP"}],
        }
        made.api.put("endpointslices", backends)
        to_dns = {"to": [{"podSelector": {"matchLabels": {"app": "dns"}}}], "ports": DNS_PORTS}
        client_only = {"matchLabels": {"app": "client"}}
        made.policy("dns", podSelector=client_only, policyTypes=["Egress"], egress=[to_dns])
        agent = make_agent(*made.flags(tmp_path))
        opening = made.quiet()
        started(agent)
        datagrams(client.netns, "", LOCAL_DNS, 53)
        datagrams(client.netns, "", CLUSTER_DNS, 53)
        rows: dict[Row, int] = {
            ("client", "egress", "host", "host", "udp", "53", "allowed"): 1,
            ("client", "egress", "service", "kube-dns", "udp", "53", "allowed"): 1,
        }
        eventually(agent, connections, rows)
        settled(agent, made, opening)


def test_a_macvlan_pod_on_the_uplink(make_agent: MakeAgent, tmp_path: Path) -> None:
    """Its address is not the host's: it is no host-network pod, and its policies count."""
    address, container, uid = "203.0.113.50", "c0ffee" * 10 + "beef", str(uuid.uuid4())
    with lab(PointToPoint(interfaces=UPLINK)) as made, ExitStack() as stack:
        pod = made.netns("macvlan")
        ip("link", "add", "mv0", "link", UPLINK, "type", "macvlan", "mode", "bridge")
        ip("link", "set", "mv0", "netns", pod, "name", "eth0")
        ip("-n", pod, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", pod, "link", "set", "eth0", "up")
        path = stack.enter_context(cgroup(f"kubepods/besteffort/pod{uid}/{container}"))
        stack.enter_context(pod_process(path, pod))
        who = objects.Identity("mv", uid, container, (address,))
        item = objects.running(objects.admitted(who), who)
        item["metadata"] |= {"namespace": "shop", "labels": {}}
        made.api.put("pods", item)
        made.policy("shut", podSelector={}, policyTypes=["Egress"], egress=[])
        agent = make_agent(*made.flags(tmp_path))
        started(agent)
        script = (
            "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
            f"[s.sendto(bytes({SIZE}), ('{WORLD[4]}', 7777)) for _ in range(23)]"
        )
        with socket_in(made.world, 4, DATAGRAM) as there:
            there.bind((WORLD[4], 7777))
            join = f'echo $$ > "{path}/cgroup.procs"; exec "$@"'
            enter = ("nsenter", f"--net=/run/netns/{pod}", sys.executable, "-Sc", script)
            subprocess.run(["sh", "-c", join, "sh", *enter], check=True)
            for _ in range(23):
                assert len(there.recv(2000)) == SIZE
        moved = 23 * (SIZE + 42)
        look = lambda s: by("verdict", s, FLOWS, workload="mv", port="7777")  # noqa: E731
        samples = eventually(agent, look, {"denied": moved})
        assert by("workload", samples, FLOWS, port="7777") == {"mv": moved}


def test_devices_without_ethernet_are_refused_by_name(tmp_path: Path) -> None:
    """WireGuard, tun and IPIP devices carry bare IP packets."""
    with lab(PointToPoint()) as made:
        ip("tuntap", "add", "tunl0", "mode", "tun")
        command = [sys.executable, "-m", "podtally", "doctor", "--interfaces", "veth*,tunl0"]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment(), check=False
        )
        assert "tunl0 cannot be watched: its frames have no Ethernet header" in done.stdout
        assert made.pods == {}
