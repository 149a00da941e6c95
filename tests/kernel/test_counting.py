# SPDX-License-Identifier: Apache-2.0
"""bpf/podtally.c, what is counted: which packets make one flow, how much, and what does not fit."""

import threading
import time
from itertools import combinations

import numpy as np
import pytest

from podtally.kernel.account_map import UNATTRIBUTED
from podtally.kernel.pins import PROGRAMS
from tests.kernel.driver import (
    FROM,
    LOOPBACK,
    NOTHING,
    OTHER,
    OVERFLOW,
    TO,
    Account,
    Kernel,
    shared,
)
from tests.kernel.packets import (
    A4,
    A6,
    ACK,
    B4,
    B6,
    ETHERNET,
    FIN,
    IPV4,
    IPV6,
    PSH,
    SYN,
    TCP,
    TYPE_ARP,
    UDP,
    context,
    ether,
    ipv4,
    ipv6,
    ports,
    reversed_ends,
    tcp,
)

TIMES = 23  # a prime: a count that is off by a factor cannot hit it
PORTS = 4  # bytes of both

TCP4, TCP6 = ipv4(TCP, tcp()), ipv6(TCP, tcp())
UDP4, UDP6 = ipv4(UDP, ports(5353, 53)), ipv6(UDP, ports(5353, 53))
ARP = ether(TYPE_ARP, bytes(28))


@pytest.mark.parametrize("frame", [TCP4, TCP6, UDP4, UDP6], ids=["tcp4", "tcp6", "udp4", "udp6"])
@pytest.mark.parametrize("first", [FROM, TO])
def test_both_directions_are_one_row(kernel: Kernel, frame: bytes, first: int) -> None:
    answer = reversed_ends(frame) + bytes(100)
    steps = [("from_pod", frame, TIMES), ("to_pod", answer, 2 * TIMES)]
    for program, packet, times in steps if first == FROM else reversed(steps):
        kernel.send(program, packet, times)

    (entry,) = kernel.entries()
    assert entry.flow[1:4:2] in ((A4, B4), (A6, B6))
    assert entry.bytes == (TIMES * len(frame), 2 * TIMES * len(answer))
    assert entry.packets == (TIMES, 2 * TIMES)
    assert entry.first_direction == first


def flipped(frame: bytes, byte: int, bit: int) -> bytes:
    return frame[:byte] + bytes([frame[byte] ^ 1 << bit]) + frame[byte + 1 :]


SOURCE4, DESTINATION4, PORTS4 = ETHERNET + 12, ETHERNET + 16, ETHERNET + IPV4
SOURCE6, DESTINATION6, PORTS6 = ETHERNET + 8, ETHERNET + 24, ETHERNET + IPV6
KEY4 = [*range(SOURCE4, PORTS4 + PORTS)]
KEY6 = [*range(SOURCE6, PORTS6 + PORTS)]


@pytest.mark.parametrize(("frame", "key"), [(UDP4, KEY4), (UDP6, KEY6)], ids=["v4", "v6"])
def test_flows_one_or_two_bits_apart_stay_apart(
    kernel: Kernel, frame: bytes, key: list[int]
) -> None:
    """Their fingerprints must differ: the top bits of two words once cancelled each other."""
    bits = [(byte, bit) for byte in key for bit in (0, 6, 7)]
    frames = {flipped(frame, *bit) for bit in bits}
    frames |= {flipped(flipped(frame, *a), *b) for a, b in combinations(bits, 2)}
    for changed in frames:
        kernel.send("from_pod", changed)

    assert len(kernel.entries()) == len(frames) == len(bits) * (len(bits) + 1) // 2


@pytest.mark.parametrize(
    ("frame", "address", "port"),
    [(UDP4, DESTINATION4 + 3, PORTS4 + 3), (UDP6, DESTINATION6 + 15, PORTS6 + 3)],
    ids=["v4", "v6"],
)
def test_neighbours_stay_apart(kernel: Kernel, frame: bytes, address: int, port: int) -> None:
    """Every last byte of an address with every low byte of a port."""
    packet = bytearray(frame)
    for packet[address] in range(256):
        for packet[port] in range(0, 256, 3):
            kernel.send("from_pod", bytes(packet))

    assert len(kernel.entries()) == 256 * 86
    assert kernel.account(FROM, OVERFLOW) == NOTHING


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_protocol_is_part_of_the_key(kernel: Kernel, program: str) -> None:
    protocols = [protocol for protocol in range(256) if protocol != TCP]
    for protocol in protocols:
        kernel.send(program, ipv4(protocol, bytes(8)))

    assert sorted(entry.flow.protocol for entry in kernel.entries()) == protocols


