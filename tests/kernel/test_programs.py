"""bpf/podtally.c, frame by frame: which flow, or which account, and how much."""

from typing import NamedTuple

import pytest

from podtally.kernel.pins import PROGRAMS
from tests.kernel.driver import FROM, LOOPBACK, NOTHING, OTHER, OVERFLOW, TO, Account, Flow, Kernel
from tests.kernel.packets import (
    A4,
    A6,
    AH,
    B4,
    B6,
    DESTINATION,
    ESP,
    ETHERNET,
    FRAGMENT,
    GRE,
    HOP_BY_HOP,
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
    LATER_FRAGMENT,
    MORE_FRAGMENTS,
    NO_NEXT,
    ROUTING,
    SCTP,
    TAG,
    TCP,
    TYPE_8021AD,
    TYPE_ARP,
    TYPE_IPV4,
    TYPE_IPV6,
    TYPE_LLDP,
    UDP,
    UDPLITE,
    ether,
    extension_bytes,
    ipv4,
    ipv6,
    ipv6_with,
    ports,
    tcp,
    vlan,
)

TC_ACT_UNSPEC = -1
TIMES = 23  # a prime: a count that is off by a factor cannot hit it
PORTS = 4  # bytes of both
ALL_KINDS = [HOP_BY_HOP, DESTINATION, ROUTING, FRAGMENT, AH, DESTINATION]  # RFC 8200 4.1's order

DIRECTION = {"from_pod": FROM, "to_pod": TO, "from_host": FROM, "to_host": TO}


class Row(NamedTuple):
    frame: bytes
    protocol: int
    ports: tuple[int, int]  # source and destination
    needed: int  # with one byte less the frame is cut short

    def flow(self, direction: int) -> Flow:
        source, destination = (A6, B6) if _carries_ipv6(self.frame) else (A4, B4)
        ends = [(source, self.ports[0]), (destination, self.ports[1])]
        local, remote = ends if direction == FROM else reversed(ends)
        return Flow(self.protocol, *local, *remote)


def _carries_ipv6(frame: bytes) -> bool:
    return TYPE_IPV6.to_bytes(2, "big") in (frame[12:14], frame[16:18], frame[20:22])


def v4(frame: bytes, protocol: int, flow_ports: tuple[int, int] = (0, 0), more: int = 0) -> Row:
    """A flow; ``more`` bytes are needed behind a bare IPv4 header."""
    return Row(frame, protocol, flow_ports, ETHERNET + IPV4 + more)


def v6(frame: bytes, protocol: int, flow_ports: tuple[int, int] = (0, 0), more: int = 0) -> Row:
    return Row(frame, protocol, flow_ports, ETHERNET + IPV6 + more)


def chained(kinds: list[int]) -> Row:
    frame = ipv6_with(kinds, TCP, tcp())
    return v6(frame, TCP, (40000, 443), extension_bytes(kinds) + PORTS)


def tagged(row: Row, *types: int) -> Row:
    frame = row.frame
    for tag_type in types:
        frame = vlan(frame, tag_type)
    return row._replace(frame=frame, needed=row.needed + TAG * len(types))


TCP4 = v4(ipv4(TCP, tcp()), TCP, (40000, 443), PORTS)
TCP6 = v6(ipv6(TCP, tcp()), TCP, (40000, 443), PORTS)
UDP4 = v4(ipv4(UDP, ports(5353, 53)), UDP, (5353, 53), PORTS)
UDP6 = v6(ipv6(UDP, ports(5353, 53)), UDP, (5353, 53), PORTS)
OPTIONS = v4(ipv4(TCP, tcp(), options=bytes(8)), TCP, (40000, 443), 8 + PORTS)
EXTENSIONS = chained(ALL_KINDS)

Q, AD = 0x8100, TYPE_8021AD
NINE = [DESTINATION] * 9

