# SPDX-License-Identifier: Apache-2.0
"""Selects and sorts the conversations that ``top`` shows, with their rates."""

from typing import NamedTuple

from podtally.commands.traffic.conversations import (
    INGRESS,
    Conversation,
    ConversationCounts,
    TrafficSnapshot,
    directions,
)
from podtally.ledger.series.label_sets import OTHER
from podtally.policy.model import DENIED, UNDECLARED

_WITHIN = ("node", "zone", "cross_zone", "cluster")  # scopes that are not outside


class ConversationRate(NamedTuple):
    conversation: Conversation
    direction: str  # who opened it: see ``directions``
    counts: ConversationCounts
    rate: float | None  # bytes per second, both ways; None: no earlier page


class ConversationFilter(NamedTuple):
    """Which rows are shown; rows of unknown direction or verdict always match."""

    egress: bool = False
    outside: bool = False
    denied: bool = False
    namespace: str | None = None
    failed: bool = False  # with connections that failed


def rows(
    now: TrafficSnapshot, before: TrafficSnapshot | None, chosen: ConversationFilter
) -> list[ConversationRate]:
    """Return the matching rows, the highest rate first; without ``before``, the most bytes."""
    opened_by = directions(now.conversations)
    earlier = {} if before is None else before.conversations
    seconds = None if before is None else now.at_seconds - before.at_seconds
    found = [
        ConversationRate(each, opened_by[each], counts, _rate(counts, earlier.get(each), seconds))
        for each, counts in now.conversations.items()
        if _matches(each, opened_by[each], chosen) and (counts.failed or not chosen.failed)
    ]
    found.sort(key=lambda row: (-(row.rate or 0.0), -row.counts.bytes, row.conversation))
    return found


def _rate(
    now: ConversationCounts, before: ConversationCounts | None, seconds: float | None
) -> float | None:
    """Return bytes per second; a counter that is new, or restarted, has counted all of it since."""
    if not seconds:
        return None
    earlier = before or ConversationCounts()
    more = (
        after - then if after >= then else after
        for after, then in zip(
            (now.sent, now.received), (earlier.sent, earlier.received), strict=True
        )
    )
    return sum(more) / seconds


def _matches(each: Conversation, direction: str, chosen: ConversationFilter) -> bool:
    return (
        not (chosen.egress and direction == INGRESS)
        and not (chosen.outside and each.scope in _WITHIN)
        and not (chosen.denied and each.verdict not in (DENIED, UNDECLARED, OTHER))
        and chosen.namespace in (None, each.namespace)
    )