def test_first_seen_is_now(kernel: Kernel) -> None:
    tick_ns = 10_000_000  # the coarse clock is as old as the last tick, 100 a second at least
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)

    kernel.send("from_pod", TCP4)

    (entry,) = kernel.entries()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    assert before - tick_ns <= entry.first_seen_ns <= after


@pytest.mark.parametrize(
    ("sent", "answered", "own_facts", "peer_facts"),
    [
        ([SYN], [], "syn_only", ""),
        ([SYN, ACK, PSH | ACK, FIN | ACK], [SYN | ACK, ACK], "syn_only", "syn_ack"),
        ([SYN | ACK, ACK], [SYN, ACK], "syn_ack", "syn_only"),
        ([ACK, PSH | ACK], [ACK], "", ""),
        ([SYN | ACK, SYN], [], "syn_only syn_ack", ""),
        ([ACK, SYN, SYN | ACK], [], "syn_only syn_ack", ""),
        ([SYN | PSH | ACK, SYN | PSH], [SYN | ACK, SYN], "syn_only syn_ack", "syn_only syn_ack"),
    ],
    ids=[
        "unanswered",
        "we began",
        "they began",
        "begun before",
        "syn/ack, then syn",
        "ack, syn, syn/ack",
        "both, both ways",
    ],
)
def test_tcp_flags(
    kernel: Kernel, sent: list[int], answered: list[int], own_facts: str, peer_facts: str
) -> None:
    layout = kernel.layout
    bits = {"syn_only": layout.seen_syn_only, "syn_ack": layout.seen_syn_ack}
    for flags in sent:
        kernel.send("from_pod", ipv4(TCP, tcp(flags=flags)), TIMES)
    for flags in answered:
        kernel.send("to_pod", reversed_ends(ipv4(TCP, tcp(flags=flags))), TIMES)

    (entry,) = kernel.entries()
    own = int(np.bitwise_or.reduce([0, *sent, *(bits[name] for name in own_facts.split())]))
    peers = int(np.bitwise_or.reduce([0, *answered, *(bits[name] for name in peer_facts.split())]))
    assert entry.seen == own | peers << layout.seen_shift


@pytest.mark.parametrize("program", PROGRAMS)
def test_only_an_uplink_asks_for_sockets(kernel: Kernel, program: str) -> None:
    """A test run's packet has a socket, made by who asks for the run."""
    kernel.send(program, UDP4, TIMES)

    (entry,) = kernel.entries()
    (place,) = np.flatnonzero(kernel.hot["fingerprint"])
    (row,) = kernel.table.cold(np.array([place]))
    sent = program == "from_host"
    assert entry.seen == (kernel.layout.seen_socket if sent else 0)
    assert bool(row["cgroup_low"]) == sent
    assert row["cgroup_high"] == 0


def test_the_cgroup_of_the_last_epoch_is_forgotten(kernel: Kernel) -> None:
    """As the carries are: whoever claims the slot writes all of the row."""
    for program in ("from_host", "to_host"):
        kernel.send(program, UDP4 if program == "from_host" else reversed_ends(UDP4))
        (place,) = np.flatnonzero(kernel.hot["fingerprint"])
        (row,) = kernel.table.cold(np.array([place]))
        assert bool(row["cgroup_low"]) == (program == "from_host")
        kernel.reset()


@pytest.mark.parametrize("field", ["cgroup_high", "cgroup_low", "carries"])
def test_claiming_a_slot_writes_all_of_its_row(kernel: Kernel, field: str) -> None:
    cold = shared(kernel.generation, "cold").view(kernel.layout.cold)
    kernel.send("from_pod", UDP4)
    (place,) = np.flatnonzero(kernel.hot["fingerprint"])
    cold[field][place] = 0xFFFF
    kernel.reset()

    kernel.send("from_pod", UDP4)

    assert cold[field][place] == 0


@pytest.mark.parametrize("options", [b"", bytes(8)], ids=["bare", "options"])
def test_flags_are_read_where_they_are(kernel: Kernel, options: bytes) -> None:
    kernel.send("from_pod", ipv4(TCP, tcp(flags=SYN), options=options))
    assert kernel.entries()[0].seen == SYN | kernel.layout.seen_syn_only


