# SPDX-License-Identifier: Apache-2.0
"""bpf/podtally.c, fragments: later ones belong to the flow of the first, and to no other."""

import struct

import pytest

from tests.kernel.driver import FROM, NOTHING, OTHER, TO, Kernel
from tests.kernel.packets import (
    A4,
    A6,
    ACK,
    B4,
    B6,
    DESTINATION,
    FRAGMENT,
    ICMP,
    ICMPV6,
    MORE_FRAGMENTS,
    SCTP,
    SYN,
    TCP,
    TYPE_8021AD,
    UDP,
    ipv4,
    ipv6,
    ports,
    tcp,
    vlan,
)

DIRECTION = {"from_pod": FROM, "to_pod": TO, "from_host": FROM, "to_host": TO}
TIMES = 23


def v4(
    units: int,
    payload: bytes = b"",
    number: int = 7,
    protocol: int = UDP,
    ends: tuple[str, str] = (A4, B4),
    options: bytes = b"",
    more: bool = True,
) -> bytes:
    """A fragment that begins ``units`` of eight bytes into the packet ``number``."""
    payload = payload or (bytes(32) if units else ports(40000, 443, 28))
    flags = MORE_FRAGMENTS if more else 0
    return ipv4(protocol, payload, units | flags, options, ends=ends, number=number)


def v6(
    units: int,
    payload: bytes = b"",
    number: int = 7,
    protocol: int = UDP,
    ends: tuple[str, str] = (A6, B6),
    options: bytes = b"",
    more: bool = True,
) -> bytes:
    payload = payload or (bytes(32) if units else ports(40000, 443, 28))
    header = struct.pack("!BBHI", protocol, 0, units << 3 | more, number)
    if options:  # before the fragment header
        return ipv6(
            DESTINATION, bytes([FRAGMENT, 0, 1, 4, 0, 0, 0, 0]) + header + payload, ends=ends
        )
    return ipv6(FRAGMENT, header + payload, ends=ends)


def of_tcp(flags: int) -> tuple[bytes, bytes]:
    """A segment cut behind its ports and number: the flags are in the second part."""
    segment = tcp(flags=flags) + bytes(12)
    return segment[:8], segment[8:]


def hidden(payload: bytes, protocol: int) -> bytes:
    """``payload`` behind destination options that are in the fragmented part."""
    return bytes([protocol, 0, 1, 4, 0, 0, 0, 0]) + payload


SYN_HEAD, SYN_TAIL = of_tcp(SYN)

# the first fragment, and others of the same packet
PACKETS = {
    "v4":                   [v4(0), v4(4), v4(8, more=False)],
    "v4, number 0":         [v4(0, number=0), v4(4, number=0)],
    "v4 with options":      [v4(0, options=bytes(8)), v4(4, options=bytes(8)), v4(8)],
    "v4 tcp":               [v4(0, tcp(), protocol=TCP), v4(3, protocol=TCP)],
    "v4 sctp":              [v4(0, protocol=SCTP), v4(4, protocol=SCTP)],
    "v4, the last first":   [v4(0), v4(8, more=False), v4(4)],
    "v4 behind a tag":      [vlan(v4(0)), vlan(v4(4))],
    "v4 behind two tags":   [vlan(vlan(v4(0)), TYPE_8021AD), vlan(vlan(v4(4)), TYPE_8021AD)],
    "v6":                   [v6(0), v6(4), v6(8, more=False)],
    "v6, a wide number":    [v6(0, number=0xFEDCBA98), v6(4, number=0xFEDCBA98)],
    "v6 behind options":    [v6(0, options=b"1"), v6(4, options=b"1")],
    "v6 tcp":               [v6(0, tcp(), protocol=TCP), v6(3, protocol=TCP)],
    "v6 with options inside": [v6(0, hidden(ports(40000, 443, 20), UDP), protocol=DESTINATION),
                               v6(4, protocol=DESTINATION)],
    "v6 behind a tag":      [vlan(v6(0)), vlan(v6(4))],
}  # fmt: skip


@pytest.mark.parametrize("program", DIRECTION)
@pytest.mark.parametrize("name", PACKETS)
def test_fragments_of_a_packet_are_one_flow(kernel: Kernel, program: str, name: str) -> None:
    frames = PACKETS[name]
    for frame in frames:
        kernel.send(program, frame, TIMES)

    (entry,) = kernel.entries()
    direction = DIRECTION[program]
    assert entry.bytes[direction] == TIMES * sum(map(len, frames))
    here = (entry.flow.local_port, entry.flow.remote_port)
    assert here == ((40000, 443) if direction == FROM else (443, 40000))
    assert not entry.seen >> kernel.layout.seen_shift * direction & kernel.layout.seen_unparsed


# the first fragment, and one that belongs to another packet
STRANGERS = {
    "v4 another number":    [v4(0), v4(4, number=8)],
    "v4 another sender":    [v4(0), v4(4, ends=("10.99.0.9", B4))],
    "v4 another receiver":  [v4(0), v4(4, ends=(A4, "10.99.0.9"))],
    "v4 the other way":     [v4(0), v4(4, ends=(B4, A4))],
    "v4 another protocol":  [v4(0), v4(4, protocol=TCP)],
    "v4 no fragment":       [ipv4(UDP, ports()), v4(4, number=0)],
    "v4 ports cut off":     [v4(0, b"12"), v4(4)],
    "v6 another number":    [v6(0), v6(4, number=8)],
    "v6 another sender":    [v6(0), v6(4, ends=("2001:db8::9", B6))],
    "v6 another receiver":  [v6(0), v6(4, ends=(A6, "2001:db8::9"))],
    "v6 atomic fragment":   [v6(0, more=False), v6(4)],
    "v6 ports cut off":     [v6(0, b"12"), v6(4)],
}  # fmt: skip


