# SPDX-License-Identifier: Apache-2.0
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
    HIP,
    HOP_BY_HOP,
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
    LATER_FRAGMENT,
    MOBILITY,
    MORE_FRAGMENTS,
    NO_NEXT,
    ROUTING,
    SCTP,
    SHIM6,
    TAG,
    TCP,
    TYPE_8021AD,
    TYPE_8021Q,
    TYPE_ARP,
    TYPE_IPV4,
    TYPE_IPV6,
    TYPE_LLDP,
    UDP,
    UDPLITE,
    context,
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

    def needed_for_ip(self) -> int:
        """Bytes up to the end of the bare IP header."""
        bare = ETHERNET + (IPV6 if _carries_ipv6(self.frame) else IPV4)
        return bare + TAG * _tag_count(self.frame)


_TAGS = [value.to_bytes(2, "big") for value in (TYPE_8021Q, TYPE_8021AD)]


def _tag_count(frame: bytes) -> int:
    count = 0
    while frame[12 + TAG * count :][:2] in _TAGS:
        count += 1
    return count


def _carries_ipv6(frame: bytes) -> bool:
    return frame[12 + TAG * _tag_count(frame) :][:2] == TYPE_IPV6.to_bytes(2, "big")


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
    "v6 mobility":              chained([MOBILITY]),
    "v6 hip":                   chained([HIP]),
    "v6 shim6":                 chained([SHIM6]),
    "v6 hip behind mobility":   chained([MOBILITY, HIP]),
    "v6 nine headers":          v6(ipv6_with(NINE, TCP, tcp()), DESTINATION, more=7 * 16 + 4),
    "v6 first fragment":        v6(ipv6_with([FRAGMENT], UDP, ports(7, 9), 1), UDP, (7, 9), 8 + PORTS),
    "v6 later fragment":        v6(ipv6_with([FRAGMENT], UDP, ports(7, 9), 185 << 3 | 1), UDP, more=8),
    "v6 last fragment":         v6(ipv6_with([FRAGMENT], TCP, tcp(), 185 << 3), TCP, more=8),
    "v6 later, behind another": v6(ipv6_with([ROUTING, FRAGMENT], TCP, tcp(), 8), TCP, more=16 + 8),
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
    "three tags":               tagged(TCP4, Q, Q, AD),
    "four 802.1Q v6":           tagged(TCP6, *4 * [Q]),
    "eight 802.1Q v4":          tagged(UDP4, *8 * [Q]),
    "eight 802.1ad v6":         tagged(UDP6, *8 * [AD]),
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
    "arp behind eight tags":    tagged(v4(ether(TYPE_ARP, bytes(28)), 0), *8 * [Q]).frame,
    "v4 says version 6":        ipv4(TCP, tcp(), first=0x65),
    "v6 says version 4":        ipv6(TCP, tcp(), version=4),
    "v6 udp says version 4":    ipv6(UDP, ports(), version=4),
    "v6 udp says version 0":    ipv6(UDP, ports(), version=0),
    "v6 behind a v4 type":      TCP6.frame[:12] + TCP4.frame[12:14] + TCP6.frame[14:],
    "v4 behind a v6 type":      TCP4.frame[:12] + TCP6.frame[12:14] + TCP4.frame[14:] + bytes(40),
    "v4 header of 16 bytes":    ipv4(TCP, tcp(), first=0x44),
    "v4 header of 0 bytes":     ipv4(UDP, ports(), first=0x40),
    "v4 shorter than its header": ipv4(TCP, tcp(), length=19),
    "v4 says length 0":         ipv4(TCP, tcp(), length=0),
    "v4 options cut off":       ipv4(TCP, b"", first=0x4F),
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


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("row", [TCP4, TCP6], ids=["v4", "v6"])
@pytest.mark.parametrize("tag_type", [Q, AD], ids=["802.1Q", "802.1ad"])
def test_more_tags_than_are_parsed(kernel: Kernel, program: str, row: Row, tag_type: int) -> None:
    """The kernel removes any number of priority tags, so such a frame may be routed."""
    direction = DIRECTION[program]
    for tags in (9, 10, 100):
        kernel.send(program, tagged(row, *tags * [tag_type]).frame, TIMES)

    (entry,) = kernel.entries()
    seen = entry.seen >> kernel.layout.seen_shift * direction
    assert entry.flow == Flow(0, "::", 0, "::", 0)
    assert entry.packets[direction] == 3 * TIMES
    assert seen & kernel.layout.seen_unparsed
    assert kernel.account(direction, OTHER) == NOTHING


def shortest(frame: bytes) -> int:
    """How much of a frame bpf_prog_test_run_skb() asks for: since 6.18 the bare IP header."""
    kind = frame[12:14]
    if kind == TYPE_IPV4.to_bytes(2, "big"):
        return ETHERNET + IPV4
    return ETHERNET + IPV6 if kind == TYPE_IPV6.to_bytes(2, "big") else ETHERNET


@pytest.mark.parametrize("row", FLOWS.values(), ids=FLOWS)
def test_cut_short_at_every_byte(kernel: Kernel, row: Row) -> None:
    """With a whole IP header it would be routed, so it is a flow; its ports are not read."""
    header = row.needed_for_ip()
    without = range(shortest(row.frame), header)
    within = range(header, row.needed)

    verdicts = {kernel.send("from_pod", row.frame[:length]) for length in (*without, *within)}

    entries = kernel.entries()
    ends = row.flow(FROM)
    assert verdicts <= {TC_ACT_UNSPEC}
    assert kernel.account(FROM, OTHER) == Account(sum(without), len(without))
    assert sum(entry.bytes[FROM] for entry in entries) == sum(within)
    for entry in entries:
        assert entry.flow[1:] == (ends.local, 0, ends.remote, 0)
        assert entry.seen == kernel.layout.seen_unparsed or not row.ports[0]
    kernel.reset()
    assert kernel.send("from_pod", row.frame[: row.needed]) == TC_ACT_UNSPEC
    assert [entry.flow for entry in kernel.entries()] == [row.flow(FROM)]