def test_wire_packets_of_a_gso_frame(kernel: Kernel) -> None:
    segments = context(gso_segs=7)
    kernel.send("from_pod", TCP4, TIMES, segments)
    kernel.send("from_pod", ARP, TIMES, segments)

    (entry,) = kernel.entries()
    assert entry.packets == (7 * TIMES, 0)
    assert entry.bytes == (TIMES * len(TCP4), 0)
    assert kernel.account(FROM, OTHER) == Account(TIMES * len(ARP), 7 * TIMES)


@pytest.mark.parametrize("direction", [FROM, TO])
def test_carries(kernel: Kernel, direction: int) -> None:
    """Both counts are moved to just below their carry again and again; the sums stay exact."""
    layout = kernel.layout
    program, frame = PROGRAMS[direction], TCP4
    kernel.send(program, frame)
    (place,) = np.flatnonzero(kernel.hot["fingerprint"])
    word = kernel.hot["traffic"][place : place + 1, direction]
    byte_mask = (1 << layout.packet_shift) - 1
    packet_limit = 1 << layout.packet_carry_bit - layout.packet_shift
    total_bytes, total_packets = len(frame), 1
    for _ in range(5):
        more_bytes = (1 << layout.byte_carry_bit) - 5 * len(frame) - (int(word[0]) & byte_mask)
        more_packets = packet_limit - 11 - (int(word[0]) >> layout.packet_shift)
        word += np.uint64(more_packets << layout.packet_shift | more_bytes)
        kernel.send(program, frame, TIMES)
        total_bytes += more_bytes + TIMES * len(frame)
        total_packets += more_packets + TIMES

    (entry,) = kernel.entries()
    assert (entry.bytes[direction], entry.packets[direction]) == (total_bytes, total_packets)
    assert (entry.bytes[1 - direction], entry.packets[1 - direction]) == (0, 0)
    assert total_bytes > 5 * 2**39 - 10_000
    assert entry.seen >> layout.seen_carried_bit == 1


def test_a_carry_under_two_senders(kernel: Kernel) -> None:
    layout, times, frame = kernel.layout, 100_000, UDP4
    kernel.send("from_pod", frame)
    (place,) = np.flatnonzero(kernel.hot["fingerprint"])
    poked = (1 << layout.byte_carry_bit) - times * len(frame)
    kernel.hot["traffic"][place, FROM] += np.uint64(poked)

    senders = [
        threading.Thread(target=kernel.send, args=("from_pod", frame, times)) for _ in range(2)
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()

    (entry,) = kernel.entries()
    assert entry.packets == (2 * times + 1, 0)
    assert entry.bytes == (poked + (2 * times + 1) * len(frame), 0)


def test_a_full_table(small: Kernel) -> None:
    flows = range(1, 1000)
    for port in flows:
        small.send("from_pod", ipv4(UDP, ports(port, 53)), TIMES)
        small.send("to_pod", ipv4(UDP, ports(53, port)), 1, context(gso_segs=7))

    entries = small.entries()
    size = len(UDP4)
    for direction, times, segments in ((FROM, TIMES, 1), (TO, 1, 7)):
        rows = [entry for entry in entries if entry.packets[direction]]
        missed = len(flows) - len(rows)
        assert all(entry.packets[direction] == times * segments for entry in rows)
        assert all(entry.bytes[direction] == times * size for entry in rows)
        assert small.account(direction, OVERFLOW) == Account(
            missed * times * size, missed * times * segments
        )
        assert small.account(direction, OTHER) == NOTHING
    assert 128 // 2 <= len(entries) <= 128 * 5 // 8


def test_an_interface_without_accounts_is_booked_under_0(kernel: Kernel) -> None:
    kernel.books.close_accounts(LOOPBACK)
    kernel.send("from_pod", ARP, TIMES)  # booked nowhere: no account is open
    kernel.books.open_accounts(UNATTRIBUTED)
    kernel.send("to_pod", ARP, TIMES)

    assert kernel.account(FROM, OTHER, UNATTRIBUTED) == NOTHING
    assert kernel.account(TO, OTHER, UNATTRIBUTED) == Account(TIMES * len(ARP), TIMES)
    assert kernel.account(TO, OTHER, LOOPBACK) == NOTHING


def test_the_key_carries_the_interface(kernel: Kernel) -> None:
    kernel.send("from_pod", TCP4, context=context(ifindex=LOOPBACK))
    assert [entry.ifindex for entry in kernel.entries()] == [LOOPBACK]
