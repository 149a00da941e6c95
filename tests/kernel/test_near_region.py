# SPDX-License-Identifier: Apache-2.0
"""The near region of the flow table: flows lie in it, go behind it if it is full, and keep one slot."""

from collections.abc import Callable

import numpy as np
import pytest

from podtally.kernel.near_region import RECENT_EPOCHS
from podtally.kernel.pins import Options
from podtally.kernel.table import Table, open_table
from tests.kernel.conftest import Load
from tests.kernel.driver import FROM, NOTHING, OVERFLOW, TO, Kernel
from tests.kernel.packets import TCP, UDP, ipv4, ipv6, ports, reversed_ends, tcp

SLOTS, SHIFT = 4096, 2
REGION = SLOTS >> SHIFT
TIMES = 23


@pytest.fixture
def table(load: Load) -> Kernel:
    """A table whose region is a quarter of it."""
    kernel = load(Options(slots=SLOTS, books=64))
    kernel.reset()
    set_shift(kernel, SHIFT)
    return kernel


def set_shift(kernel: Kernel, shift: int) -> None:
    kernel.control["near_shift"] = shift


def send(kernel: Kernel, flows: int, times: int = 1, first: int = 1) -> None:
    for port in range(first, first + flows):
        kernel.send("from_pod", ipv4(UDP, ports(port, 53)), times)


def places(kernel: Kernel, half: int = 0) -> list[int]:
    """Where the rows of a half lie in it."""
    found = [rows.place for rows in kernel.table.read(half)]
    return (np.concatenate(found) - half * SLOTS).tolist() if found else []


def flip(table: Table) -> int:
    rest = table.epoch & 1
    table.flip()
    table.fence()
    return rest


@pytest.mark.parametrize("family", [ipv4, ipv6])
def test_flows_lie_in_the_region(table: Kernel, family: Callable[..., bytes]) -> None:
    for port in range(1, 201):
        table.send("from_pod", frame := family(UDP, ports(port, 53)))
        table.send("to_pod", reversed_ends(frame))

    found = places(table, table.table.epoch & 1)
    assert len(found) == 200
    assert max(found) < REGION
    assert {entry.packets for entry in table.entries()} == {(1, 1)}


def test_what_the_region_has_no_room_for_lies_behind_it(table: Kernel) -> None:
    """And its packets find it there, from both directions, off the common path, too."""
    flows = REGION + 300
    send(table, flows, 2)
    for port in range(1, flows + 1):
        table.send("to_pod", reversed_ends(ipv4(UDP, ports(port, 53))))
        table.send("from_pod", ipv4(UDP, ports(port, 53), options=b"\x01\x01\x01\x00"))

    found = places(table, table.table.epoch & 1)
    assert len(found) == len(set(found)) == flows
    assert sum(place >= REGION for place in found) >= 300
    assert {entry.packets for entry in table.entries()} == {(3, 1)}
    assert table.account(FROM, OVERFLOW) == table.account(TO, OVERFLOW) == NOTHING


def test_flags_of_a_connection_behind_the_region_are_noted(table: Kernel) -> None:
    send(table, REGION + 300)
    for flags in (2, 16, 24, 17):
        table.send("from_pod", ipv4(TCP, tcp(7, 443, flags)))

    (entry,) = [each for each in table.entries() if each.flow.protocol == TCP]
    assert entry.packets == (4, 0)
    assert entry.seen & 0xFF == 2 | 16 | 24 | 17


def test_a_region_that_is_full_costs_nobody_a_slot(table: Kernel) -> None:
    """Blocks behind the region have room whatever lies in it: up to 5/8 of all slots are used."""
    send(table, SLOTS // 2)

    assert len(places(table, table.table.epoch & 1)) == SLOTS // 2
    assert table.account(FROM, OVERFLOW) == NOTHING


def test_it_follows_the_flows_of_the_epochs(table: Kernel) -> None:
    set_shift(table, 0)
    epochs = open_table(table.generation)
    counted, sent = 0, 0

    def run(flows: int) -> list[int]:
        nonlocal counted, sent
        send(table, flows, TIMES)
        sent += flows * TIMES
        rest = flip(epochs)
        counted += sum(int(rows.packets.sum()) for rows in epochs.read(rest))
        epochs.clear(rest)
        return [int(shift) for shift in table.control["near_shift"][0]]

    for _ in range(RECENT_EPOCHS - 1):
        assert run(20) == [0, 0]
    run(20)
    assert run(20) == [SHIFT, SHIFT]
    run(1500)  # the other half is sized by the next epoch's end
    assert run(20) == [0, 0]
    assert counted == sent
    assert table.account(FROM, OVERFLOW) == NOTHING
    epochs.close()


def test_an_agent_killed_before_the_flip_leaves_what_the_next_one_reads(table: Kernel) -> None:
    """Set for the half at rest, it is of no consequence to the active one."""
    send(table, 200)
    rest = 1 - (table.table.epoch & 1)
    table.control["near_shift"][0, rest] = 1
    after = open_table(table.generation)
    send(table, 300)

    packets = sorted(int(n) for rows in after.read(1 - rest) for n in rows.packets[:, FROM])
    assert packets == [1] * 100 + [2] * 200
    flip(after)
    send(table, 300)
    assert max(places(table, rest)) >= REGION
    after.close()
