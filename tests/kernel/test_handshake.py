# SPDX-License-Identifier: Apache-2.0
"""The facts and times of a handshake, as rows have them."""

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from podtally.kernel.table import FlowRows
from tests.kernel.driver import Kernel
from tests.kernel.packets import (
    ACK,
    PSH,
    RST,
    SYN,
    TCP,
    ipv4,
    reversed_ends,
    tcp,
)
from tests.kernel.test_icmp_quotes import ASKED, error

UDP4 = ASKED["v4 udp"]
OPENED, ANSWERED, COMPLETED = range(3)
GAP_SECONDS = 0.002


def sent(kernel: Kernel, flags: int) -> None:
    kernel.send("from_pod", ipv4(TCP, tcp(flags=flags)))
    time.sleep(GAP_SECONDS)


def answered(kernel: Kernel, flags: int) -> None:
    kernel.send("to_pod", reversed_ends(ipv4(TCP, tcp(flags=flags))))
    time.sleep(GAP_SECONDS)


def rows_of(kernel: Kernel) -> FlowRows:
    (rows,) = kernel.table.read(kernel.table.epoch & 1)
    return rows


def timed(kernel: Kernel) -> list[int]:
    """Return which times of the only row are valid."""
    (seen,) = rows_of(kernel).seen.tolist()
    return [i for i in range(3) if seen >> kernel.layout.seen_timed_bit + i & 1]


def times_ns(kernel: Kernel) -> NDArray[np.int64]:
    """Return the times of the only row since its first packet."""
    rows = rows_of(kernel)
    (handshake,), (cold,) = rows.handshake, kernel.table.cold(rows.place)
    shift = kernel.layout.handshake_shift
    first = np.uint32((int(cold["first_seen_ns"]) >> shift) & 0xFFFFFFFF)
    times: NDArray[np.int64] = (handshake["time"] - first).astype(np.int64) << shift
    return times


def test_each_step_is_timed_once(kernel: Kernel) -> None:
    start = time.monotonic_ns()
    sent(kernel, SYN)
    answered(kernel, SYN | ACK)
    sent(kernel, ACK)
    before = times_ns(kernel)
    for flags in (SYN | ACK, ACK, PSH | ACK):
        answered(kernel, flags)
        sent(kernel, flags & ~SYN)
    elapsed = time.monotonic_ns() - start

    assert timed(kernel) == [ANSWERED, COMPLETED]  # the SYN's time is that of the row
    assert times_ns(kernel).tolist() == before.tolist()
    gap = GAP_SECONDS * 1e9
    assert gap <= before[ANSWERED] < before[COMPLETED] - gap < elapsed


def test_a_syn_in_an_older_row_is_timed(kernel: Kernel) -> None:
    sent(kernel, ACK)
    sent(kernel, SYN)

    assert timed(kernel) == [OPENED]
    assert times_ns(kernel)[OPENED] >= GAP_SECONDS * 1e9


@pytest.mark.parametrize("flags", [RST, RST | ACK, ACK], ids=["rst", "rst ack", "ack"])
def test_what_is_not_an_answer_is_not_timed(kernel: Kernel, flags: int) -> None:
    sent(kernel, SYN)
    answered(kernel, flags)
    sent(kernel, RST)

    assert timed(kernel) == []


def test_the_first_answer_of_other_protocols(kernel: Kernel) -> None:
    for _ in range(3):
        kernel.send("from_pod", UDP4)
    assert timed(kernel) == []
    time.sleep(GAP_SECONDS)
    for _ in range(2):
        kernel.send("to_pod", reversed_ends(UDP4))
        kernel.send("from_pod", UDP4)

    assert timed(kernel) == [ANSWERED]
    assert times_ns(kernel)[ANSWERED] >= GAP_SECONDS * 1e9


@pytest.mark.parametrize(("count", "retries"), [(1, 0), (2, 1), (7, 6), (400, 128)])
def test_repeated_syns_are_counted(kernel: Kernel, count: int, retries: int) -> None:
    layout = kernel.layout
    kernel.send("from_pod", ipv4(TCP, tcp(flags=SYN)), count)

    (seen,) = rows_of(kernel).seen.tolist()
    assert seen >> layout.seen_retries_shift & layout.seen_retries_mask == retries
    assert not seen >> layout.seen_carried_bit


@pytest.mark.parametrize(
    ("kind", "rejected"), [(3, True), (4, False), (5, False), (11, True), (12, True)]
)
def test_an_error_has_its_type_and_code(kernel: Kernel, kind: int, rejected: bool) -> None:
    kernel.send("to_pod", error(UDP4, kind))

    rows, layout = rows_of(kernel), kernel.layout
    (seen,) = rows.seen.tolist()
    assert bool(seen & layout.seen_rejected << layout.seen_shift) == rejected
    if rejected:
        assert rows.handshake["icmp"].tolist() == [kind << 8 | 3]


def test_the_first_rows_of_a_half_have_a_fine_clock(kernel: Kernel) -> None:
    for port in range(1, 9):
        kernel.send("from_pod", ipv4(TCP, tcp(port, 443, flags=ACK)))

    cold = kernel.table.cold(rows_of(kernel).place)
    assert (cold["first_seen_ns"] & 1).tolist() == [1] * 8
