# SPDX-License-Identifier: Apache-2.0
"""What networks have beside pods and links: overlays, published ports, a mesh, node-local DNS."""

import subprocess
import sys
from pathlib import Path

from tests.e2e.agents import environment
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import ip
from tests.e2e.policy_world import eventually
from tests.networks.lab import lab, nft
from tests.networks.shapes import PointToPoint
from tests.networks.test_shapes import Row, connections, settled, started
from tests.networks.traffic import datagrams

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
