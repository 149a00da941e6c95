# SPDX-License-Identifier: Apache-2.0
"""Frames of neighbour discovery, MLD, IGMP and DHCP as hosts send them, and look-alikes with payload."""

import socket
import struct
from functools import partial

from tests.kernel.packets import (
    BROADCAST_MAC,
    GROUP_MAC,
    HOP_BY_HOP,
    ICMPV6,
    IGMP,
    MAC,
    MORE_FRAGMENTS,
    UDP,
    ipv4,
    ipv6,
    ipv6_with,
    to_mac,
)

LINK, OTHER_LINK = "fe80::1", "fe80::2"
GLOBAL, NEIGHBOUR, AWAY = "2001:db8::1", "2001:db8::2", "2001:db8:1::2"
ALL_NODES, ALL_ROUTERS, REPORTS = "ff02::1", "ff02::2", "ff02::16"
SOLICITED = "ff02::1:ff00:2"  # of OTHER_LINK, and of NEIGHBOUR
REPORTS4, GROUP4 = "224.0.0.22", "239.1.2.3"
ROUTER_ALERT4 = bytes.fromhex("94040000")
SOURCE_LINK, TARGET_LINK = bytes([1, 1]) + MAC, bytes([2, 1]) + MAC
NONCE = bytes([14, 1, 1, 2, 3, 4, 5, 6])
PAYLOAD = bytes(range(200))


def icmpv6(
    kind: int, body: bytes, ends: tuple[str, str], hops: int = 255, code: int = 0, more: bytes = b""
) -> bytes:
    message = struct.pack("!BBH", kind, code, 0) + body
    return to_mac(ipv6(ICMPV6, message, ends=ends, hops=hops) + more, GROUP_MAC)


def solicitation(
    target: str,
    ends: tuple[str, str],
    options: bytes = SOURCE_LINK,
    hops: int = 255,
    flags: int = 0,
    code: int = 0,
    more: bytes = b"",
) -> bytes:
    body = struct.pack("!I", flags) + socket.inet_pton(socket.AF_INET6, target) + options
    return icmpv6(135, body, ends, hops, code, more)


def advertisement(
    target: str,
    ends: tuple[str, str],
    options: bytes = TARGET_LINK,
    hops: int = 255,
    flags: int = 0x60000000,
) -> bytes:
    body = struct.pack("!I", flags) + socket.inet_pton(socket.AF_INET6, target) + options
    return icmpv6(136, body, ends, hops)


ALERT = bytes([ICMPV6, 0, 5, 2, 0, 0, 1, 0])


def mld(
    kind: int,
    body: bytes,
    destination: str,
    source: str = LINK,
    hops: int = 1,
    options: bytes = ALERT,
    groups: int = 0,
    more: bytes = b"",
) -> bytes:
    message = struct.pack("!BBHHH", kind, 0, 0, 0, groups) + body
    frame = ipv6(HOP_BY_HOP, options + message, ends=(source, destination), hops=hops)
    return to_mac(frame + more, GROUP_MAC)


def record(group: str = SOLICITED) -> bytes:
    return struct.pack("!BBH", 4, 0, 0) + socket.inet_pton(socket.AF_INET6, group)


def group6(group: str = SOLICITED) -> bytes:
    return socket.inet_pton(socket.AF_INET6, group)


def igmp(
    kind: int,
    body: bytes,
    destination: str,
    ttl: int = 1,
    options: bytes = b"",
    fragment: int = 0,
    groups: int = 0,
    more: bytes = b"",
) -> bytes:
    message = struct.pack("!BBHHH", kind, 0, 0, 0, groups) + body
    ends = ("10.99.0.1", destination)
    frame = ipv4(IGMP, message, fragment, options, ends=ends, ttl=ttl)
    return to_mac(frame + more, GROUP_MAC)


