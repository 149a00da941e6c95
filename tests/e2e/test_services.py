# SPDX-License-Identifier: Apache-2.0
"""A Service is named as such and resolved to the pod that the kernel picked for each connection."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apiserver.server import ApiServer
from tests.e2e.agents import Agent, assert_books_close, value
from tests.e2e.conftest import MakeAgent
from tests.e2e.kube_node import kubeconfig
from tests.e2e.pods import Node, Pod, pod_socket

CLUSTER_IP, SERVICE_PORT, POD_PORT, NODE_PORT = "10.99.200.1", 80, 8080, 30080
RULES = """
table ip podtally-test {{
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    ip daddr {service} tcp dport {port} dnat to {pod}:{pod_port}
    tcp dport {node_port} dnat to {pod}:{pod_port}
  }}
}}
"""
TIMES, SIZE = 23, 997


@pytest.fixture
def server(node: Node) -> Iterator[ApiServer]:
    """Asked for after ``node``: it listens in the node's namespace."""
    made = ApiServer()
    meta = {"namespace": "shop", "creationTimestamp": "2026-01-31T12:00:00Z"}
    port = {"name": "http", "port": SERVICE_PORT, "targetPort": POD_PORT, "nodePort": NODE_PORT}
    made.put(
        "services",
        {
            "metadata": {**meta, "name": "front", "uid": "front-uid"},
            "spec": {"type": "NodePort", "clusterIP": CLUSTER_IP, "ports": [port]},
        },
    )
    made.put(
        "nodes",
        {
            "metadata": {"name": "node1", "uid": "node1-uid", **meta},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.99.5.1"}]},
        },
    )
    yield made
    made.close()


def translate(pod: Pod) -> None:
    if shutil.which("nft") is None:
        pytest.skip("no nft here (Debian package nftables)")
    rules = RULES.format(
        service=CLUSTER_IP,
        port=SERVICE_PORT,
        pod=pod.ipv4,
        pod_port=POD_PORT,
        node_port=NODE_PORT,
    )
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)


def exchange(client: Pod, server: Pod, address: tuple[str, int]) -> None:
    with (
        pod_socket(server, socket.AF_INET, socket.SOCK_STREAM) as listener,
        pod_socket(client, socket.AF_INET, socket.SOCK_STREAM) as asking,
    ):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", POD_PORT))
        listener.listen()
        asking.settimeout(10)
        asking.connect(address)
        answering, _ = listener.accept()
        with answering:
            for _ in range(TIMES):
                asking.sendall(bytes(SIZE))
            asking.shutdown(socket.SHUT_WR)
            while answering.recv(1 << 16):
                pass


@pytest.mark.parametrize(
    "address",
    [(CLUSTER_IP, SERVICE_PORT), ("10.99.5.1", NODE_PORT)],
    ids=["cluster address", "node port"],
)
def test_a_service_is_resolved_to_the_pod_that_answers(
    node: Node,
    server: ApiServer,
    make_agent: MakeAgent,
    tmp_path: Path,
    address: tuple[str, int],
) -> None:
    web, client = node.routed_pod("web", 6), node.routed_pod("client", 5)
    translate(web)
    log = tmp_path / "flows.jsonl"
    reach = kubeconfig(tmp_path / "kubeconfig", f"http://127.0.0.1:{server.port}")
    flags = ("--kubeconfig", str(reach), "--node-name", "node1", "--flow-log", str(log))
    agent: Agent = make_agent(*flags)
    opening = node.quiet()
    agent.start()
    agent.wait_ready()
    exchange(client, web, address)
    node.quiet()
    samples = assert_books_close(agent, opening)
    asked = {
        "workload": client.netns,
        "peer_kind": "service",
        "peer_namespace": "shop",
        "peer_workload": "front",
        "scope": "node",
        "port": str(address[1]),
    }
    assert value(samples, "podtally_connections_total", **asked, direction="egress") == 1
    assert value(samples, "podtally_flow_bytes_total", **asked) > TIMES * SIZE
    answered = {"workload": web.netns, "peer_workload": client.netns, "port": str(POD_PORT)}
    assert value(samples, "podtally_connections_total", **answered, direction="ingress") == 1
    assert value(samples, "podtally_conntrack_available") == 1
    lines = wait_for_lines(log, 2)
    (line,) = (each for each in lines if each["endpoint"]["pod"] == client.netns)
    assert line["peer"]["workload"] == "front"
    backend = {"namespace": "netns", "workload": web.netns, "port": POD_PORT}
    assert line["peer"]["backend"] == backend


def wait_for_lines(log: Path, count: int) -> list[dict[str, dict[str, object]]]:
    """A closed connection is over two seconds after its last packet."""
    end = time.monotonic() + 10
    while len(lines := log.read_text().splitlines()) < count:
        assert time.monotonic() < end, lines
        time.sleep(0.1)
    return [json.loads(line) for line in lines]
