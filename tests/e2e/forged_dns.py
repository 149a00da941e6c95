# SPDX-License-Identifier: Apache-2.0
"""Answers that a pod forges: frames of its own making, with the resolver as their source."""

import json
import socket

import dns.message
import dns.rrset

from tests.e2e.pods import Pod, ip, pod_socket

CLIENT_PORT, _DNS = 40053, 53
_ID = 0x1723


def ask_without_answer(pod: Pod, resolver: str, name: str) -> None:
    """Send a question that passes the pod's interface and dies at the next hop."""
    with pod_socket(pod, socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
        asking.bind(("", CLIENT_PORT))
        asking.sendto(_question(name).to_wire(), (resolver, _DNS))


def forge_answer(forger: Pod, victim: Pod, resolver: str, name: str, address: str) -> None:
    """Send what looks like the resolver's answer to the victim's question from another pod."""
    answer = dns.message.make_response(_question(name))
    answer.answer.append(dns.rrset.from_text(f"{name}.", 300, "IN", "A", address))
    datagram = _udp(resolver, victim.ipv4, answer.to_wire())
    with pod_socket(forger, socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0))
        raw.send(_mac(forger.link) + raw.getsockname()[4] + b"\x08\x00" + datagram)


def _question(name: str) -> dns.message.QueryMessage:
    return dns.message.make_query(name, "A", id=_ID)


def _udp(source: str, destination: str, data: bytes) -> bytes:
    size = 28 + len(data)
    head = b"\x45\x00" + size.to_bytes(2) + b"\x00\x01\x00\x00\x40\x11\x00\x00"
    head += socket.inet_aton(source) + socket.inet_aton(destination)
    head = head[:10] + _checksum(head).to_bytes(2) + head[12:]
    ports = _DNS.to_bytes(2) + CLIENT_PORT.to_bytes(2)
    return head + ports + (8 + len(data)).to_bytes(2) + b"\0\0" + data  # no UDP checksum


def _checksum(data: bytes) -> int:
    total = sum(int.from_bytes(data[i : i + 2]) for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _mac(link: str) -> bytes:
    (shown,) = json.loads(ip("-j", "link", "show", link))
    return bytes.fromhex(shown["address"].replace(":", ""))
