# SPDX-License-Identifier: Apache-2.0
"""What the kernel would write into the maps, and beside it a model that only adds up what was sent."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from podtally.kernel import abi
from podtally.kernel.account_map import AccountReading as KernelAccounts
from podtally.kernel.table import Arrays
from podtally.ledger.connections.connections import (
    CONTESTED,
    INITIATOR_ENDPOINT,
    INITIATOR_MASK,
    INITIATOR_PEER,
    INITIATOR_UNKNOWN,
)
from podtally.ledger.series.label_sets import DIRECTIONS, FlowLabels, protocol_name
from tests.unit.rows import (
    ACK,
    FLAGS,
    ICMP,
    SHOP,
    TCP,
    UDP,
    Flow,
    accounts_of,
    cold_row,
    from_here,
    to_here,
)

SLOTS = 8  # in each half: with the flows below, it overflows
PROBES = 3
OPENING = {7: (1009, 2003), 9: (3001, 0)}  # what had passed before anybody counted
INTERFACES = {7: "veth7", 9: "veth9"}

HEADER = abi.HEADER.read_text()
# Another generation's layout: wider rows, and the two counts cut apart elsewhere.
OTHER_LAYOUT = abi.parse(
    HEADER.replace("__u64 seen;", "__u64 spare;\n\t__u64 seen;")
    .replace("#define PACKET_SHIFT 40", "#define PACKET_SHIFT 38")
    .replace("#define BYTE_CARRY_BIT 39", "#define BYTE_CARRY_BIT 37")
    .replace("__u64 first_seen_ns;", "__u64 more[4];\n\t__u64 first_seen_ns;")
)

FLOWS = (
    Flow("203.0.113.5", TCP, 40123, 443, 7),
    Flow("2001:db8:23::5", TCP, 80, 51001, 7, local="2001:db8::7"),
    Flow("198.18.0.53", UDP, 40999, 53, 7),
    Flow("10.99.0.9", TCP, 40125, 3306, 7),
    Flow("10.99.0.7", TCP, 3306, 40125, 9, local="10.99.0.9"),
    Flow("2001:db8::1", UDP, 5353, 5353, 9, local="2001:db8::9"),
    Flow("198.18.0.9", ICMP, 0, 0, 9, local="10.99.0.9"),
    Flow("203.0.113.9", TCP, 22, 60001, 9, local="10.99.0.9"),
    Flow("203.0.113.23", UDP, 40123, 443, 7),
    Flow("203.0.113.29", TCP, 40127, 8443, 7),
    Flow("198.18.0.31", 47, 0, 0, 9, local="10.99.0.9"),
)


class Packet(NamedTuple):
    flow: int
    direction: int
    bytes: int = 23
    packets: int = 1
    flags: int = ACK  # of TCP


class Kernel:
    """One generation's maps and programs: what lives on when the agent dies."""

    def __init__(self, number: int) -> None:
        layout = OTHER_LAYOUT if number % 2 == 0 else abi.current()
        self.number = number
        self.generation = f"generation {number}"
        self.layout = layout
        self.arrays = Arrays(
            np.zeros(1, layout.control),
            np.zeros(2 * SLOTS, layout.hot),
            np.zeros(2 * SLOTS, layout.cold),
            np.zeros(2 * SLOTS, np.uint64),
        )
        self.accounts = {(i, d): (0, 0, 0, 0) for i in INTERFACES for d in (0, 1)}

    @property
    def epoch(self) -> int:
        return int(self.arrays.control["epoch"][0])

    def read(self) -> KernelAccounts:
        return accounts_of(self.accounts)

    def count(self, packet: Packet, epoch: int) -> bool:
        """Do what bpf/podtally.c does; False if the packet went to overflow."""
        flow = FLOWS[packet.flow]
        slot = self._slot(flow, epoch & 1, packet.direction)
        if slot is None:
            self.book(flow.ifindex, packet.direction, (0, packet.bytes, 0, packet.packets))
            return False
        hot, cold = self.arrays.hot, self.arrays.cold
        layout, direction = self.layout, packet.direction
        traffic = int(hot["traffic"][slot, direction])
        traffic += packet.packets << layout.packet_shift | packet.bytes
        carry = traffic & (1 << layout.byte_carry_bit | 1 << layout.packet_carry_bit)
        hot["traffic"][slot, direction] = traffic ^ carry
        if carry:
            carries = (carry >> layout.byte_carry_bit & 1) << direction * 16
            carries |= (carry >> layout.packet_carry_bit) << (2 + direction) * 16
            cold["carries"][slot] += np.uint64(carries)
            hot["seen"][slot] |= np.uint64(1 << layout.seen_carried_bit)
        hot["seen"][slot] |= np.uint64(seen_of(packet))
        return True

    def book(self, ifindex: int, direction: int, amounts: tuple[int, int, int, int]) -> None:
        before = self.accounts[ifindex, direction]
        after = tuple(a + b for a, b in zip(before, amounts, strict=True))
        self.accounts[ifindex, direction] = (after[0], after[1], after[2], after[3])

    def _slot(self, flow: Flow, half: int, direction: int) -> int | None:
        fingerprints = self.arrays.hot["fingerprint"]
        for probe in range(PROBES):
            slot = half * SLOTS + (flow.fingerprint + probe) % SLOTS
            if fingerprints[slot] == flow.fingerprint:
                return slot
            if fingerprints[slot] == 0:
                fingerprints[slot] = flow.fingerprint
                row = flow._replace(first_direction=direction)
                self.arrays.cold[slot] = cold_row(row, self.layout.cold)[0]
                used = self.arrays.control["used"]
                self.arrays.used[half * SLOTS + int(used[0, half])] = slot
                used[0, half] += 1
                return slot
        return None


