# SPDX-License-Identifier: Apache-2.0
"""The tracker's translations, of real connections over real DNAT rules."""

import contextlib
import ipaddress
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from socket import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM
from typing import NamedTuple

import numpy as np
import pytest

from podtally.netlink.conntrack import SCTP, TCP, UDP, Translations, Translator, Tuples
from tests.e2e.pods import Pod, ip, pod_socket, sysctl
from tests.kernel.links_support import inside, own_netns

ICMP = 1
SERVICE, SERVICE6 = "10.99.200.1", "2001:db8:200::1"
OWN_SERVICE = "10.99.200.2"
AGENT = Path(__file__).parents[2] / "agent"

RULES = f"""
table ip shop {{
  chain services {{
    type nat hook prerouting priority dstnat
    ip daddr {SERVICE} tcp dport 80 dnat to 10.99.2.2:8080
    ip daddr {SERVICE} udp dport 53 dnat to 10.99.2.2:5353
    ip daddr {SERVICE} sctp dport 80 dnat to 10.99.2.2:8080
    ip daddr {OWN_SERVICE} tcp dport 80 dnat to 10.99.1.2:8080
  }}
  chain hairpin {{
    type nat hook postrouting priority srcnat
    ip saddr 10.99.1.2 ip daddr 10.99.1.2 masquerade
  }}
}}
table ip6 shop {{
  chain services {{
    type nat hook prerouting priority dstnat
    ip6 daddr {SERVICE6} tcp dport 80 dnat to [2001:db8:2::2]:8080
    ip6 daddr {SERVICE6} udp dport 53 dnat to [2001:db8:2::2]:5353
  }}
}}
"""

Asked = tuple[str, int, str, int, int]  # local, its port, remote, its port, protocol


def number(text: str) -> bytes:
    address = ipaddress.ip_address(text)
    return bytes(10) + b"\xff\xff" + address.packed if address.version == 4 else address.packed


def tuples(asked: Iterable[Asked]) -> Tuples:
    rows = list(asked)

    def words(texts: Iterable[str]) -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
        return np.frombuffer(b"".join(map(number, texts)), np.uint64).reshape(-1, 2)

    return Tuples(
        words(row[0] for row in rows),
        words(row[2] for row in rows),
        np.array([row[1] for row in rows], np.uint16),
        np.array([row[3] for row in rows], np.uint16),
        np.array([row[4] for row in rows], np.uint8),
    )


def backends_of(translations: Translations) -> list[tuple[str, int] | None]:
    """In plain words: address and port, or None where nothing was found."""
    answers: list[tuple[str, int] | None] = []
    for found, address, port in zip(*translations, strict=True):
        whole = ipaddress.IPv6Address(address.tobytes())
        text = str(whole.ipv4_mapped or whole)
        assert found or (not address.any() and not port)
        answers.append((text, int(port)) if found else None)
    return answers


def make_pod(name: str, count: int) -> Pod:
    """A pod on a link of its own: 10.99.COUNT.2 and 2001:db8:COUNT::2."""
    pod = Pod(
        f"ptl-{os.getpid()}-{name}", f"ptl-{name}", f"10.99.{count}.2", f"2001:db8:{count}::2"
    )
    ip("netns", "add", pod.netns)
    with inside(pod.netns):
        hasty_ipv6()
    ip("link", "add", pod.link, "type", "veth", "peer", "name", "eth0", "netns", pod.netns)
    for where, device, end in (([], pod.link, 1), (["-n", pod.netns], "eth0", 2)):
        ip(*where, "addr", "add", f"10.99.{count}.{end}/24", "dev", device)
        ip(*where, "addr", "add", f"2001:db8:{count}::{end}/64", "dev", device, "nodad")
        ip(*where, "link", "set", device, "up")
    ip("-n", pod.netns, "link", "set", "lo", "up")
    ip("-n", pod.netns, "route", "add", "default", "via", f"10.99.{count}.1")
    ip("-n", pod.netns, "-6", "route", "add", "default", "via", f"2001:db8:{count}::1")
    return pod


def hasty_ipv6() -> None:
    """Addresses serve at once: without a look for duplicates, which takes a second."""
    sysctl("ipv6/conf/default/accept_dad", 0)


def load_rules(text: str) -> None:
    done = subprocess.run(
        ["nft", "-f", "-"], input=text, text=True, capture_output=True, check=False
    )
    if done.returncode and "syntax" not in done.stderr:
        pytest.skip(f"no nftables with NAT here (CONFIG_NFT_NAT): {done.stderr}")
    assert done.returncode == 0, done.stderr


class Shop(NamedTuple):
    front: Pod
    back: Pod