# what it is about              frame, flow, and how much of the frame says so
FLOWS = {
    "v4 tcp":                   TCP4,
    "v6 tcp":                   TCP6,
    "v4 tcp, payload":          v4(ipv4(TCP, tcp() + bytes(1000)), TCP, (40000, 443), PORTS),
    "v4 udp":                   UDP4,
    "v6 udp":                   UDP6,
    "v4 udp, payload":          v4(ipv4(UDP, ports(5353, 53, 1004)), UDP, (5353, 53), PORTS),
    "v6 udp, payload":          v6(ipv6(UDP, ports(5353, 53, 1004)), UDP, (5353, 53), PORTS),
    "v4 sctp":                  v4(ipv4(SCTP, ports(7, 9)), SCTP, (7, 9), PORTS),
    "v6 sctp":                  v6(ipv6(SCTP, ports(7, 9)), SCTP, (7, 9), PORTS),
    "v4 udp-lite":              v4(ipv4(UDPLITE, ports(7, 9)), UDPLITE, (7, 9), PORTS),
    "v6 udp-lite":              v6(ipv6(UDPLITE, ports(7, 9)), UDPLITE, (7, 9), PORTS),
    "icmp":                     v4(ipv4(ICMP, bytes([8, 0, 1, 2, 3, 4, 5, 6])), ICMP),
    "icmpv6":                   v6(ipv6(ICMPV6, bytes([128, 0, 1, 2, 3, 4, 5, 6])), ICMPV6),
    "v4 gre":                   v4(ipv4(GRE, b"\1\2\3\4"), GRE),
    "v6 gre":                   v6(ipv6(GRE, b"\1\2\3\4"), GRE),
    "v4 esp":                   v4(ipv4(ESP, b"\1\2\3\4"), ESP),
    "v6 esp":                   v6(ipv6(ESP, b"\1\2\3\4"), ESP),
    "v4 ah is its protocol":    v4(ipv4(AH, bytes(24)), AH),
    "v4 protocol 255":          v4(ipv4(255, b"\1\2\3\4"), 255),
    "v4 options":               OPTIONS,
    "v4 40 bytes of options":   v4(ipv4(UDP, ports(7, 9), options=bytes(40)), UDP, (7, 9), 40 + PORTS),
    "v4 first fragment":        v4(ipv4(UDP, ports(7, 9), MORE_FRAGMENTS), UDP, (7, 9), PORTS),
    "v4 don't fragment":        v4(ipv4(UDP, ports(7, 9), 0x4000), UDP, (7, 9), PORTS),
    "v4 later fragment":        v4(ipv4(UDP, ports(7, 9), LATER_FRAGMENT), UDP),
    "v4 last fragment":         v4(ipv4(TCP, tcp(), 185), TCP),
    "v4 later, with options":   v4(ipv4(TCP, tcp(), 185, bytes(8)), TCP),
    "v4 tiny first fragment":   v4(ipv4(TCP, tcp()[:8], MORE_FRAGMENTS), TCP, (40000, 443), PORTS),
    "v4 ports only":            v4(ipv4(TCP, tcp()[:4]), TCP, (40000, 443), PORTS),
    "v6 ports only":            v6(ipv6(TCP, tcp()[:4]), TCP, (40000, 443), PORTS),
    "v6 hop-by-hop":            chained([HOP_BY_HOP]),
    "v6 routing":               chained([ROUTING]),
    "v6 destination":           chained([DESTINATION]),
    "v6 fragment, whole":       chained([FRAGMENT]),
    "v6 ah":                    chained([AH]),
    "v6 all kinds":             EXTENSIONS,
    "v6 eight headers":         chained([DESTINATION] * 8),
    "v6 nine headers":          v6(ipv6_with(NINE, TCP, tcp()), DESTINATION, more=7 * 16 + 4),
    "v6 first fragment":        v6(ipv6_with([FRAGMENT], UDP, ports(7, 9), 1), UDP, (7, 9), 8 + PORTS),
    "v6 later fragment":        v6(ipv6_with([FRAGMENT], UDP, ports(7, 9), 185 << 3 | 1), UDP, more=4),
    "v6 last fragment":         v6(ipv6_with([FRAGMENT], TCP, tcp(), 185 << 3), TCP, more=4),
    "v6 later, behind another": v6(ipv6_with([ROUTING, FRAGMENT], TCP, tcp(), 8), TCP, more=16 + 4),
    "v6 sctp behind a header":  v6(ipv6_with([DESTINATION], SCTP, ports(7, 9)), SCTP, (7, 9), 16 + PORTS),
    "v6 icmp behind a header":  v6(ipv6_with([HOP_BY_HOP], ICMPV6, bytes(8)), ICMPV6, more=4),
    "v6 no next header":        v6(ipv6(NO_NEXT, b""), NO_NEXT),
    "v6 nothing behind a header": v6(ipv6_with([DESTINATION], NO_NEXT, b""), NO_NEXT, more=4),
    "802.1Q v4":                tagged(TCP4, Q),
    "802.1Q v6":                tagged(TCP6, Q),
    "802.1ad v4":               tagged(UDP4, AD),
    "802.1ad v6":               tagged(UDP6, AD),
    "two tags v4":              tagged(TCP4, Q, AD),
    "two tags v6":              tagged(UDP6, Q, AD),
    "two 802.1Q v4":            tagged(UDP4, Q, Q),
    "tag, options":             tagged(OPTIONS, Q),
    "two tags, all extensions": tagged(EXTENSIONS, Q, AD),
}  # fmt: skip