def dhcp(
    ports: tuple[int, int] = (68, 67),
    operation: int = 1,
    ends: tuple[str, str] = ("0.0.0.0", "255.255.255.255"),
    cookie: int = 0x63825363,
    options: bytes = bytes(60),
    head: bytes = b"\1\6\0",
    more: bytes = b"",
    mac: bytes = BROADCAST_MAC,
) -> bytes:
    message = bytes([operation]) + head + bytes(232) + struct.pack("!I", cookie) + options
    datagram = struct.pack("!HHHH", *ports, 8 + len(message), 0) + message
    return to_mac(ipv4(UDP, datagram, ends=ends) + more, mac)


_solicit, _global = partial(solicitation, OTHER_LINK), (GLOBAL, NEIGHBOUR)

# what any host sends by itself
HOUSEKEEPING = {
    "rs":                       icmpv6(133, bytes(4) + SOURCE_LINK, (LINK, ALL_ROUTERS)),
    "rs without an address":    icmpv6(133, bytes(4), ("::", ALL_ROUTERS)),
    "ns":                       _solicit((LINK, SOLICITED)),
    "ns for a global address":  solicitation(NEIGHBOUR, (GLOBAL, SOLICITED)),
    "dad":                      _solicit(("::", SOLICITED), b""),
    "dad with a nonce":         _solicit(("::", SOLICITED), NONCE),
    "ns with a nonce":          _solicit((LINK, SOLICITED), SOURCE_LINK + NONCE),
    "ns to a neighbour":        _solicit((LINK, OTHER_LINK)),
    "ns to a global neighbour": solicitation(NEIGHBOUR, _global),
    "the same, no option":      solicitation(NEIGHBOUR, _global, b""),
    "ns from the link, to a global neighbour": solicitation(NEIGHBOUR, (LINK, NEIGHBOUR)),
    "ns from the link, no option": solicitation(NEIGHBOUR, (LINK, NEIGHBOUR), b""),
    "na that answers it":       advertisement(NEIGHBOUR, (NEIGHBOUR, LINK)),
    "na of a router to a global address": advertisement(LINK, (LINK, GLOBAL)),
    "na of a router, no link address": advertisement(LINK, (LINK, GLOBAL), b""),
    "ns padded":                _solicit(("::", SOLICITED), b"")[:78] + bytes(0),
    "na":                       advertisement(LINK, (LINK, OTHER_LINK)),
    "na to all":                advertisement(GLOBAL, (LINK, ALL_NODES), flags=0x20000000),
    "na to a global neighbour": advertisement(GLOBAL, _global),
    "the same, no link address": advertisement(GLOBAL, _global, b""),
    "mld report":               mld(131, group6(), SOLICITED, groups=0),
    "mld done":                 mld(132, group6(), ALL_ROUTERS),
    "mld report, unspecified":  mld(131, group6(), SOLICITED, "::"),
    "mld v2 report":            mld(143, record(), REPORTS, groups=1),
    "mld v2 report, 8 groups":  mld(143, 8 * record(), REPORTS, groups=8),
    "mld query":                mld(130, group6("::"), ALL_NODES),
    "mld v2 query":             mld(130, group6("::") + bytes(4), ALL_NODES),
    "igmp query":               igmp(0x11, b"", "224.0.0.1"),
    "igmp v3 query":            igmp(0x11, bytes(4), "224.0.0.1", options=ROUTER_ALERT4),
    "igmp v1 report":           igmp(0x12, b"", GROUP4),
    "igmp v2 report":           igmp(0x16, b"", GROUP4, options=ROUTER_ALERT4),
    "igmp leave":               igmp(0x17, b"", "224.0.0.2", options=ROUTER_ALERT4),
    "igmp v3 report":           igmp(0x22, bytes(8), REPORTS4, options=ROUTER_ALERT4, groups=1),
    "igmp padded to 60 bytes":  igmp(0x16, b"", GROUP4, more=bytes(18)),
    "dhcp discover":            dhcp(),
    "dhcp rebinding":           dhcp(ends=("10.99.0.1", "255.255.255.255")),
    "dhcp, 576 bytes":          dhcp(options=bytes(576 - 28 - 240)),
}  # fmt: skip

