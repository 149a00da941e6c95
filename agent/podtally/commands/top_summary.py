# SPDX-License-Identifier: Apache-2.0
"""Says in a line what of all traffic is not allowed, and whether the books close."""

from podtally.commands.conversations import BookSummary, TrafficSnapshot, TrafficTotal
from podtally.commands.tables import GREEN, RED, YELLOW, human, word
from podtally.policy.model import ALLOWED, DENIED, UNDECLARED, UNKNOWN

_NOTHING = TrafficTotal()


def summary(look: TrafficSnapshot) -> str:
    """Return in one line what is not allowed, whether it is all, and where to ask why."""
    sums = look.totals
    bad = ", ".join(_counted(verdict, sums[verdict]) for verdict in (DENIED, UNDECLARED, UNKNOWN))
    every = sum(total.connections for total in sums.values())
    parts = [f"{bad}, of {every:,} connections", _books(look.books)]
    if any(total != _NOTHING for verdict, total in sums.items() if verdict != ALLOWED):
        parts.append("why: `podtally explain A B PORT`, and the events (`podtally run --events`)")
    return "; ".join(parts)


def colour(look: TrafficSnapshot) -> str:
    sums = look.totals
    if look.books.gaps or sums[DENIED] != _NOTHING:
        return RED
    return YELLOW if sums[UNDECLARED] != _NOTHING or sums[UNKNOWN] != _NOTHING else GREEN


def nothing(look: TrafficSnapshot) -> str:
    seen = len(look.conversations)
    return f"none of {seen} conversations is of this kind" if seen else "no traffic was seen yet"


def _counted(verdict: str, total: TrafficTotal) -> str:
    """Bytes may be there without a connection: of one that was judged anew."""
    size = "" if total == _NOTHING else f" ({human(total.bytes)})"
    return f"{verdict} {total.connections:,}{size}"


def _books(books: BookSummary) -> str:
    if not books.gaps:
        return f"the books close: {books.bytes:,} bytes" if books.bytes else "the books are empty"
    first = books.gaps[0]
    gap = "no gap reported" if first.bytes is None else f"a gap of {first.bytes:,} bytes"
    more = f" and {len(books.gaps) - 1} more" if len(books.gaps) > 1 else ""
    return f"the books do not close: {word(first.interface)} {word(first.direction)}: {gap}{more}"
