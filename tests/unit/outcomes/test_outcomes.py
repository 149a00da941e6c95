# SPDX-License-Identifier: Apache-2.0
"""outcomes/, ledger/outcomes/outcome_booking.py: each connection has one outcome, counted once."""

from collections.abc import Sequence

import numpy as np
import pytest

from podtally.ledger.connections.connections import Connections
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.ledger import Ledger
from podtally.ledger.metrics.families import FLOWS
from podtally.ledger.metrics.family import CONNECTIONS
from podtally.ledger.metrics.outcome_families import ENDINGS, OUTCOMES
from podtally.outcomes import decision
from podtally.outcomes.progress import (
    ANSWERED,
    COMPLETED,
    OPENED,
    PROGRESS,
    HandshakeRows,
    advance,
    may_change,
    seconds,
)
from tests.unit.rows import (
    ACK,
    FIN,
    FLAGS,
    LAYOUT,
    RST,
    SECOND,
    SYN,
    UDP,
    Flow,
    book,
    from_here,
    make_ledger,
    names,
    to_here,
)

BITS = FLAGS.handshake
ASKED = from_here(SYN)
ACCEPTED = ASKED | to_here(SYN | ACK)
OPEN = ACCEPTED | from_here(ACK)


def settle(ledger: Ledger, now_ns: int) -> None:
    ledger.settle(EpochContext(names(), now_ns), [])


def run(ledger: Ledger, rows: Sequence[Flow | None], until: int) -> None:
    """Book a row an epoch, one a second, then epochs without rows."""
    for number in range(until):
        now_ns = (number + 1) * SECOND
        row = rows[number] if number < len(rows) else None
        if row is not None:
            book(ledger, names(), [row], now_ns)
        settle(ledger, now_ns)


def outcomes(ledger: Ledger) -> dict[str, int]:
    labels, values = ledger.view()[OUTCOMES]
    return {each.outcome: int(n) for each, (n,) in zip(labels, values.tolist(), strict=True)}


def opened(ledger: Ledger) -> int:
    return int(ledger.view()[FLOWS].values[:, CONNECTIONS].sum())


TCP_CASES: dict[str, tuple[list[int | None], int, str]] = {
    "at once": ([OPEN], 1, "established"),
    "over three epochs": ([ASKED, to_here(SYN | ACK), from_here(ACK)], 4, "established"),
    "the answer was not seen": ([ASKED, from_here(ACK)], 3, "established"),
    "its beginning was not seen": ([from_here(ACK) | to_here(ACK)], 1, ""),
    "refused": ([ASKED | to_here(RST | ACK)], 5, "refused"),
    "refused in the next epoch": ([ASKED, to_here(RST | ACK)], 6, "refused"),
    "silence": ([ASKED], 12, "unanswered"),
    "not silent for long": ([ASKED], 9, ""),
    "the answer comes late": ([ASKED, None, ASKED, None, None, ACCEPTED, OPEN], 8, "established"),
    "no ack": ([ACCEPTED], 45, "half_open"),
    "a scan": ([ACCEPTED | from_here(RST)], 5, "half_open"),
}


@pytest.mark.parametrize("name", TCP_CASES)
def test_outcomes_of_tcp(name: str) -> None:
    seen, until, expected = TCP_CASES[name]
    ledger = make_ledger()
    run(ledger, [None if each is None else Flow(seen=each) for each in seen], until)

    assert outcomes(ledger) == ({expected: 1} if expected else {})
    assert opened(ledger) >= len(outcomes(ledger))


@pytest.mark.parametrize(
    ("packets", "until", "expected"),
    [
        ([(1, 1)], 1, "answered"),
        ([(1, 0), (0, 1)], 3, "answered"),
        ([(3, 0)], 29, ""),
        ([(3, 0)], 32, "unanswered"),
        ([(1, 0)] * 40, 40, "unanswered"),
    ],
)
def test_outcomes_of_udp(packets: list[tuple[int, int]], until: int, expected: str) -> None:
    rows = [Flow(protocol=UDP, remote_port=53, packets=each) for each in packets]
    ledger = make_ledger()
    run(ledger, rows, until)

    assert outcomes(ledger) == ({expected: 1} if expected else {})


