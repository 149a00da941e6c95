# SPDX-License-Identifier: Apache-2.0
"""Exactly once: an agent that is killed at every step books everything, and nothing twice."""

import tempfile
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from podtally.ledger.checkpoint.checkpoint import CheckpointError, Position
from podtally.ledger.metrics import families
from podtally.runtime.extras import Extras
from podtally.runtime.journal import Journal, UnwritableError
from tests.unit.rows import ACK, SYN
from tests.unit.runtime.machine import BOOT, STEPS, Crash, Machine
from tests.unit.runtime.model import FLOWS, Kernel, Packet

# What a packet amounts to; the large ones make the counts in a row carry.
AMOUNTS = ((23, 1), (1541, 1), (65_003, 43), (3 << 35, 3 << 21))

Move = tuple[Any, ...]  # what is done, and with what

packets = st.builds(
    lambda flow, direction, amounts, flags: Packet(flow, direction, amounts[0], amounts[1], flags),
    st.integers(0, len(FLOWS) - 1),
    st.integers(0, 1),
    st.sampled_from(AMOUNTS),
    st.sampled_from((SYN, ACK)),
)
crashes = st.tuples(st.sampled_from((*STEPS, "before promote")), st.integers(0, 2))
moves = st.one_of(
    st.tuples(st.just("send"), packets),
    st.tuples(st.just("send"), packets),
    st.tuples(st.just("late"), packets),
    st.tuples(st.just("other"), st.sampled_from((7, 9)), st.integers(0, 1)),
    st.tuples(st.just("turn")),
    st.tuples(st.just("kill"), crashes),
    st.tuples(st.just("full"), st.integers(1, 3), st.booleans()),
    st.tuples(st.just("upgrade")),
)


def start(machine: Machine) -> None:
    """Start again until it comes up: it may be killed, or find the disk full, at that."""
    for _ in range(9):
        try:
            return machine.start()
        except (Crash, OSError, UnwritableError):
            pass
    raise AssertionError("it does not come up")


def play(machine: Machine, move: Move) -> None:
    match move:
        case "send", packet:
            machine.send(packet)
        case "late", packet:
            machine.send_late(packet)
        case "other", ifindex, direction:
            machine.send_other(ifindex, direction, 61)
        case ("turn",):
            turn(machine)
        case "kill", (step, passes):
            machine.steps.crash_at(step, passes)
            turn(machine)
            start(machine)
        case "full", times, killed:
            machine.steps.full_for = times
            turn(machine)
            if killed:
                start(machine)
        case ("upgrade",):
            machine.upgrade()
            start(machine)


def turn(machine: Machine) -> None:
    """What the agent's loop does."""
    try:
        machine.turn()
    except UnwritableError:
        assert machine.journal.is_blocked
    except Crash:
        start(machine)


def finish(machine: Machine) -> None:
    machine.steps.crash_at("")
    machine.steps.full_for = 0
    machine.steps.meanwhile = lambda: None
    if machine.journal.is_blocked:
        machine.turn()
    machine.turn()
    machine.turn()
    machine.check()