# what routers and servers send: to a pod, and on the host's own link
FROM_ROUTERS = {
    "ra":                       icmpv6(134, bytes(12) + SOURCE_LINK + bytes(32), (LINK, ALL_NODES)),
    "ra to one":                icmpv6(134, bytes(12), (LINK, OTHER_LINK)),
    "redirect":                 icmpv6(137, bytes(4) + group6(LINK) + group6(AWAY) + PAYLOAD, (LINK, GLOBAL)),
    "dhcp offer":               dhcp((67, 68), 2, ("10.99.0.2", "255.255.255.255")),
}  # fmt: skip

# the same with something amiss: each could carry what its sender likes, or go where he likes
LOOKALIKES = {
    "rs through a router":      icmpv6(133, bytes(4), (LINK, ALL_ROUTERS), hops=254),
    "rs with payload":          icmpv6(133, bytes(4) + PAYLOAD, (LINK, ALL_ROUTERS)),
    "rs to a global address":   icmpv6(133, bytes(4), (GLOBAL, AWAY)),
    "rs behind its end":        icmpv6(133, bytes(4), (LINK, ALL_ROUTERS), more=PAYLOAD),
    "ns through a router":      _solicit((LINK, SOLICITED), hops=254),
    "ns to another link":       solicitation(AWAY, (GLOBAL, AWAY)),
    "ns to a global, of another": solicitation(GLOBAL, _global),
    "ns to a global, foreign mac": solicitation(NEIGHBOUR, _global, SOURCE_LINK[:2] + b"secret"),
    "ns to a global, nonce":    solicitation(NEIGHBOUR, _global, SOURCE_LINK + NONCE),
    "ns to a global, other option": solicitation(NEIGHBOUR, _global, NONCE),
    "ns from the link, of another": solicitation(GLOBAL, (LINK, NEIGHBOUR)),
    "ns from the link, foreign mac": solicitation(NEIGHBOUR, (LINK, NEIGHBOUR), SOURCE_LINK[:2] + b"secret"),
    "ns from the link, nonce":  solicitation(NEIGHBOUR, (LINK, NEIGHBOUR), SOURCE_LINK + NONCE),
    "ns from the link, other option": solicitation(NEIGHBOUR, (LINK, NEIGHBOUR), NONCE),
    "ns from the link, routed": solicitation(NEIGHBOUR, (LINK, NEIGHBOUR), hops=254),
    "ns from the link, behind its end": solicitation(NEIGHBOUR, (LINK, NEIGHBOUR), more=PAYLOAD),
    "na from the link, of another": advertisement(AWAY, (LINK, GLOBAL)),
    "na from the link, foreign mac": advertisement(LINK, (LINK, GLOBAL), TARGET_LINK[:2] + b"secret"),
    "na from the link, nonce":  advertisement(LINK, (LINK, GLOBAL), TARGET_LINK + NONCE),
    "ns with payload":          _solicit((LINK, SOLICITED), PAYLOAD),
    "ns behind its end":        _solicit((LINK, SOLICITED), more=PAYLOAD),
    "ns with odd length":       _solicit((LINK, SOLICITED), b"12345"),
    "ns with reserved bits":    _solicit((LINK, SOLICITED), flags=1),
    "ns with a code":           _solicit((LINK, SOLICITED), code=1),
    "ns to all nodes":          _solicit((LINK, ALL_NODES)),
    "ns to a wide group":       _solicit((LINK, "ff0e::1:ff00:2")),
    "ns for another":           solicitation("fe80::3", (LINK, SOLICITED)),
    "na through a router":      advertisement(LINK, (LINK, ALL_NODES), hops=64),
    "na to another link":       advertisement(GLOBAL, (GLOBAL, AWAY)),
    "na of another to a global": advertisement(NEIGHBOUR, _global),
    "na with reserved bits":    advertisement(LINK, (LINK, ALL_NODES), flags=0x60000001),
    "na with payload":          advertisement(LINK, (LINK, ALL_NODES), PAYLOAD),
    "na to a wide group":       advertisement(LINK, (LINK, "ff0e::1")),
    "nd behind a header":       to_mac(ipv6_with([60], ICMPV6, bytes([133, *bytes(7)])), GROUP_MAC),
    "ra through a router":      icmpv6(134, bytes(12), (LINK, ALL_NODES), hops=64),
    "ra from a global address": icmpv6(134, bytes(12), (GLOBAL, ALL_NODES)),
    "ra too long":              icmpv6(134, bytes(1000), (LINK, ALL_NODES)),
    "redirect from afar":       icmpv6(137, bytes(36), (AWAY, GLOBAL)),
    "echo to all nodes":        icmpv6(128, bytes(4), (LINK, ALL_NODES)),
    "mld that goes further":    mld(131, group6(), SOLICITED, hops=2),
    "mld without an alert":     mld(131, group6(), SOLICITED, options=bytes([ICMPV6, 0, 1, 4, 0, 0, 0, 0])),
    "mld from a global address": mld(131, group6(), SOLICITED, GLOBAL),
    "mld to one":               mld(131, group6(), OTHER_LINK),
    "mld with payload":         mld(131, group6() + PAYLOAD, SOLICITED),
    "mld v2, more than it says": mld(143, record() + PAYLOAD, REPORTS, groups=1),
    "mld v2, too many groups":  mld(143, 9 * record(), REPORTS, groups=9),
    "mld behind its end":       mld(131, group6(), SOLICITED, more=PAYLOAD),
    "mld with longer options":  mld(131, group6(), SOLICITED, options=bytes([ICMPV6, 1]) + ALERT[2:] + bytes(8)),
    "udp behind an alert":      mld(131, group6(), SOLICITED, options=bytes([UDP]) + ALERT[1:]),
    "igmp that goes further":   igmp(0x16, b"", GROUP4, ttl=64),
    "igmp to one":              igmp(0x16, b"", "10.99.0.2"),
    "igmp with payload":        igmp(0x16, PAYLOAD, GROUP4),
    "igmp v3 with payload":     igmp(0x22, bytes(8) + PAYLOAD, REPORTS4, groups=1),
    "igmp v3, too many groups": igmp(0x22, bytes(72), REPORTS4, groups=9),
    "igmp, unknown type":       igmp(0x77, b"", GROUP4),
    "igmp, other options":      igmp(0x16, b"", GROUP4, options=b"data"),
    "igmp in fragments":        igmp(0x16, b"", GROUP4, fragment=MORE_FRAGMENTS),
    "igmp behind its end":      igmp(0x16, b"", GROUP4, more=PAYLOAD),
    "dhcp to one":              dhcp(ends=("0.0.0.0", "10.99.0.2")),
    "dhcp to a subnet":         dhcp(ends=("0.0.0.0", "10.99.0.255")),
    "dhcp in a frame to one":   dhcp(mac=MAC),
    "dhcp without its cookie":  dhcp(cookie=0x01020304),
    "dhcp too long":            dhcp(options=bytes(577 - 28 - 240)),
    "dhcp behind its end":      dhcp(more=PAYLOAD),
    "dhcp of a relay":          dhcp(head=b"\1\6\1"),
    "dhcp, other hardware":     dhcp(head=b"\7\6\0"),
    "dhcp, not a request":      dhcp(operation=3),
    "dhcp ports, one way":      dhcp((68, 68)),
    "broadcast, other port":    dhcp((68, 69)),
}  # fmt: skip
