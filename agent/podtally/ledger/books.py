"""One book for every interface and direction: what was booked against what the interface counts.

While traffic runs, no reading of an interface's counter belongs to the instant at
which the halves were flipped. But the reading of the epoch before is from an
earlier instant and the present one from a later, so what was booked, plus what
passed before the attachment (the opening balance), must lie between the two. The
opening balance is kept as the interval that these facts leave it; a moment without
traffic leaves one number. A gap is what no balance within the interval explains,
so it is never a matter of timing, and nothing that is lost stays hidden once
traffic rests.
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
    gap: Pair  # bytes the interface counted and nobody booked; negative: booked and not counted


def close(balance: Balance, booked: Pair, earlier: Pair, later: Pair) -> Closing:
    """Hold the sums booked up to now against two readings of the counters around now.

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
