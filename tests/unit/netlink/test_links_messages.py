# SPDX-License-Identifier: Apache-2.0
"""Rtnetlink messages, byte by byte."""

import socket
import struct

from podtally.netlink.links import AddressMessage, parse_address, parse_link
from podtally.netlink.model import Frames, Link
from podtally.netlink.netlink import attribute, attributes, messages

IFINFO = struct.Struct("=BxHiII")
STATS = attribute(23, struct.pack("=24Q", 1, 2, 300, 400, *range(20)))
FRAMES = Frames(1, 2, 2, 4)  # rx_packets, tx_packets, rx_dropped, tx_dropped of STATS
LARGEST = (
    65536 + 14 + 8
)  # GSO_LEGACY_MAX_SIZE, an Ethernet header, two VLAN tags: none is announced
AF_BRIDGE = 7
NAME = attribute(3, b"v0\0")


def test_a_link() -> None:
    body = IFINFO.pack(0, 1, 7, 0x1043, 0) + NAME + STATS
    body += attribute(5, struct.pack("=i", 2)) + attribute(37, struct.pack("=i", 0))
    body += attribute(18 | 0x8000, attribute(1, b"veth\0"))
    assert parse_link(body) == Link(
        7, "v0", "veth", 2, 0, True, 300, 400, True, FRAMES, largest=LARGEST
    )


def test_what_a_link_lacks() -> None:
    body = IFINFO.pack(0, 772, 1, 0, 0) + NAME + STATS
    assert parse_link(body) == Link(
        1, "v0", "", 0, -1, False, 300, 400, False, FRAMES, largest=LARGEST
    )


def test_bridge_ports_and_wireless_events_are_no_links() -> None:
    assert parse_link(IFINFO.pack(AF_BRIDGE, 1, 7, 1, 0) + NAME + STATS) is None
    assert parse_link(IFINFO.pack(0, 1, 7, 1, 0) + NAME) is None


def test_addresses() -> None:
    def body(family: int, *parts: bytes) -> bytes:
        return struct.pack("=BBBBi", family, 24, 0, 0, 5) + b"".join(parts)

    here, there = bytes([203, 0, 113, 1]), bytes([203, 0, 113, 2])
    mapped = bytes(10) + b"\xff\xff" + here
    both = body(socket.AF_INET, attribute(1, there), attribute(2, here))
    assert parse_address(both) == AddressMessage(5, mapped, 120), "IFA_ADDRESS is the other side's"
    six = socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    assert parse_address(body(socket.AF_INET6, attribute(1, six))) == AddressMessage(5, six, 24)
    assert parse_address(body(socket.AF_INET)) is None
    assert AddressMessage(5, mapped, 120).network == (0xFFFFCB0071, 120)
    assert AddressMessage(5, mapped, 128).network == (0xFFFFCB007101, 128)


def test_attributes_end_where_they_are_cut() -> None:
    data = attribute(1, b"abc") + attribute(2, b"") + b"\x02\x00\x00\x00"
    assert attributes(data) == {1: b"abc", 2: b""}


def test_messages_of_a_datagram() -> None:
    one = struct.pack("=IHHII", 19, 16, 0, 5, 0) + b"abc" + b"\0"
    assert [(m.kind, m.sequence, m.body) for m in messages(one + one)] == [(16, 5, b"abc")] * 2
