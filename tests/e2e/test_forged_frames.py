# SPDX-License-Identifier: Apache-2.0
"""Frames that are forged, flooded or odd, as the real agent books and reports them."""

import json
import socket
import struct
import time
from functools import partial
from pathlib import Path

import pytest

from podtally.export.event_log import EventRecord
from tests.e2e.agents import Samples, assert_books_close, value
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Node, Pod, ip, pod_socket, sysctl
from tests.e2e.policy_world import (
    DENIED,
    FLOWS,
    OUTSIDE,
    Static,
    by,
    configuration,
    events,
    eventually,
    outside,
    series_of,
    stream,
    wait_for,
)
from tests.kernel import packets

SPOOFED, UNDECIDED = "podtally_spoofed_packets_total", "podtally_policy_undecided_total"
SERVER, FORGED_PORT = OUTSIDE[0], 41001
ETH_P_ALL = 3

SHUT_OUT = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: shut, namespace: shop}
spec: {podSelector: {}, policyTypes: [Egress]}
"""
SHUT = SHUT_OUT.replace("[Egress]", "[Ingress, Egress]")


def raw(pod: Pod) -> socket.socket:
    made = pod_socket(pod, socket.AF_PACKET, socket.SOCK_RAW)
    made.bind(("eth0", 0))
    return made


def mac(link: str, netns: str = "") -> bytes:
    words = ("-n", netns) if netns else ()
    (shown,) = json.loads(ip(*words, "-j", "link", "show", link))
    return bytes.fromhex(shown["address"].replace(":", ""))


def from_pod(pod: Pod, frame: bytes, to: bytes | None = None) -> bytes:
    """An IPv4 frame as the pod sends it to its node, or to another address of its link: with the
    checksum without which no host forwards it.
    """
    start, end = packets.ETHERNET, packets.ETHERNET + packets.IPV4
    words = struct.unpack("!10H", frame[start:end])
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    checksum = struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)
    whole = frame[: start + 10] + checksum + frame[start + 12 :]
    return packets.to_mac(whole, to or mac(pod.link), mac("eth0", pod.netns))


def ipv4(ends: tuple[str, str], protocol: int, payload: bytes) -> bytes:
    return packets.ipv4(protocol, payload, ends=ends)


@pytest.fixture
def stray(node: Node) -> Pod:
    """A pod on a node that routes back whatever it sends."""
    pod = node.routed_pod("stray", 5)
    for name in ("all", pod.link):
        sysctl(f"ipv4/conf/{name}/rp_filter", 0)
    return pod


def test_a_frame_in_the_peers_name_hides_no_denial(
    node: Node, stray: Pod, make_agent: MakeAgent, tmp_path: Path
) -> None:
    world = outside(node)
    flags = configuration(tmp_path / "podtally.yaml", {stray.netns: Static("shop", "stray", {})})
    policy, log = tmp_path / "policy.yaml", tmp_path / "events"
    policy.write_text(SHUT_OUT)
    agent = make_agent(*flags, "--policies", str(policy), "--events", str(log))
    agent.start()
    agent.wait_ready()
    time.sleep(1.2)  # its addresses have been heard of
    opening = packets.tcp(4444, FORGED_PORT, packets.SYN)
    with raw(stray) as forger, stream(world) as listener, stream(stray) as asking:
        forger.send(from_pod(stray, ipv4((SERVER, stray.ipv4), packets.TCP, opening)))
        listener.bind(("", 4444))
        listener.listen()
        asking.bind(("", FORGED_PORT))
        asking.settimeout(10)
        asking.connect((SERVER, 4444))
        answering, _ = listener.accept()
        with answering:
            asking.sendall(b"secret")
            assert answering.recv(6) == b"secret"
    found = wait_for(lambda: events(log), lambda line: line.event == "denied")
    assert (found.direction, found.endpoint.pod, found.port) == ("egress", "stray", 4444)
    assert found.peer.address == SERVER
    forged = wait_for(lambda: events(log), lambda line: line.event == "spoofed")
    assert (forged.endpoint.pod, forged.connections) == ("stray", 1)
    look = lambda s: (by("workload", s, SPOOFED), by("port", s, DENIED))  # noqa: E731
    eventually(agent, look, ({"stray": 1}, {"4444": 1}))


def test_what_policy_cannot_decide_is_reported(
    node: Node, stray: Pod, make_agent: MakeAgent, tmp_path: Path
) -> None:
    outside(node)
    flags = configuration(tmp_path / "podtally.yaml", {stray.netns: Static("shop", "stray", {})})
    policy, log = tmp_path / "policy.yaml", tmp_path / "events"
    policy.write_text(SHUT)
    agent = make_agent(*flags, "--policies", str(policy), "--events", str(log))
    agent.start()
    agent.wait_ready()
    ends = (stray.ipv4, SERVER)
    odd = {
        "icmp": (packets.ICMP, b"\x08\0" + bytes(6) + b"d" * 1000),
        "udplite": (packets.UDPLITE, packets.ports() + bytes(200)),
        "dccp": (33, packets.ports() + bytes(200)),
        "gre": (packets.GRE, bytes(200)),
        "4": (4, packets.ipv4(packets.UDP, packets.ports() + bytes(200))[packets.ETHERNET :]),
        "esp": (packets.ESP, bytes(200)),
        "253": (253, bytes(200)),
    }
    with raw(stray) as sender:
        for protocol, payload in odd.values():
            sender.send(from_pod(stray, ipv4(ends, protocol, payload)))
        opening = packets.tcp(41005, 4447, packets.SYN)
        for piece, fragment in ((opening[:8], 0x2000), (opening[8:], 1)):
            frame = packets.ipv4(packets.TCP, piece, fragment, ends=ends, number=9)
            sender.send(from_pod(stray, frame))
        mute = packets.tcp(41003, 4445, packets.ACK | packets.PSH) + b"x" * 200
        sender.send(from_pod(stray, ipv4(ends, packets.TCP, mute)))

    def reported(protocol: str, event: str) -> EventRecord:
        lines = lambda line: (line.protocol, line.event) == (protocol, event)  # noqa: E731
        return wait_for(lambda: events(log), lines)

    for name in odd:
        assert reported(name, "unknown").endpoint.pod == "stray", name
    # Whoever opened them, both ways are shut.
    assert reported("tcp", "denied").endpoint.pod == "stray"
    wait_for(lambda: events(log), lambda line: line.port is None and line.protocol == "tcp")
    look = partial(by, "protocol", name=UNDECIDED)
    samples = eventually(agent, lambda s: look(samples=s), dict.fromkeys(odd, 1))
    assert set(by("workload", samples, UNDECIDED)) == {"stray"}


def booked_other(samples: Samples, link: str) -> int:
    place = {"interface": link, "direction": "ingress", "account": "other"}
    return int(value(samples, "podtally_books_bytes_total", **place))


def bystanders(samples: Samples) -> set[str]:
    return set(by("workload", samples, FLOWS)) - {"c"}


def test_what_a_bridge_floods_accuses_no_bystander(
    node: Node, make_agent: MakeAgent, tmp_path: Path
) -> None:
    """A rollout of 20 workloads: their addresses are still asked for when they are gone."""
    pods = {name: node.bridged_pod(name) for name in ("c", *(f"w{n}" for n in range(20)))}
    known = {pod.netns: Static("shop", name, {}) for name, pod in pods.items()}
    policy, log = tmp_path / "policy.yaml", tmp_path / "events"
    policy.write_text(SHUT)
    flags = configuration(tmp_path / "podtally.yaml", known)
    agent = make_agent(*flags, "--policies", str(policy), "--events", str(log))
    before = node.quiet()
    agent.start()
    agent.wait_ready()
    time.sleep(1.2)
    client, gone = pods["c"], bytes.fromhex("020000001234")
    with raw(client) as sender:
        for number in range(20):
            opening = packets.tcp(42000 + number, 8080, packets.SYN)
            frame = ipv4((client.ipv4, "10.99.0.200"), packets.TCP, opening)
            sender.send(from_pod(client, frame, gone))
        for address, ports in (("224.0.0.251", (5353, 5353)), ("10.99.0.255", (40000, 9))):
            frame = ipv4((client.ipv4, address), packets.UDP, packets.ports(*ports))
            sender.send(from_pod(client, frame, packets.BROADCAST_MAC))
    wait_for(lambda: events(log), lambda line: line.port == 8080)
    mdns = packets.ETHERNET + packets.IPV4 + 8
    unicast = 20 * (packets.ETHERNET + packets.IPV4 + 20)

    def look(samples: Samples) -> tuple[object, ...]:
        w7 = by("peer_workload", samples, FLOWS, workload="w7")
        other = booked_other(samples, pods["w7"].link)
        return w7, other >= unicast + mdns, bystanders(samples)

    multicast_to = {f"w{n}" for n in range(20)}
    samples = eventually(agent, look, ({"multicast": mdns}, True, multicast_to))
    assert {line.endpoint.pod for line in events(log)} == {"c"}
    assert set(by("workload", samples, DENIED)) == {"c"}
    assert series_of(samples, "podtally_undeclared_exposure_connections_total") == {}
    assert by("workload", samples, SPOOFED) == {}
    assert_books_close(agent, before)