# what the IP header says is shorter than the frame: padding, or made to look like a flow
SHORT = {
    "v4 tcp, no ports":         (ipv4(TCP, tcp(), length=20 + 3), 0, True),
    "v4 tcp, no flags":         (ipv4(TCP, tcp(flags=0x12), length=20 + 13), 40000, True),
    "v4 tcp, just the flags":   (ipv4(TCP, tcp(), length=20 + 14), 40000, False),
    "v4 udp, no ports":         (ipv4(UDP, ports(), length=20), 0, True),
    "v4 udp, just the ports":   (ipv4(UDP, ports(), length=20 + 4), 40000, False),
    "v4 options, no ports":     (ipv4(UDP, ports(), options=bytes(8), length=28 + 3), 0, True),
    "v6 tcp, no ports":         (ipv6(TCP, tcp(), length=3), 0, True),
    "v6 tcp, no flags":         (ipv6(TCP, tcp(flags=0x12), length=13), 40000, True),
    "v6 tcp, just the flags":   (ipv6(TCP, tcp(), length=14), 40000, False),
    "v6 udp, length 0":         (ipv6(UDP, ports(), length=0), 0, True),
    "v6 udp, just the ports":   (ipv6(UDP, ports(), length=4), 40000, False),
    "802.1Q v4, no ports":      (vlan(ipv4(UDP, ports(), length=20)), 0, True),
    "802.1Q v6, no ports":      (vlan(ipv6(UDP, ports(), length=3)), 0, True),
    "v6 header too long":       (ipv6(DESTINATION, bytes([TCP, 255]) + bytes(14)), 0, True),
    "v6 header beyond the end": (ipv6_with([DESTINATION, DESTINATION], TCP, tcp())[:-1], 40000, False),
}  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(("frame", "port", "unparsed"), SHORT.values(), ids=SHORT)
def test_ports_are_read_within_the_length_of_the_packet(
    kernel: Kernel, program: str, frame: bytes, port: int, unparsed: bool
) -> None:
    kernel.send(program, frame)

    direction = DIRECTION[program]
    (entry,) = kernel.entries()
    flow = entry.flow
    seen = entry.seen >> kernel.layout.seen_shift * direction
    assert (flow.local_port, flow.remote_port)[direction] == port
    assert bool(seen & kernel.layout.seen_unparsed) == unparsed
    assert not unparsed or not seen & 0xFF  # no flags are made up


def test_padding_is_no_port(kernel: Kernel) -> None:
    """A short packet's frame is padded to 60 bytes, with whatever there was in the buffer."""
    header = ipv4(UDP, b"\0\1", length=22)
    kernel.send("from_pod", header + bytes([0xAA] * (60 - len(header))))

    (entry,) = kernel.entries()
    assert (entry.flow.local_port, entry.flow.remote_port) == (0, 0)


@pytest.mark.parametrize("frame", [ipv4(TCP, tcp(), length=0), ipv6(TCP, tcp(), length=0)])
def test_big_tcp_has_no_length(kernel: Kernel, frame: bytes) -> None:
    """A GSO packet of more than 64 KiB says 0 (skb_set_network_header_len(), iph_set_totlen())."""
    kernel.send("from_pod", frame, context=context(gso_segs=50))

    (entry,) = kernel.entries()
    assert (entry.flow.local_port, entry.flow.remote_port) == (40000, 443)


UNPARSED = {
    "v4 later fragment":        ipv4(UDP, ports(7, 9), LATER_FRAGMENT),
    "v4 later tcp fragment":    ipv4(TCP, tcp(), 185),
    "v6 later fragment":        ipv6_with([FRAGMENT], UDP, ports(7, 9), 185 << 3 | 1),
    "v6 later, options behind": ipv6_with([FRAGMENT], DESTINATION, ports(7, 9), 185 << 3 | 1),
    "v4 tiny first fragment":   ipv4(TCP, tcp(flags=2)[:8], MORE_FRAGMENTS),
    "v6 tiny first fragment":   ipv6_with([FRAGMENT], TCP, tcp(flags=2)[:8], 1),
    "v6 nine headers":          ipv6_with(NINE, TCP, tcp(flags=2)),
}  # fmt: skip
PARSED = {
    "v4 later icmp fragment":   ipv4(ICMP, bytes(8), LATER_FRAGMENT),
    "v6 later icmp fragment":   ipv6_with([FRAGMENT], ICMPV6, bytes(8), 8),
    "v4 first fragment":        ipv4(TCP, tcp(flags=2), MORE_FRAGMENTS),
    "v6 first fragment":        ipv6_with([FRAGMENT], TCP, tcp(flags=2), 1),
    "v6 eight headers":         ipv6_with(NINE[1:], TCP, tcp(flags=2)),
    "v6 no next header":        ipv6(NO_NEXT, b""),
    "v4 gre":                   ipv4(GRE, bytes(8)),
}  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("frame", "said"),
    [*((frame, True) for frame in UNPARSED.values()), *((each, False) for each in PARSED.values())],
    ids=[*UNPARSED, *PARSED],
)
def test_a_row_says_that_not_all_could_be_read(
    kernel: Kernel, program: str, frame: bytes, said: bool
) -> None:
    kernel.send(program, frame)

    (entry,) = kernel.entries()
    seen = entry.seen >> kernel.layout.seen_shift * DIRECTION[program]
    assert bool(seen & kernel.layout.seen_unparsed) == said
