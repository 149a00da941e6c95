# SPDX-License-Identifier: Apache-2.0
"""Sums up in one line what is not allowed, and whether the books close."""

from podtally.commands.shared.tables import GREEN, RED, YELLOW, human, word
from podtally.commands.traffic.conversations import BookSummary, TrafficSnapshot, TrafficTotal
from podtally.policy.model import ALLOWED, DENIED, UNDECLARED, UNKNOWN

_NOTHING = TrafficTotal()


def summary(traffic: TrafficSnapshot) -> str:
    """Return what is not allowed, whether the books close, and where to find reasons."""
    sums = traffic.totals
    bad = ", ".join(_counted(verdict, sums[verdict]) for verdict in (DENIED, UNDECLARED, UNKNOWN))
    every = sum(total.connections for total in sums.values())
    parts = [f"{bad}, of {every:,} connections", _books(traffic.book_summary())]
    if any(total != _NOTHING for verdict, total in sums.items() if verdict != ALLOWED):
        parts.append("why: `podtally explain FROM TO PORT`, or the event log")
    return "; ".join(parts)


def colour(traffic: TrafficSnapshot) -> str:
    sums = traffic.totals
    if traffic.book_summary().gaps or sums[DENIED] != _NOTHING:
        return RED
    return YELLOW if sums[UNDECLARED] != _NOTHING or sums[UNKNOWN] != _NOTHING else GREEN


def nothing(traffic: TrafficSnapshot) -> str:
    seen = len(traffic.conversations)
    return f"none of {seen} conversations matches" if seen else "no traffic seen yet"


def _counted(verdict: str, total: TrafficTotal) -> str:
    """Return the count, with bytes: there may be bytes only, after a change of verdict."""
    size = "" if total == _NOTHING else f" ({human(total.bytes)})"
    return f"{verdict} {total.connections:,}{size}"


def _books(books: BookSummary) -> str:
    if not books.gaps:
        return f"the books close: {books.bytes:,} bytes" if books.bytes else "the books are empty"
    first = books.gaps[0]
    gap = "no gap reported" if first.bytes is None else f"a gap of {first.bytes:,} bytes"
    more = f" and {len(books.gaps) - 1} more" if len(books.gaps) > 1 else ""
    return f"the books do not close: {word(first.interface)} {word(first.direction)}: {gap}{more}"