@pytest.fixture
def shop() -> Iterator[Shop]:
    """A node with two pods, and Services in front of the second."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    pods: list[Pod] = []
    with own_netns():
        hasty_ipv6()
        sysctl("ipv4/ip_forward", 1)
        sysctl("ipv6/conf/all/forwarding", 1)
        try:
            pods += [make_pod("front", 1)]
            pods += [make_pod("back", 2)]
            load_rules(RULES)
            yield Shop(*pods)
        finally:
            for name in ("front", "back"):
                ip("netns", "del", f"ptl-{os.getpid()}-{name}", check=False)


@pytest.fixture
def translator(shop: Shop) -> Iterator[Translator]:
    made = Translator()
    yield made
    made.close()


class Connections(contextlib.ExitStack):
    """Sockets of a test, which end with it."""

    def listen(
        self, pod: Pod, family: int, port: int, kind: int = SOCK_STREAM, protocol: int = 0
    ) -> socket.socket:
        sock = self.enter_context(pod_socket(pod, family, kind, protocol))
        sock.settimeout(5)
        if family == AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(("::" if family == AF_INET6 else "0.0.0.0", port))
        if kind == SOCK_STREAM:
            sock.listen(64)
        return sock

    def call(
        self, pod: Pod, to: tuple[str, int], kind: int = SOCK_STREAM, protocol: int = 0
    ) -> Asked:
        """Connect from a pod, and send a word; what a look-up is asked with."""
        family = AF_INET6 if ":" in to[0] else AF_INET
        sock = self.enter_context(pod_socket(pod, family, kind, protocol))
        sock.settimeout(5)
        sock.connect(to)
        sock.send(b"hello")
        local, port = sock.getsockname()[:2]
        return local, port, *to, protocol or (TCP if kind == SOCK_STREAM else UDP)


def sctp_init(source: int, target: int) -> bytes:
    """An INIT with its CRC32c (RFC 9260 3.3.2, 6.8), which the tracker checks."""
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, 23, 1500, 1, 1, 23)
    packet = struct.pack("!HHII", source, target, 0, 0) + chunk
    crc = 0xFFFFFFFF
    for byte in packet:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return packet[:8] + struct.pack("<I", crc ^ 0xFFFFFFFF) + packet[12:]


def tracked() -> list[str]:
    done = subprocess.run(["conntrack", "-L"], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


@pytest.fixture
def connections() -> Iterator[Connections]:
    with Connections() as made:
        yield made


def test_the_backend_of_a_service(
    shop: Shop, translator: Translator, connections: Connections
) -> None:
    asked: list[Asked] = []
    for family, service in ((AF_INET, SERVICE), (AF_INET6, SERVICE6)):
        connections.listen(shop.back, family, 8080)
        connections.listen(shop.back, family, 5353, SOCK_DGRAM)
        for _ in range(23):
            asked.append(connections.call(shop.front, (service, 80)))
            asked.append(connections.call(shop.front, (service, 53), SOCK_DGRAM))
    wanted = [
        ("2001:db8:2::2" if ":" in remote else "10.99.2.2", 8080 if port == 80 else 5353)
        for _, _, remote, port, _ in asked
    ]
    assert len(set(asked)) == 92
    assert translator.available, translator.reason
    assert backends_of(translator.translate(tuples(asked))) == wanted
    assert translator.errors == 0


def test_sctp(shop: Shop, translator: Translator) -> None:
    """An INIT by a raw socket: not every kernel has SCTP sockets, but this one tracks SCTP."""
    with pod_socket(shop.front, AF_INET, SOCK_RAW, SCTP) as sock:
        sock.sendto(sctp_init(20023, 80), (SERVICE, 0))
    asked = (shop.front.ipv4, 20023, SERVICE, 80, SCTP)
    if not any("sctp" in line for line in tracked()):
        pytest.skip("the kernel does not track SCTP (CONFIG_NF_CT_PROTO_SCTP)")
    assert backends_of(translator.translate(tuples([asked]))) == [("10.99.2.2", 8080)]


def test_a_pod_that_is_its_own_backend(
    shop: Shop, translator: Translator, connections: Connections
) -> None:
    connections.listen(shop.front, AF_INET, 8080)
    asked = connections.call(shop.front, (OWN_SERVICE, 80))
    assert backends_of(translator.translate(tuples([asked]))) == [("10.99.1.2", 8080)]


def test_without_nat_it_is_the_remote_itself(
    shop: Shop, translator: Translator, connections: Connections
) -> None:
    connections.listen(shop.back, AF_INET, 8080)
    connections.listen(shop.back, AF_INET6, 8080)
    asked = [
        connections.call(shop.front, (address, 8080))
        for address in (shop.back.ipv4, shop.back.ipv6)
    ]
    assert backends_of(translator.translate(tuples(asked))) == [(row[2], 8080) for row in asked]


def test_what_another_began_is_not_found(
    shop: Shop, translator: Translator, connections: Connections
) -> None:
    """The reply tuple of an entry leads to it, too; but who answers there is who asks here."""
    connections.listen(shop.back, AF_INET, 8080)
    local, port, _, _, protocol = connections.call(shop.front, (SERVICE, 80))
    seen_by_backend = (shop.back.ipv4, 8080, local, port, protocol)
    assert backends_of(translator.translate(tuples([seen_by_backend]))) == [None]
    assert translator.errors == 0


def test_the_unknown_is_not_found(
    shop: Shop, translator: Translator, connections: Connections
) -> None:
    connections.listen(shop.back, AF_INET, 8080)
    known = connections.call(shop.front, (SERVICE, 80))
    local, port, remote, remote_port, protocol = known
    subprocess.run(
        ["ip", "netns", "exec", shop.front.netns, "ping", "-qc1", shop.back.ipv4],
        check=True,
        capture_output=True,
    )
    strangers = [
        (local, port ^ 1, remote, remote_port, protocol),
        (local, port, remote, remote_port + 1, protocol),
        (local, port, "10.99.200.3", remote_port, protocol),
        ("10.99.1.3", port, remote, remote_port, protocol),
        (local, port, remote, remote_port, UDP),
        (local, 0, shop.back.ipv4, 0, ICMP),
        (local, port, SERVICE6, remote_port, protocol),
        (local, port, "2001:db8::a63:c801", remote_port, protocol),  # ends as the Service does
        ("2001:db8:1::2", port, SERVICE6, remote_port, protocol),
    ]
    answers = backends_of(translator.translate(tuples([known, *strangers, known])))
    assert answers == [("10.99.2.2", 8080), *[None] * len(strangers), ("10.99.2.2", 8080)]
    assert translator.errors == 0


def test_a_closed_connection_is_known_a_while(shop: Shop, translator: Translator) -> None:
    with Connections() as connections:
        server = connections.listen(shop.back, AF_INET, 8080)
        asked = connections.call(shop.front, (SERVICE, 80))
        server.accept()[0].close()
    time.sleep(0.05)
    (line,) = [row for row in tracked() if f"sport={asked[1]} " in row]
    assert "TIME_WAIT" in line or "CLOSE" in line
    assert backends_of(translator.translate(tuples([asked]))) == [("10.99.2.2", 8080)]
    subprocess.run(
        ["conntrack", "-D", "-p", "tcp", "--sport", str(asked[1])], check=True, capture_output=True
    )
    assert backends_of(translator.translate(tuples([asked]))) == [None]


@pytest.mark.parametrize("zone", ["zone", "original zone", "reply zone"])
@pytest.mark.parametrize("family", [AF_INET, AF_INET6])
def test_zones(shop: Shop, connections: Connections, zone: str, family: int) -> None:
    """As Open vSwitch and ``CT --zone`` use them, in both directions or one."""
    version, service = ("ip", SERVICE) if family == AF_INET else ("ip6", SERVICE6)
    load_rules(
        f"table {version} zones {{\n chain c {{\n type filter hook prerouting priority raw\n"
        f"{version} daddr {service} ct {zone} set 7\n"
        f"{version} saddr {shop.back.ipv4 if family == AF_INET else shop.back.ipv6}"
        f" ct {zone} set 7\n }}\n}}"
    )
    connections.listen(shop.back, family, 5353, SOCK_DGRAM)
    asked = [connections.call(shop.front, (service, 53), SOCK_DGRAM) for _ in range(3)]
    strange = (*asked[0][:2], asked[0][2], 54, UDP)
    translator = Translator()
    try:
        back = ("2001:db8:2::2" if family == AF_INET6 else "10.99.2.2", 5353)
        assert backends_of(translator.translate(tuples(asked))) == [back] * 3
        assert translator.zones == ([0] if zone.startswith("reply") else [0, 7])
        assert backends_of(translator.translate(tuples([*asked, strange]))) == [*[back] * 3, None]
        assert (translator.lookups, translator.not_found, translator.errors) == (7, 1, 0)
    finally:
        translator.close()


def test_a_translation_in_a_zone_counts_more_than_none(
    shop: Shop, connections: Connections
) -> None:
    """The default zone may have the same connection as well, untranslated."""
    made = (
        f"-p udp -s 10.99.1.2 -d {SERVICE} --sport 7000 --dport 53 -t 60",
        "-q 10.99.1.2 --reply-port-dst 7000",
    )
    for rest in (
        f"-r {SERVICE} --reply-port-src 53",
        "-r 10.99.2.2 --reply-port-src 5353 --zone 7",
    ):
        words = f"conntrack -I {made[0]} {rest} {made[1]}".split()
        subprocess.run(words, check=True, capture_output=True)
    translator = Translator()
    try:
        asked = ("10.99.1.2", 7000, SERVICE, 53, UDP)
        translator.zones.append(7)
        assert backends_of(translator.translate(tuples([asked]))) == [("10.99.2.2", 5353)]
    finally:
        translator.close()
