# SPDX-License-Identifier: Apache-2.0
"""bpf/podtally.c, lanes: what one flood takes of the flow table, and what it leaves to others."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from podtally.kernel import bpf
from podtally.kernel.account_map import UNATTRIBUTED
from podtally.kernel.pins import Options
from tests.kernel.conftest import Load
from tests.kernel.driver import FROM, LOOPBACK, NOTHING, OVERFLOW, TO, Kernel
from tests.kernel.links_support import ifindex, own_netns, sh
from tests.kernel.packets import UDP, context, ipv4, ipv6, ports

SLOTS = 4096
FREE, LIMIT, LAST = SLOTS * 3 // 8, SLOTS * 5 // 8, SLOTS * 6 // 8
RESERVED = SLOTS // 512
FLOOD = SLOTS
VICTIMS = 63


@pytest.fixture(params=[0, 2], ids=["no region", "a region"])
def table(load: Load, request: pytest.FixtureRequest) -> Kernel:
    kernel = load(Options(slots=SLOTS, books=64))
    kernel.reset()
    kernel.control["near_shift"] = request.param
    return kernel


def send(kernel: Kernel, program: str, count: int, on: int = LOOPBACK, first: int = 1) -> None:
    """``count`` flows, a packet each."""
    where = context(ifindex=on)
    for number in range(first, first + count):
        kernel.send(program, ipv4(UDP, ports(number & 0xFFFF, 1000 + (number >> 16))), 1, where)


def rows(kernel: Kernel, direction: int, on: int = LOOPBACK) -> int:
    return sum(
        entry.first_direction == direction and entry.ifindex == on for entry in kernel.entries()
    )


@contextmanager
def interfaces(kernel: Kernel, count: int) -> Iterator[list[int]]:
    """Interfaces with accounts, in a namespace of their own."""
    with own_netns():
        for number in range(count):
            sh(f"ip link add v{number} type veth peer name p{number}")
            sh(f"ip link set v{number} up")
        indexes = [ifindex(f"v{number}") for number in range(count)]
        for each in indexes:
            kernel.books.open_accounts(each)
        try:
            yield indexes
        finally:
            for each in indexes:
                kernel.books.close_accounts(each)


@pytest.mark.parametrize("program", ["from_pod", "to_pod", "from_host", "to_host"])
def test_one_lane_gets_half_of_the_slots(table: Kernel, program: str) -> None:
    """Which is max_flows: a pod that is alone may use all that was promised."""
    direction = FROM if program.startswith("from") else TO
    send(table, program, FLOOD)

    assert rows(table, direction) == SLOTS // 2
    assert table.account(direction, OVERFLOW).packets == FLOOD - SLOTS // 2
    assert table.account(1 - direction, OVERFLOW) == NOTHING


@pytest.mark.parametrize(("flood", "victim"), [("from_pod", "to_pod"), ("to_pod", "from_pod")])
def test_a_flood_displaces_no_flow_of_another_lane(table: Kernel, flood: str, victim: str) -> None:
    send(table, flood, FLOOD)
    send(table, victim, VICTIMS, first=50_000)

    direction = FROM if victim == "from_pod" else TO
    assert rows(table, direction) == VICTIMS
    assert table.account(direction, OVERFLOW) == NOTHING


def test_floods_on_several_interfaces_leave_room(table: Kernel) -> None:
    with interfaces(table, 3) as (victim, *attackers):
        for attacker in attackers:
            send(table, "from_pod", FLOOD, attacker)
        send(table, "from_pod", VICTIMS, victim)

        found = [rows(table, FROM, each) for each in (victim, *attackers)]
        assert found[0] == VICTIMS
        assert found[1] > found[2] > 2 * VICTIMS
        assert sum(found) <= LIMIT


def test_however_many_floods_there_are_each_lane_has_slots_of_its_own(table: Kernel) -> None:
    with interfaces(table, 16) as (victim, *attackers):
        for attacker in attackers:
            send(table, "from_pod", FLOOD // 2 + 1, attacker)
        send(table, "from_pod", RESERVED, victim)

        assert rows(table, FROM, victim) == RESERVED
        assert len(table.entries()) <= LAST


def test_flows_that_have_a_slot_go_on(table: Kernel) -> None:
    send(table, "from_pod", 100)
    send(table, "from_pod", FLOOD, first=1000)
    overflow = table.account(FROM, OVERFLOW).packets
    send(table, "from_pod", 100)

    assert table.account(FROM, OVERFLOW).packets == overflow
    assert sum(entry.packets[FROM] == 2 for entry in table.entries()) == 100


def test_an_epoch_is_a_new_beginning(table: Kernel) -> None:
    for _ in range(3):
        send(table, "from_pod", FLOOD)
        assert rows(table, FROM) == SLOTS // 2
        rest = table.table.epoch & 1
        table.table.flip()
        table.table.fence()
        table.table.clear(rest)


def test_no_lane_is_checked_while_there_is_room(table: Kernel) -> None:
    send(table, "from_pod", FREE)

    assert rows(table, FROM) == FREE


def test_v6_has_the_same_lane(table: Kernel) -> None:
    send(table, "from_pod", FLOOD)
    overflow = table.account(FROM, OVERFLOW).packets
    for number in range(1, 100):
        table.send("from_pod", ipv6(UDP, ports(number, 53)))

    assert table.account(FROM, OVERFLOW).packets == overflow + 99


def test_unknown_interfaces_share_a_lane(table: Kernel) -> None:
    table.books.close_accounts(LOOPBACK)
    table.books.open_accounts(UNATTRIBUTED)
    send(table, "from_pod", FLOOD)

    assert rows(table, FROM) == SLOTS // 2


def test_lanes_come_and_go_with_accounts(table: Kernel) -> None:
    fd = table.generation.map_fd("lanes")
    with bpf.owned(fd):
        info = bpf.map_info(fd)
        assert info.max_entries == 64 // 2 * table.layout.lanes
    for _ in range(3):  # a lane that was left behind would keep the next from opening
        for each in range(1000, 1000 + 31):
            table.books.open_accounts(each)
        for each in range(1000, 1000 + 31):
            table.books.close_accounts(each)