OTHERS = {
    "arp":                      ether(TYPE_ARP, bytes(28)),
    "lldp":                     ether(TYPE_LLDP, bytes(46)),
    "unknown ethertype":        ether(0x88B5, bytes(46)),
    "802.3 length":             ether(46, bytes(46)),
    "ethernet alone":           ether(0x88B5, b""),
    "arp behind a tag":         vlan(ether(TYPE_ARP, bytes(28))),
    "three tags":               vlan(vlan(vlan(TCP4.frame)), TYPE_8021AD),
    "v4 says version 6":        ipv4(TCP, tcp(), first=0x65),
    "v6 says version 4":        ipv6(TCP, tcp(), version=4),
    "v6 udp says version 4":    ipv6(UDP, ports(), version=4),
    "v6 udp says version 0":    ipv6(UDP, ports(), version=0),
    "v6 behind a v4 type":      TCP6.frame[:12] + TCP4.frame[12:14] + TCP6.frame[14:],
    "v4 behind a v6 type":      TCP4.frame[:12] + TCP6.frame[12:14] + TCP4.frame[14:] + bytes(40),
    "v4 header of 16 bytes":    ipv4(TCP, tcp(), first=0x44),
    "v4 header of 0 bytes":     ipv4(UDP, ports(), first=0x40),
    "v4 options cut off":       ipv4(TCP, b"", first=0x4F),
    "v6 header too long":       ipv6(DESTINATION, bytes([TCP, 255]) + bytes(14)),
}  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("row", FLOWS.values(), ids=FLOWS)
def test_one_flow(kernel: Kernel, program: str, row: Row) -> None:
    direction = DIRECTION[program]

    assert kernel.send(program, row.frame, TIMES) == TC_ACT_UNSPEC

    (entry,) = kernel.entries()
    assert entry.flow == row.flow(direction)
    assert (entry.ifindex, entry.first_direction) == (LOOPBACK, direction)
    assert entry.bytes[direction] == TIMES * len(row.frame)
    assert entry.packets[direction] == TIMES
    assert (entry.bytes[1 - direction], entry.packets[1 - direction]) == (0, 0)
    assert kernel.account(direction, OTHER) == kernel.account(direction, OVERFLOW) == NOTHING


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("frame", OTHERS.values(), ids=OTHERS)
def test_no_flow(kernel: Kernel, program: str, frame: bytes) -> None:
    direction = DIRECTION[program]

    assert kernel.send(program, frame, TIMES) == TC_ACT_UNSPEC

    assert kernel.entries() == []
    assert kernel.account(direction, OTHER) == Account(TIMES * len(frame), TIMES)
    assert kernel.account(1 - direction, OTHER) == NOTHING


def shortest(frame: bytes) -> int:
    """How much of a frame bpf_prog_test_run_skb() asks for: since 6.18 the bare IP header."""
    kind = frame[12:14]
    if kind == TYPE_IPV4.to_bytes(2, "big"):
        return ETHERNET + IPV4
    return ETHERNET + IPV6 if kind == TYPE_IPV6.to_bytes(2, "big") else ETHERNET


@pytest.mark.parametrize("row", FLOWS.values(), ids=FLOWS)
def test_cut_short_at_every_byte(kernel: Kernel, row: Row) -> None:
    lengths = range(shortest(row.frame), row.needed)

    verdicts = {kernel.send("from_pod", row.frame[:length]) for length in lengths}

    assert verdicts <= {TC_ACT_UNSPEC}
    assert kernel.entries() == []
    assert kernel.account(FROM, OTHER) == Account(sum(lengths), len(lengths))
    assert kernel.send("from_pod", row.frame[: row.needed]) == TC_ACT_UNSPEC
    assert [entry.flow for entry in kernel.entries()] == [row.flow(FROM)]
