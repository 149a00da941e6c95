# SPDX-License-Identifier: Apache-2.0
"""Closing the books: what is lost shows once traffic rests, and timing alone never shows."""

from typing import NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from podtally.ledger.interfaces.balance import (
    Balance,
    Closing,
    Margin,
    Pair,
    Readings,
    close,
    settle,
)

AMOUNT = st.integers(0, 2**40)


class Epoch(NamedTuple):
    """What passes an interface around one flip of the halves, in bytes."""

    before: int  # from the last reading of the counter to the flip
    after: int  # from the flip to this epoch's reading
    lost: int = 0  # bytes of these that are not booked; negative: booked twice


class Book:
    """An interface with counters; its true opening balance is only known to lie in an interval."""

    def __init__(self, opening: int, below: int, above: int) -> None:
        self.counter = self.parsed = opening
        self.booked = 0
        self.unbooked = 0  # passed since the last flip
        self.balance = Balance(_pair(opening - below), _pair(opening + above))

    def turn(self, epoch: Epoch) -> int:
        """One epoch, its books closed; returns the gap."""
        self.booked += self.unbooked + epoch.before - epoch.lost
        self.unbooked = epoch.after
        self.counter += epoch.before + epoch.after
        closing = self.close()
        self.balance, self.parsed = closing.balance, self.counter
        return int(closing.gap[0, 0])

    def close(self) -> Closing:
        return close(self.balance, *map(_pair, (self.booked, self.parsed, self.counter)))

    def rest(self) -> int:
        """Epochs without traffic: all that passed is booked, and all readings are the same."""
        self.turn(Epoch(0, 0))
        return self.turn(Epoch(0, 0))

    def width(self) -> int:
        return int((self.balance.high - self.balance.low)[0, 0])


def _pair(amount: int) -> Pair:
    return np.array([[amount, 0]], np.int64)


books = st.builds(Book, AMOUNT, AMOUNT, AMOUNT)
exact = st.builds(Book, AMOUNT, st.just(0), st.just(0))
busy = st.lists(st.builds(Epoch, AMOUNT, AMOUNT, st.just(0)), max_size=23)


@given(books, busy)
def test_without_a_loss_there_is_never_a_gap(book: Book, epochs: list[Epoch]) -> None:
    opening = book.counter
    for epoch in epochs:
        assert book.turn(epoch) == 0
        assert book.balance.low[0, 0] <= opening <= book.balance.high[0, 0]
    assert book.rest() == 0
    assert book.width() == 0  # a moment without traffic leaves one number
    assert book.balance.low[0, 0] == opening


@settings(max_examples=300)
@given(books, busy, st.integers(1, 2**41), st.sampled_from((-1, 1)), busy)
def test_after_a_rest_a_loss_is_the_gap_at_the_next_rest(
    book: Book, earlier: list[Epoch], amount: int, sign: int, later: list[Epoch]
) -> None:
    for epoch in earlier:
        book.turn(epoch)
    book.rest()
    lost = sign * amount
    gaps = [book.turn(Epoch(amount, 0, lost)), *(book.turn(epoch) for epoch in later)]
    assert all(0 <= sign * gap <= amount for gap in gaps)
    assert book.rest() == lost
    assert book.rest() == lost  # and stays
    for epoch in later:
        assert 0 <= sign * book.turn(epoch) <= amount
    assert book.rest() == lost


@given(books, busy, AMOUNT, st.sampled_from((-1, 1)), busy)
def test_before_the_first_rest_a_loss_shows_as_far_as_no_balance_explains_it(
    book: Book, earlier: list[Epoch], amount: int, sign: int, later: list[Epoch]
) -> None:
    for epoch in earlier:
        book.turn(epoch)
    width = book.width()
    book.turn(Epoch(amount, 0, sign * amount))
    for epoch in later:
        book.turn(epoch)
    gap = sign * book.rest()
    assert amount - width <= gap <= amount or (gap == 0 and amount <= width)


@given(exact, AMOUNT, AMOUNT)
def test_losses_add_up_and_cancel_out(book: Book, lost: int, doubled: int) -> None:
    book.turn(Epoch(lost, 0, lost))
    book.turn(Epoch(doubled, 0, -doubled))
    assert book.rest() == lost - doubled


def test_a_gap_under_traffic_is_seen_when_it_outgrows_the_epoch() -> None:
    book = Book(opening=1009, below=0, above=0)
    book.turn(Epoch(2003, 23))
    assert book.turn(Epoch(1000, 23, lost=211)) == 0  # the packets in flight could be it
    assert book.turn(Epoch(100, 23)) == 211 - 100
    assert book.rest() == 211


def test_directions_are_closed_apart() -> None:
    balance = Balance(np.array([[0, 0], [5, 5]]), np.array([[0, 0], [5, 9]]))
    booked = np.array([[23, 23], [10, 10]])
    counted = np.array([[23, 30], [15, 17]])
    closing = close(balance, booked, counted, counted)
    assert closing.gap.tolist() == [[0, 7], [0, 0]]
    assert closing.balance.low.tolist() == [[0, 0], [5, 7]]
    assert closing.balance.high.tolist() == [[0, 0], [5, 7]]


def test_no_interfaces() -> None:
    nothing = np.zeros((0, 2), np.int64)
    assert close(Balance(nothing, nothing), nothing, nothing, nothing).gap.shape == (0, 2)


class Drop(NamedTuple):
    """Frames dropped behind the hook in an epoch, some of them between flip and reading."""

    frames: int
    bytes: int  # of all, at most LARGEST each
    late: bool  # dropped after the flip: booked in the next epoch


LARGEST = 1514
drops = st.integers(0, 5).flatmap(
    lambda n: st.builds(Drop, st.just(n), st.integers(14 * n, LARGEST * n), st.booleans())
)


@given(st.lists(st.tuples(AMOUNT, AMOUNT, drops), max_size=20))
def test_what_the_kernel_dropped_is_found_to_the_byte_and_is_never_a_gap(
    epochs: list[tuple[int, int, Drop]],
) -> None:
    balance, margin = Balance(_pair(0), _pair(0)), Margin(*(_pair(0),) * 4)
    booked = counter = late = found = dropped = 0
    for before, after, drop in [*epochs, *[(0, 0, Drop(0, 0, False))] * 3]:
        earlier, counter = counter, counter + before + after
        booked += before + late + (0 if drop.late else drop.bytes)
        fresh = Margin(_pair(0), _pair(0), _pair(drop.frames * LARGEST), _pair(0))
        margin = Margin(*(old + new for old, new in zip(margin, fresh, strict=True)))
        readings = Readings(_pair(booked - found), _pair(earlier), _pair(counter))
        settled = settle(balance, margin, fresh, readings)
        assert settled.gap.tolist() == [[0, 0]]
        balance, margin = settled.balance, settled.margin
        found += int(settled.found.after_hook[0, 0])
        late = after + (drop.bytes if drop.late else 0)
        dropped += drop.bytes
    assert found == dropped
    assert booked - found == counter