@pytest.mark.parametrize(
    ("last", "ending"),
    [
        (from_here(FIN | ACK) | to_here(FIN | ACK), "closed"),
        (from_here(FIN | ACK) | to_here(FIN | ACK) | to_here(RST), "closed"),
        (from_here(RST | ACK), "reset_by_endpoint"),
        (from_here(FIN | ACK) | to_here(RST), "reset_by_peer"),
    ],
)
def test_endings(last: int, ending: str) -> None:
    ledger = make_ledger()
    run(ledger, [Flow(seen=OPEN), Flow(seen=last)], 6)

    labels, values = ledger.view()[ENDINGS]
    assert [(each.ending, n) for each, (n,) in zip(labels, values.tolist(), strict=True)] == [
        (ending, 1)
    ]
    assert outcomes(ledger) == {"established": 1}


def test_sums_equal_those_of_connections_over_restarts() -> None:
    """At every epoch a new ledger goes on from what the last one saved."""
    random = np.random.default_rng(23)
    kinds = [each for each, _, expected in TCP_CASES.values() if expected]
    ledger = make_ledger()
    at: dict[int, list[Flow]] = {}
    for port in range(300):
        start = int(random.integers(0, 5))
        for number, each in enumerate(kinds[port % len(kinds)]):
            if each is not None:
                at.setdefault(start + number, []).append(Flow(seen=each, local_port=10_000 + port))
    for second in range(180):
        now_ns = (second + 1) * SECOND
        if second in at:
            book(ledger, names(), at[second], now_ns)
        settle(ledger, now_ns)
        saved, ledger = ledger.save(), make_ledger()
        ledger.load(saved, now_ns)

    assert sum(outcomes(ledger).values()) == opened(ledger) == 300


def test_a_checkpoint_without_outcomes_can_be_read() -> None:
    ledger = make_ledger()
    run(ledger, [Flow(seen=ASKED)], 1)
    saved = ledger.save()
    older = {
        k: v for k, v in saved["connections"].arrays.items() if k not in ("outcome", "progress")
    }

    after = make_ledger()
    after.load({**saved, "connections": saved["connections"]._replace(arrays=older)}, SECOND)
    book(after, names(), [Flow(seen=OPEN)], 2 * SECOND)
    settle(after, 2 * SECOND)

    assert outcomes(after) == {"established": 1}


# -- times ------------------------------------------------------------------------------

MS = 1_000_000


def row(
    seen: int, first_ns: int, direction: int = 0, *, protocol: int = 6, **times_ns: int
) -> HandshakeRows:
    """One row; ``times_ns`` are what the kernel noted of packets that did not claim it."""
    handshake = np.zeros(1, LAYOUT.handshake)
    for place, name in enumerate(("opened", "answered", "completed")):
        if name in times_ns:
            seen |= 1 << BITS.timed + place
            handshake["time"][0, place] = times_ns[name] >> BITS.unit & 0xFFFFFFFF
    packets = np.array([[1, 1]] if "answered" in times_ns else [[1 - direction, direction]])
    return HandshakeRows(
        np.array([seen], np.uint64),
        packets,
        np.array([first_ns | 1], np.uint64),
        np.array([direction], np.uint8),
        np.array([protocol], np.uint8),
        handshake,
    )


START = (1 << 32 + BITS.unit) - 2 * MS  # the 32 bits overflow in the middle of the handshake


@pytest.mark.parametrize(
    "rows",
    [
        [row(OPEN, START, answered=START + 3 * MS, completed=START + 4 * MS)],
        [
            row(ASKED, START),
            row(OPEN & ~ASKED, START + 3 * MS, 1, completed=START + 4 * MS),
        ],
        [
            row(ACCEPTED, START, answered=START + 3 * MS),
            row(from_here(ACK) | to_here(ACK), START + 4 * MS),
        ],
        [
            row(ASKED, START),
            row(ASKED, START + MS),  # a retry in the next epoch is not the first
            row(to_here(SYN | ACK), START + 3 * MS, 1),
            row(from_here(ACK), START + 4 * MS),
            row(from_here(ACK), START + 900 * MS),
        ],
    ],
    ids=["one row", "answered in the next", "completed in the next", "one each"],
)
def test_times_of_a_handshake_over_epochs(rows: list[HandshakeRows]) -> None:
    progress = np.zeros(1, PROGRESS)
    for each in rows:
        progress = advance(progress, each, BITS)

    for start, end, expected in ((OPENED, ANSWERED, 0.003), (ANSWERED, COMPLETED, 0.001)):
        known, took = seconds(progress, start, end, BITS.unit)
        assert known.all()
        assert took == pytest.approx(expected, abs=2 * (1 << BITS.unit) / 1e9)


