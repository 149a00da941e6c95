# SPDX-License-Identifier: Apache-2.0
"""Sends a bit of everything from inside a pod until it is ended; started by ``traffic``.

Usage: python -m tests.e2e.chatter OWN4 PEER4 OWN6 PEER6 [--fast]
"""

import itertools
import socket
import struct
import sys
import time

from tests.kernel import packets

SMALL, LARGE = b"x" * 23, b"x" * 8192  # a packet each, and one of six fragments
DISCARD = 9
BURST = 23


def main(own4: str, peer4: str, own6: str, peer6: str, *flags: str) -> None:
    pause = 0.0005 if "--fast" in flags else 0.005
    udp4, udp6 = _udp(socket.AF_INET, own4), _udp(socket.AF_INET6, own6)
    ping4 = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    ping6 = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    raw.bind(("eth0", 0))
    frames = odd_frames(peer4)
    for turn in itertools.count():
        for port in range(BURST):
            _send(udp4, SMALL, (peer4, DISCARD + port))
            _send(udp6, SMALL, (peer6, DISCARD + port))
        if turn % 10 == 0:
            _send(udp4, LARGE, (peer4, DISCARD))
            _send(udp6, LARGE, (peer6, DISCARD))
            _send(ping4, echo(8, turn) + LARGE[:4000], (peer4, 0))
            _send(ping6, echo(128, turn), (peer6, 0))
            for frame in frames:
                _send(raw, frame, ("eth0", 0))
        time.sleep(pause)


def odd_frames(peer: str) -> list[bytes]:
    """ARP, SCTP, LLDP, and IPv4 and IPv6 cut short; broadcast, so that every pod gets them."""
    arp = struct.pack("!HHBBH", 1, packets.TYPE_IPV4, 6, 4, 1)
    # a probe from no address (RFC 5227 2.1.1), so that no host learns a wrong one
    arp += bytes(10) + bytes(6) + socket.inet_aton(peer)
    whole = packets.ipv4(packets.SCTP, packets.ports(3868, 3868, 23))
    made = [
        packets.ether(packets.TYPE_ARP, arp),
        packets.ether(packets.TYPE_LLDP, bytes(23)),
        whole,
        whole[: packets.ETHERNET + 7],
        packets.ipv6(packets.SCTP, packets.ports(3868, 3868, 23)),
        packets.ipv6(packets.TCP, b"")[: packets.ETHERNET + 11],
    ]
    return [b"\xff" * 6 + b"\x02\0\0\0\0\1" + frame[12:] for frame in made]


def echo(kind: int, turn: int) -> bytes:
    """An ICMP echo request; the sum is right for the zeros and bytes that follow only by luck."""
    return struct.pack("!BBHHH", kind, 0, 0, 23, turn & 0xFFFF)


def _udp(family: int, own: str) -> socket.socket:
    """A socket that others send to as well, and without a reader."""
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.bind((own, DISCARD))
    return made


def _send(through: socket.socket, data: bytes, to: tuple[str, int]) -> None:
    try:
        through.sendto(data, to)
    except OSError:  # a full queue, or a neighbour not found yet: what was not sent is not counted
        time.sleep(0.001)


if __name__ == "__main__":
    main(*sys.argv[1:])