@pytest.mark.parametrize("program", DIRECTION)
@pytest.mark.parametrize("name", STRANGERS)
def test_a_fragment_of_another_packet_has_no_ports(kernel: Kernel, program: str, name: str) -> None:
    first, other = STRANGERS[name]
    kernel.send(program, first)
    kernel.send(program, other)

    direction = DIRECTION[program]
    entries = [entry for entry in kernel.entries() if not entry.flow.local_port]
    unparsed = kernel.layout.seen_unparsed << kernel.layout.seen_shift * direction
    assert sum(entry.bytes[direction] for entry in entries) >= len(other)
    assert all(entry.seen & unparsed for entry in entries)
    assert kernel.account(direction, OTHER) == NOTHING


@pytest.mark.parametrize(("first", "later"), [(v4(0), v4(4)), (v6(0), v6(4))], ids=["v4", "v6"])
def test_directions_are_apart(kernel: Kernel, first: bytes, later: bytes) -> None:
    kernel.send("from_pod", first)
    kernel.send("to_pod", later)

    assert sorted(entry.flow.local_port for entry in kernel.entries()) == [0, 40000]


@pytest.mark.parametrize(("first", "later"), [(v4(0), v4(4)), (v6(0), v6(4))], ids=["v4", "v6"])
def test_one_that_overtakes_its_first_has_no_ports(
    kernel: Kernel, first: bytes, later: bytes
) -> None:
    for frame in (later, first, later):
        kernel.send("from_pod", frame)

    ports_of = {entry.flow.local_port: entry.packets[FROM] for entry in kernel.entries()}
    assert ports_of == {0: 1, 40000: 2}


@pytest.mark.parametrize("make", ["v4", "v6"])
def test_a_number_that_comes_again_is_the_new_packet(kernel: Kernel, make: str) -> None:
    build = v4 if make == "v4" else v6
    for frame in (build(0), build(4), build(0, ports(40001, 443, 28)), build(4)):
        kernel.send("from_pod", frame)

    ports_of = {entry.flow.local_port: entry.packets[FROM] for entry in kernel.entries()}
    assert ports_of == {40000: 2, 40001: 2}


@pytest.mark.parametrize("program", DIRECTION)
@pytest.mark.parametrize(
    ("frames", "flags"),
    [
        ([v4(0, SYN_HEAD, protocol=TCP), v4(1, SYN_TAIL, protocol=TCP, more=False)], SYN),
        ([v6(0, SYN_HEAD, protocol=TCP), v6(1, SYN_TAIL, protocol=TCP, more=False)], SYN),
        ([v4(0, of_tcp(ACK)[0], protocol=TCP), v4(1, of_tcp(ACK)[1], protocol=TCP)], ACK),
        ([v4(0, SYN_HEAD, protocol=TCP), v4(2, SYN_TAIL, protocol=TCP)], 0),
        ([v4(0, SYN_HEAD, protocol=TCP), v4(1, SYN_TAIL[:5], protocol=TCP)], 0),
        ([v4(1, SYN_TAIL, protocol=TCP)], 0),
        ([v4(0), v4(1, SYN_TAIL)], 0),
        (
            [
                v6(0, hidden(tcp(), TCP), protocol=DESTINATION),
                v6(1, SYN_TAIL, protocol=DESTINATION),
            ],
            0,
        ),
    ],
    ids=["v4", "v6", "v4 ack", "too far", "too short", "no first", "udp", "options inside"],
)
def test_a_syn_in_two_fragments(
    kernel: Kernel, program: str, frames: list[bytes], flags: int
) -> None:
    """RFC 1858: the smallest first fragment holds the ports, and the flags are in the second."""
    for frame in frames:
        kernel.send(program, frame)

    shift = kernel.layout.seen_shift * DIRECTION[program]
    seen = [entry.seen >> shift for entry in kernel.entries()]
    (noted,) = {each & (SYN | kernel.layout.seen_syn_only) for each in seen}
    assert noted == (SYN | kernel.layout.seen_syn_only if flags == SYN else 0)
    if flags:
        assert any(each & ACK for each in seen) == (flags == ACK)


@pytest.mark.parametrize("make", ["v4", "v6"])
def test_a_flood_of_fragments_costs_the_other_way_nothing(kernel: Kernel, make: str) -> None:
    build = v4 if make == "v4" else v6
    packets = [build(0, number=number) for number in range(8)]
    for frame in packets:
        kernel.send("to_pod", frame)
    for number in range(5000):
        kernel.send("from_pod", build(0, number=number))
    kernel.reset_table()
    for number in range(8):
        kernel.send("to_pod", build(4, number=number))
    joined = sum(entry.packets[TO] for entry in kernel.entries() if entry.flow.local_port)
    assert joined >= 6  # of eight in 64 places, few may have met


def test_fragments_without_ports_are_parsed(kernel: Kernel) -> None:
    for protocol, build in ((ICMP, v4), (ICMPV6, v6)):
        kernel.send("from_pod", build(0, bytes([8, *bytes(31)]), protocol=protocol))
        kernel.send("from_pod", build(4, protocol=protocol))

    entries = kernel.entries()
    assert [entry.packets[FROM] for entry in entries] == [2, 2]
    assert not any(entry.seen & kernel.layout.seen_unparsed for entry in entries)