@pytest.mark.slow  # Hypothesis over whole lives of an agent: 10 s of CPU
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(moves, max_size=40), st.lists(packets, max_size=5))
@example([("send", Packet(0, 0)), ("kill", ("amid clear", 0))], [Packet(1, 1, flags=SYN)])
@example([("send", Packet(0, 0, flags=SYN)), ("turn",), ("send", Packet(0, 1, flags=SYN))], [])
@example([("send", Packet(0, 0, flags=SYN)), ("send", Packet(0, 1, flags=SYN))], [])
def test_every_packet_is_booked_once(played: list[Move], busy: list[Packet]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        machine = Machine(Path(directory))
        if busy:  # traffic between any two steps
            again = cycle(busy)
            machine.steps.meanwhile = lambda: machine.send(next(again))
        for move in played:
            play(machine, move)
        finish(machine)


def send_some(machine: Machine, count: int = 23) -> None:
    for i in range(count):
        flags = SYN if i < len(FLOWS) else ACK
        machine.send(Packet(i % len(FLOWS), i % 2, *AMOUNTS[i % 4], flags))
    machine.send_other(7, i % 2, 61)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_a_crash(machine: Machine) -> None:
    for _ in range(5):
        send_some(machine)
        machine.turn()
    finish(machine)


@pytest.mark.parametrize("again", STEPS[2:])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step_and_again_while_starting(machine: Machine, step: str, again: str) -> None:
    send_some(machine)
    machine.turn()
    send_some(machine, 29)
    machine.send_late(Packet(3, 0))
    machine.steps.crash_at(step)
    with pytest.raises(Crash, match=step):
        machine.turn()
    send_some(machine, 31)  # no agent runs, and the kernel counts
    machine.steps.crash_at(again)
    start(machine)
    finish(machine)


@pytest.mark.parametrize("passes", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("step", [*STEPS, "before promote"])
@pytest.mark.parametrize("killed_at", STEPS)
def test_killed_while_the_programs_are_replaced(
    machine: Machine, killed_at: str, step: str, passes: int
) -> None:
    send_some(machine)
    machine.turn()
    send_some(machine, 29)
    machine.steps.crash_at(killed_at)
    with pytest.raises(Crash):
        machine.turn()
    send_some(machine, 31)
    machine.send_late(Packet(3, 0))
    machine.upgrade()
    send_some(machine, 37)
    machine.steps.crash_at(step, passes)
    start(machine)
    send_some(machine, 41)
    finish(machine)


def test_what_comes_between_two_readings_is_no_gap(machine: Machine) -> None:
    """Accounts that were read after the counters could hold more than those."""
    machine.steps.meanwhile = lambda: machine.send_other(7, 0, 61)
    for _ in range(5):
        send_some(machine, 5)
        machine.turn()
    finish(machine)


def test_the_initiator_is_carried_from_epoch_to_epoch_and_over_a_crash(machine: Machine) -> None:
    machine.send(Packet(0, 0, flags=SYN))
    machine.turn()
    machine.steps.crash_at("after flip")
    machine.send(Packet(0, 1, flags=ACK))
    with pytest.raises(Crash):
        machine.turn()
    start(machine)
    machine.send(Packet(0, 0, flags=ACK))
    finish(machine)
    view = machine.ledger.view()
    assert {labels.port for labels in view[families.FLOWS].labels} == {"443"}
    assert view[families.FLOWS].values.tolist() == [[46, 2, 1], [23, 1, 0]]


def test_sums_that_were_carried_out_of_a_row_are_exact(machine: Machine) -> None:
    for _ in range(23):
        machine.send(Packet(0, 0, 3 << 36, 3 << 21, SYN))
        machine.send(Packet(0, 1, (1 << 37) - 1, (1 << 22) - 1, ACK))
    finish(machine)
    assert sorted(machine.ledger.view()[families.FLOWS].values[:, 0].tolist()) == [
        23 * ((1 << 37) - 1),
        23 * (3 << 36),
    ]


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("failures", [1, 5])
def test_a_full_disk_loses_nothing(machine: Machine, failures: int, killed: bool) -> None:
    send_some(machine)
    machine.turn()
    send_some(machine, 29)
    machine.steps.full_for = failures
    with pytest.raises(UnwritableError, match="No space"):
        machine.turn()
    for _ in range(failures - 1):
        assert machine.journal.is_blocked
        send_some(machine, 7)  # all of it goes to the active half, which is not flipped
        with pytest.raises(UnwritableError, match="No space"):
            machine.turn()
    assert machine.journal.is_blocked
    if killed:
        machine.start()
    else:
        turned = machine.turn()
        assert turned.flows
        assert turned.checkpoint_bytes
    assert not machine.journal.is_blocked
    finish(machine)


def test_a_full_disk_while_starting(machine: Machine) -> None:
    send_some(machine)
    machine.steps.crash_at("before write")
    with pytest.raises(Crash):
        machine.turn()
    machine.steps.full_for = 1
    with pytest.raises(UnwritableError, match="No space"):
        machine.start()
    machine.start()
    finish(machine)


def test_a_checkpoint_that_is_lost_costs_what_it_held_and_not_what_the_kernel_holds(
    machine: Machine,
) -> None:
    machine.send(Packet(0, 0, 101, flags=SYN))
    machine.turn()
    machine.send(Packet(0, 0, 23))
    machine.steps.crash_at("before write")
    with pytest.raises(Crash):
        machine.turn()
    machine.checkpoint.path.write_bytes(b"podtally, or what is left of it")
    with pytest.raises(CheckpointError):
        machine.checkpoint.read()
    machine.checkpoint.put_aside()
    machine.forget()
    machine.start()
    machine.turn()
    assert machine.ledger.view()[families.FLOWS].values[:, 0].tolist() == [23, 0]


def test_rows_half_cleared_of_a_checkpoint_that_is_lost_begin_nothing(machine: Machine) -> None:
    for flow in range(3):
        machine.send(Packet(flow, 0, flags=SYN))
    machine.steps.crash_at("before the count")
    with pytest.raises(Crash):
        machine.turn()
    machine.checkpoint.path.unlink()
    machine.forget()
    machine.start()
    assert len(machine.ledger.connections) == 0
    assert machine.ledger.row_booking.unknown_initiators == 0


@pytest.mark.parametrize(
    ("what", "before", "booked"),
    [
        ("the same epoch", Position(BOOT, "generation 1", 1), 0),
        ("the epoch before", Position(BOOT, "generation 1", 0), 1),
        ("another boot", Position("another", "generation 1", 1), 1),
        ("another generation", Position(BOOT, "generation 5", 1), 1),
        ("no checkpoint", None, 1),
    ],
)
def test_only_what_the_checkpoint_names_is_taken_as_booked(
    machine: Machine, what: str, before: Position | None, booked: int
) -> None:
    machine.send(Packet(0, 0))
    machine.journal.table.flip()
    here = Position(BOOT, "generation 1", 0)
    at_rest = machine.journal.recover(before, here)
    assert (at_rest is not None) == booked, what
    if at_rest is not None:
        machine.journal.book(at_rest, machine.collect())
        assert machine.journal.commit(here, Extras()).flows == 1
    assert machine.journal.table.used(0) == 0
    read = machine.checkpoint.read()
    assert read is not None
    assert read[0].epoch == booked  # nothing is written where nothing was booked


def test_the_accounts_of_another_generation_are_booked_from_nothing(machine: Machine) -> None:
    """The pins were removed: what the new programs count has nothing to do with before."""
    machine.send_other(7, 0, 101)
    machine.turn()
    machine.kernel = Kernel(5)
    machine.send_other(7, 0, 211)
    start(machine)
    finish(machine)


def test_what_is_drained_is_marked_as_booked_by_the_next_checkpoint_only(
    machine: Machine,
) -> None:
    send_some(machine)
    machine.send_late(Packet(3, 0))
    journal: Journal = machine.journal
    journal.book(journal.flip(), machine.collect())
    machine.check()
    read = machine.checkpoint.read()
    assert read is not None
    assert read[0].epoch == 0
    start(machine)  # killed before that checkpoint: all of it is booked now
    finish(machine)
