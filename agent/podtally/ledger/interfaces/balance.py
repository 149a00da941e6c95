# SPDX-License-Identifier: Apache-2.0
"""Checks the bytes booked on each interface against its own counter, by direction.

While traffic runs, no reading of an interface's counter belongs to the instant at
which the halves were flipped. But the reading of the epoch before is from an
earlier instant and the present one from a later, so what was booked, plus what
passed before the attachment (the opening balance), must lie between the two. The
opening balance is kept as the interval that these facts leave it; a moment without
traffic leaves one number. A gap is what no balance within the interval explains,
so it is never a matter of timing, and no loss stays hidden once traffic rests.

Some bytes count on one side only: VLAN tags, frames that the kernel dropped. The kernel
reports their number, not their size, so each widens the interval by its maximum size (its
margin). What the counter then proves is booked as such; the rest of the margin disappears
at the next moment without traffic.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Pair = NDArray[np.int64]  # (n, 2): from and to the endpoint


class Balance(NamedTuple):
    """Opening balances as intervals, each (n, 2)."""

    low: Pair
    high: Pair


class Closing(NamedTuple):
    balance: Balance
    gap: Pair  # bytes counted by the interface and not booked; negative: booked and not counted


class Margin(NamedTuple):
    """Bytes that only one side may have counted, at most; each (n, 2)."""

    tags: Pair  # VLAN tags that the interface counts and the programs do not
    before_hook: Pair  # counted by the interface, then dropped in front of our programs
    after_hook: Pair  # booked, then dropped before the interface counted them
    headers: Pair  # Ethernet headers that the interface leaves out of its counter


class Losses(NamedTuple):
    """Frames that only one side counts, as the kernel reports them; (n, 2) as the counters.

    All but ``queued`` and ``largest`` are cumulative. A sum below the last one means that the
    counter restarted from zero.
    """

    before: Pair  # frames counted, then dropped before the hook
    after: Pair  # frames dropped behind the hook, not counted
    frames: Pair  # frames counted, perhaps without their Ethernet header
    queued: Pair  # bytes behind the hook, not counted yet
    largest: NDArray[np.int64]  # bytes of the largest frame, (n,)


class Readings(NamedTuple):
    """Bytes (n, 2): what was booked up to now, and two readings of the counters around now."""

    booked: Pair
    earlier: Pair
    later: Pair


class Settled(NamedTuple):
    balance: Balance
    margin: Margin  # still in doubt
    gap: Pair
    found: Margin  # certain now


def close(balance: Balance, booked: Pair, earlier: Pair, later: Pair) -> Closing:
    """Compare the sums booked up to now with two readings of the counters around now.

    All arguments are (n, 2) in bytes. A balance is narrowed only by readings that
    leave no gap.
    """
    at_least = np.maximum(balance.low, earlier - booked)
    at_most = np.minimum(balance.high, later - booked)
    missing = np.maximum(0, earlier - booked - balance.high)
    surplus = np.minimum(0, later - booked - balance.low)
    gap = missing + surplus
    closes = gap == 0
    return Closing(
        Balance(
            np.where(closes, at_least, balance.low),
            np.where(closes, at_most, balance.high),
        ),
        gap,
    )


def settle(balance: Balance, margin: Margin, fresh: Margin, readings: Readings) -> Settled:
    """Close with a margin, of which this reading added ``fresh``.

    The frames of ``fresh`` may have passed after the flip; then the next epoch books them.
    """
    low, high = balance
    widened = Balance(
        low - margin.after_hook - margin.headers, high + margin.tags + margin.before_hook
    )
    closing = close(widened, *readings)
    # What the balance does not explain is booked as the smallest margins that do.
    above, below = closing.balance.low - high, low - closing.balance.high
    tags = np.clip(above, 0, margin.tags)
    before = np.clip(above - tags, 0, margin.before_hook)
    after = np.clip(below, 0, margin.after_hook)
    headers = np.clip(below - after, 0, margin.headers)
    shift = tags + before - after - headers
    found = Margin(tags, before, after, headers)
    # Where the balance is one number, nothing older than this reading is in doubt.
    at_rest = closing.balance.low == closing.balance.high
    left = [all_ - sure for all_, sure in zip(margin, found, strict=True)]
    rest = [np.where(at_rest, np.minimum(*both), both[0]) for both in zip(left, fresh, strict=True)]
    return Settled(
        Balance(
            np.maximum(low, closing.balance.low - shift),
            np.minimum(high, closing.balance.high - shift),
        ),
        Margin(*rest),
        closing.gap,
        found,
    )