@pytest.mark.parametrize(
    "rows",
    [
        [row(8 | 8 << 16, START, protocol=UDP, answered=START + 3 * MS)],
        [row(8, START, protocol=UDP), row(8 << 16, START + 3 * MS, 1, protocol=UDP)],
        [
            row(8, START, protocol=UDP),
            row(8 | 8 << 16, START + 3 * MS, 1, protocol=UDP, answered=START + 9 * MS),
        ],
    ],
    ids=["one row", "next row", "asked again after the answer"],
)
def test_time_of_the_first_answer(rows: list[HandshakeRows]) -> None:
    progress = np.zeros(1, PROGRESS)
    for each in rows:
        progress = advance(progress, each, BITS)

    known, took = seconds(progress, OPENED, ANSWERED, BITS.unit)
    assert known.all()
    assert took == pytest.approx(0.003, abs=2 * (1 << BITS.unit) / 1e9)


def test_without_a_fine_clock_nothing_is_timed() -> None:
    coarse = row(ACCEPTED, START, answered=START + 3 * MS)
    coarse.first_ns[:] &= ~np.uint64(1)

    known, _ = seconds(advance(np.zeros(1, PROGRESS), coarse, BITS), OPENED, ANSWERED, BITS.unit)
    assert not known.any()


def test_every_repeated_syn_counts() -> None:
    progress = np.zeros(1, PROGRESS)
    for repeats in (2, 0, 1):
        progress = advance(progress, row(ASKED | repeats << BITS.retries, START), BITS)

    assert progress["retries"].tolist() == [2 + 1 + 2]


def test_patience_grows_with_the_gap_between_syns() -> None:
    """No SYN of a client that goes on comes after its connection was given up."""
    connections = Connections(FLAGS, 10)
    assert connections.flags.handshake == BITS
    for retries in range(6):
        progress = np.zeros(1, PROGRESS)
        progress["retries"] = retries
        given = decision.DecisionInput(
            progress=progress,
            seen=np.array([ASKED], np.uint64),
            protocol=np.array([6], np.uint8),
            opener=np.array([0]),
            first_ns=np.array([0]),
            last_ns=np.array([2**retries * SECOND]),
        )
        next_syn_ns = 2 * 2**retries * SECOND
        assert decision.decide(given, next_syn_ns + SECOND, BITS, False) == decision.UNDECIDED
        assert (
            decision.decide(given, next_syn_ns + 110 * SECOND, BITS, False) == decision.UNANSWERED
        )


def test_rows_that_are_left_out_would_have_changed_nothing() -> None:
    """Random states and rows: what ``may_change`` leaves out, ``advance`` leaves as it is."""
    random, n = np.random.default_rng(23), 200_000
    before = np.zeros(n, PROGRESS)
    before["facts"] = random.integers(0, 128, n)
    before["retries"] = random.integers(0, 4, n)
    before["time"] = random.integers(0, 1 << 32, (n, 3))
    few = random.integers(0, 1 << 63, n) & random.integers(0, 1 << 63, n)
    seen = (few & random.integers(0, 1 << 63, n)).astype(np.uint64)
    seen[::2] &= np.uint64(ACK | ACK << BITS.shift)
    handshake = np.zeros(n, [("time", "u4", (3,)), ("icmp", "u2")])
    handshake["time"] = random.integers(0, 1 << 32, (n, 3))
    rows = HandshakeRows(
        seen=seen,
        packets=random.integers(0, 2, (n, 2)),
        first_ns=random.integers(0, 1 << 62, n).astype(np.uint64),
        first_direction=random.integers(0, 2, n).astype(np.uint8),
        protocol=random.choice([6, 17, 1, 132], n).astype(np.uint8),
        handshake=handshake,
    )
    # A row has a packet in the direction of its first one.
    rows.packets[np.arange(n), rows.first_direction] = 1
    left_out = ~may_change(before, rows.seen, rows.packets, BITS)
    assert 10_000 < left_out.sum() < n
    assert (advance(before, rows, BITS)[left_out] == before[left_out]).all()