def seen_of(packet: Packet) -> int:
    if FLOWS[packet.flow].protocol != TCP:
        return 0
    return (from_here, to_here)[packet.direction](packet.flags)


class Model:
    """What was sent; who opened what follows from all rows of it up to an epoch's."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[int, _Row]] = {}  # by epoch and flow
        self.seen: dict[int, int] = {}
        self.initiator: dict[int, int] = {}
        self.first_initiator: dict[int, int] = {}
        self._flows: Counter[tuple[FlowLabels, int]] = Counter()  # and place among the sums
        self.account: Counter[tuple[int, int, str]] = Counter()  # ifindex, direction, account
        self.packets: Counter[tuple[int, int]] = Counter()

    def sent(self, packet: Packet, epoch: int, in_row: bool) -> None:
        flow, direction = FLOWS[packet.flow], packet.direction
        account = "flows" if in_row else "overflow"
        self.account[flow.ifindex, direction, account] += packet.bytes
        self.packets[flow.ifindex, direction] += packet.packets
        if in_row:
            row = self.rows.setdefault(epoch, {}).setdefault(packet.flow, _Row(direction))
            row.seen |= seen_of(packet)
            row.sums[direction, 0] += packet.bytes
            row.sums[direction, 1] += packet.packets

    def seal(self, before_epoch: int) -> None:
        """The rows of earlier epochs can change no more."""
        for epoch in sorted(epoch for epoch in self.rows if epoch < before_epoch):
            for flow, row in self.rows.pop(epoch).items():
                self._seal(flow, row)

    def _seal(self, flow: int, row: "_Row") -> None:
        before = self.initiator.get(flow, INITIATOR_UNKNOWN)
        seen = self.seen[flow] = self.seen.get(flow, 0) | row.seen
        initiator = _initiator(FLOWS[flow], seen, row.first_direction)
        if initiator == CONTESTED:  # the side that earlier epochs showed stays the likelier one
            initiator |= before
        if FLOWS[flow].protocol != TCP and flow in self.initiator:
            initiator = before
        self.initiator[flow] = initiator
        self.first_initiator.setdefault(flow, initiator)
        for direction in (0, 1):
            labels = labels_of(FLOWS[flow], direction, initiator)
            for unit in (0, 1):
                self._flows[labels, unit] += row.sums[direction, unit]
            opened = initiator & INITIATOR_MASK == (INITIATOR_ENDPOINT, INITIATOR_PEER)[direction]
            self._flows[labels, 2] += opened and before & INITIATOR_MASK == INITIATOR_UNKNOWN

    def flows(self) -> dict[FlowLabels, tuple[int, int, int]]:
        """Bytes, packets and connections, as /metrics has to show them."""
        sums = self._flows
        return {labels: (sums[labels, 0], sums[labels, 1], sums[labels, 2]) for labels, _ in sums}

    def counter(self, ifindex: int) -> tuple[int, int]:
        """What the interface's own counters show."""
        passed = [
            sum(n for (i, d, _), n in self.account.items() if (i, d) == (ifindex, direction))
            for direction in (0, 1)
        ]
        return OPENING[ifindex][0] + passed[0], OPENING[ifindex][1] + passed[1]


class _Row:
    def __init__(self, first_direction: int) -> None:
        self.first_direction = first_direction
        self.seen = 0
        self.sums: Counter[tuple[int, int]] = Counter()  # by direction and unit


def _initiator(flow: Flow, seen: int, first_direction: int) -> int:
    if flow.protocol != TCP:
        return (INITIATOR_ENDPOINT, INITIATOR_PEER)[first_direction]
    here = bool(seen & FLAGS.syn_only)
    there = bool(seen & FLAGS.syn_only << FLAGS.shift)
    if here and there:
        return CONTESTED
    return INITIATOR_ENDPOINT if here else INITIATOR_PEER if there else INITIATOR_UNKNOWN


def labels_of(flow: Flow, direction: int, initiator: int) -> FlowLabels:
    side = initiator & INITIATOR_MASK
    port = {INITIATOR_ENDPOINT: str(flow.remote_port), INITIATOR_PEER: str(flow.local_port)}.get(
        side, "unknown"
    )
    pod = SHOP[flow.ifindex]
    peer, scope = {"203": ("office", "internet"), "10.": ("", "private")}.get(
        flow.remote[:3], ("", "internet")
    )
    if flow.remote.startswith("2001:db8:23:"):
        peer = "lab"
    return FlowLabels(
        pod.namespace,
        pod.workload,
        pod.workload_kind,
        DIRECTIONS[direction],
        "external",
        "",
        peer,
        scope,
        protocol_name(flow.protocol),
        port,
        "undeclared",  # whoever opened it
    )
