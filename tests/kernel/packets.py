# SPDX-License-Identifier: Apache-2.0
"""Builds the frames that the tests send, so that a row shows only what it is about."""

import socket
import struct

A4, B4 = "10.99.0.1", "10.99.0.2"
A6, B6 = "2001:db8::1", "2001:db8::2"

ETHERNET, TAG, IPV4, IPV6 = 14, 4, 20, 40  # bytes of each header

TCP, UDP, SCTP, UDPLITE = 6, 17, 132, 136
ICMP, ICMPV6, GRE, ESP = 1, 58, 47, 50
HOP_BY_HOP, ROUTING, FRAGMENT, AH, NO_NEXT, DESTINATION = 0, 43, 44, 51, 59, 60
MOBILITY, HIP, SHIM6 = 135, 139, 140
IGMP = 2

TYPE_IPV4, TYPE_IPV6, TYPE_ARP, TYPE_LLDP = 0x0800, 0x86DD, 0x0806, 0x88CC
TYPE_8021Q, TYPE_8021AD = 0x8100, 0x88A8

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10

MORE_FRAGMENTS = 0x2000
LATER_FRAGMENT = MORE_FRAGMENTS | 185


MAC = bytes([2, 0, 0, 0, 0, 1])
GROUP_MAC = bytes([0x33, 0x33, 0, 0, 0, 1])
BROADCAST_MAC = bytes([0xFF] * 6)


def ether(ethertype: int, payload: bytes) -> bytes:
    return bytes(12) + struct.pack("!H", ethertype) + payload


def to_mac(frame: bytes, destination: bytes, source: bytes = MAC) -> bytes:
    return destination + source + frame[12:]


def vlan(frame: bytes, tag_type: int = TYPE_8021Q) -> bytes:
    """Put a tag around what ``frame`` carries."""
    return frame[:12] + struct.pack("!HH", tag_type, 23) + frame[12:]


def ipv4(
    protocol: int,
    payload: bytes,
    fragment: int = 0,
    options: bytes = b"",
    first: int = 0x45,
    *,
    ends: tuple[str, str] = (A4, B4),
    ttl: int = 64,
    length: int | None = None,
    number: int = 0,
) -> bytes:
    """``first`` is the byte of version and length, before options count; ``length`` what the
    header says; ``number`` the identification.
    """
    said = IPV4 + len(options) + len(payload) if length is None else length
    fields = (first + len(options) // 4, 0, said, number, fragment, ttl, protocol, 0)
    addresses = b"".join(map(socket.inet_aton, ends))
    header = struct.pack("!BBHHHBBH", *fields) + addresses
    return ether(TYPE_IPV4, header + options + payload)


def ipv6(
    next_header: int,
    payload: bytes,
    version: int = 6,
    *,
    ends: tuple[str, str] = (A6, B6),
    hops: int = 64,
    length: int | None = None,
) -> bytes:
    """``length`` is what the header says."""
    said = len(payload) if length is None else length
    header = struct.pack("!IHBB", version << 28, said, next_header, hops)
    addresses = b"".join(socket.inet_pton(socket.AF_INET6, end) for end in ends)
    return ether(TYPE_IPV6, header + addresses + payload)


def ipv6_with(kinds: list[int], protocol: int, payload: bytes, fragment: int = 0) -> bytes:
    """From A6 to B6, with a header of every kind in ``kinds`` before ``payload``."""
    following = [*kinds[1:], protocol]
    headers = [_extension(*pair, fragment) for pair in zip(kinds, following, strict=True)]
    return ipv6(kinds[0], b"".join(headers) + payload)


def extension_bytes(kinds: list[int]) -> int:
    return sum(len(_extension(kind, 0, 0)) for kind in kinds)


def _extension(kind: int, following: int, fragment: int) -> bytes:
    if kind == FRAGMENT:
        return struct.pack("!BBHI", following, 0, fragment, 23)
    if kind == AH:
        return struct.pack("!BB", following, 4) + bytes(22)  # (4 + 2) * 4 bytes
    return struct.pack("!BB", following, 1) + bytes(14)  # (1 + 1) * 8 bytes


def tcp(source: int = 40000, destination: int = 443, flags: int = ACK) -> bytes:
    return struct.pack("!HHIIBBHHH", source, destination, 1, 1, 0x50, flags, 1000, 0, 0)


def ports(source: int = 40000, destination: int = 443, more: int = 4) -> bytes:
    """The start of a UDP, SCTP or UDP-Lite header, and ``more`` bytes of the rest."""
    return struct.pack("!HH", source, destination) + bytes(more)


def reversed_ends(frame: bytes) -> bytes:
    """The answer to a bare IPv4 or IPv6 frame: its addresses and ports change places."""
    is_ipv4 = frame[12:14] == struct.pack("!H", TYPE_IPV4)
    start, size = (ETHERNET + 12, 4) if is_ipv4 else (ETHERNET + 8, 16)
    middle, end = start + size, start + 2 * size
    sources, destinations = frame[end : end + 2], frame[end + 2 : end + 4]
    addresses = frame[middle:end] + frame[start:middle]
    return frame[:start] + addresses + destinations + sources + frame[end + 4 :]


def context(ifindex: int = 0, gso_segs: int = 0) -> bytes:
    """The ``struct __sk_buff`` of a test run (include/uapi/linux/bpf.h): two of its words."""
    fields = bytearray(192)
    struct.pack_into("=I", fields, 40, ifindex)
    struct.pack_into("=I", fields, 164, gso_segs)
    return bytes(fields)
