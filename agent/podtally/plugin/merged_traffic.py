# SPDX-License-Identifier: Apache-2.0
"""Merges the traffic of several nodes: values in, values out.

Each agent counts its own endpoints, so sums over nodes count each end of a connection once. A
connection between two pods has two ends: it is shown once, as its opener sees it.
"""

from collections.abc import Mapping
from itertools import starmap
from operator import add

from podtally.commands.traffic.conversations import (
    Book,
    BookPage,
    Conversation,
    ConversationCounts,
    TrafficSnapshot,
    totals,
)

_POD = "pod"
_NOTHING = ConversationCounts()
_Ends = tuple[str, ...]


def merge(snapshots: Mapping[str, TrafficSnapshot]) -> TrafficSnapshot:
    """Return the sums of all nodes, by name; the books' interfaces are written NODE/INTERFACE."""
    sums: dict[Conversation, ConversationCounts] = {}
    books: list[Book] = []
    for node, snapshot in snapshots.items():
        for each, counts in snapshot.conversations.items():
            before = sums.get(each)
            sums[each] = counts if before is None else _added(before, counts)
        books += [
            book._replace(page=BookPage(f"{node}/{book.page.interface}", book.page.direction))
            for book in snapshot.books
        ]
    folded = fold(sums)
    at = max((each.at_seconds for each in snapshots.values()), default=0.0)
    return TrafficSnapshot(at, folded, tuple(books), totals(folded))


def fold(
    conversations: Mapping[Conversation, ConversationCounts],
) -> dict[Conversation, ConversationCounts]:
    """Return each conversation between two pods once, from the side that opened more of it.

    Each figure is the larger of what both ends counted: the same if no packet was lost between
    them, and the only one if the other end's node did not answer.
    """
    by_ends: dict[_Ends, Conversation] = {}
    ambiguous: set[_Ends] = set()  # workloads of one name and several kinds
    for each in conversations:
        if each.peer_kind == _POD:
            ambiguous.update({_ends(each)} if by_ends.setdefault(_ends(each), each) != each else ())
    folded: dict[Conversation, ConversationCounts] = {}
    for each, counts in conversations.items():
        other = by_ends.get(_mirrored(each)) if each.peer_kind == _POD else None
        if other is not None and not ambiguous.isdisjoint((_ends(each), _ends(other))):
            other = None
        if other is None:
            folded[each] = counts
        elif other == each:
            folded[each] = _within(counts)
        else:
            theirs = _turned(conversations[other])
            if _is_opener(counts, theirs, each, other):
                folded[each] = ConversationCounts(*starmap(max, zip(counts, theirs, strict=True)))
    return folded


def _ends(each: Conversation) -> _Ends:
    """Return what identifies a conversation at both ends: no kind, which only its own end knows."""
    return (
        *(each.namespace, each.workload, each.peer_namespace, each.peer_workload),
        *(each.scope, each.protocol, each.port, each.verdict),
    )


def _mirrored(each: Conversation) -> _Ends:
    """Return the ends as the peer's agent writes them."""
    return (
        *(each.peer_namespace, each.peer_workload, each.namespace, each.workload),
        *(each.scope, each.protocol, each.port, each.verdict),
    )


def _turned(counts: ConversationCounts) -> ConversationCounts:
    """Return the peer's counts as the endpoint would write them."""
    return ConversationCounts(
        counts.received, counts.sent, counts.accepted, counts.begun, counts.failed
    )


def _within(counts: ConversationCounts) -> ConversationCounts:
    """Return the counts of replicas of one workload with each other; both ends are in one sum."""
    connections = max(counts.begun, counts.accepted)
    failed = min(counts.failed, connections)  # both ends may know of a failure
    return ConversationCounts(max(counts.sent, counts.received), 0, connections, 0, failed)


def _is_opener(
    counts: ConversationCounts, theirs: ConversationCounts, each: Conversation, other: Conversation
) -> bool:
    """Return whether this side opened more; of two equal ones, exactly one is chosen."""
    opened, accepted = max(counts.begun, theirs.begun), max(counts.accepted, theirs.accepted)
    return opened > accepted or (opened == accepted and each < other)


def _added(before: ConversationCounts, more: ConversationCounts) -> ConversationCounts:
    return ConversationCounts(*starmap(add, zip(before, more, strict=True)))
