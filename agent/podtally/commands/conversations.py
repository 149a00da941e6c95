# SPDX-License-Identifier: Apache-2.0
"""What one page of /metrics says of conversations and of the books: values in, values out.

Both directions of a conversation's bytes, and who began it, stand in one row; sums are exact.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from podtally.commands.text_format import Sample, SampleReader
from podtally.ledger.label_sets import OTHER
from podtally.policy.model import DENIED, UNDECLARED, UNKNOWN, VERDICTS

_FLOWS, _CONNECTIONS = "podtally_flow_bytes_total", "podtally_connections_total"
_BOOKS, _GAPS = "podtally_books_bytes_total", "podtally_books_gap_bytes"
_BUILD = "podtally_build_info"  # which every agent has
_EGRESS, _INGRESS = "egress", "ingress"
_WITHIN = ("node", "zone", "cross_zone", "cluster")  # scopes that are not outside


class Conversation(NamedTuple):
    """The labels of a flow's series, but for its direction."""

    namespace: str
    workload: str
    workload_kind: str
    peer_kind: str
    peer_namespace: str
    peer_workload: str
    scope: str
    protocol: str
    port: str
    verdict: str


class Book(NamedTuple):
    interface: str
    direction: str


class _SeriesPlace(NamedTuple):
    """Where a series' value belongs: to what, and there under which number."""

    key: Conversation | Book | None
    column: int


_SENT, _RECEIVED, _BEGUN, _ACCEPTED = range(4)  # columns of a conversation
_BOOKED, _GAP = range(2)  # of a book


class ConversationCounts(NamedTuple):
    """Bytes that the endpoint sent and received; connections that it and that its peer began."""

    sent: int = 0
    received: int = 0
    begun: int = 0
    accepted: int = 0

    @property
    def bytes(self) -> int:
        return self.sent + self.received


class Gap(msgspec.Struct, frozen=True):
    """A page of the books that does not close."""

    interface: str
    direction: str
    bytes: int | None  # None: the agent has not said


class BookSummary(msgspec.Struct, frozen=True):
    bytes: int  # all that is booked
    gaps: list[Gap]  # none: they close


class TrafficTotal(msgspec.Struct, frozen=True):
    connections: int = 0
    bytes: int = 0


class TrafficSnapshot(NamedTuple):
    """A page; ``at_seconds`` is of a clock that only goes on."""

    at_seconds: float
    conversations: Mapping[Conversation, ConversationCounts]
    books: BookSummary
    totals: Mapping[str, TrafficTotal]  # of all conversations, by verdict


class ConversationRate(NamedTuple):
    conversation: Conversation
    direction: str  # egress: the endpoint began it, ingress: its peer; both; unknown
    counts: ConversationCounts
    rate: float | None  # bytes a second, both ways; None: there was no look before


class ConversationFilter(NamedTuple):
    """Which rows; what cannot be told apart is among them."""

    egress: bool = False
    outside: bool = False
    denied: bool = False
    namespace: str | None = None


def series_reader() -> SampleReader[_SeriesPlace]:
    """Return a reader of one agent's pages, for ``look``."""
    return SampleReader((_FLOWS, _CONNECTIONS, _BOOKS, _GAPS, _BUILD), _place)


def snapshot(places: Iterable[tuple[_SeriesPlace, float]], at_seconds: float) -> TrafficSnapshot:
    """Sum a page up; raises ValueError if no podtally has written it."""
    conversations: dict[Conversation, list[int]] = defaultdict(
        lambda: [0] * len(ConversationCounts())
    )
    books: dict[Book, list[int | None]] = defaultdict(lambda: [0, None])
    is_podtally = False
    for (key, column), value in places:
        if isinstance(key, Conversation):
            conversations[key][column] += int(value)
        elif isinstance(key, Book):
            books[key][column] = (books[key][column] or 0) + int(value)
        else:
            is_podtally = True
    if not is_podtally:
        raise ValueError(f"there is no {_BUILD}")
    gaps = [Gap(*page, gap) for page, (_, gap) in sorted(books.items()) if gap != 0]
    booked = sum(page[_BOOKED] or 0 for page in books.values())
    counted = {
        key: ConversationCounts(*counts) for key, counts in conversations.items() if any(counts)
    }
    return TrafficSnapshot(at_seconds, counted, BookSummary(booked, gaps), totals(counted))


def rows(
    now: TrafficSnapshot, before: TrafficSnapshot | None, wanted: ConversationFilter
) -> list[ConversationRate]:
    """Return what is wanted, the highest rate first; without ``before``, the most bytes."""
    directions = _directions(now.conversations)
    earlier = {} if before is None else before.conversations
    seconds = None if before is None else now.at_seconds - before.at_seconds
    found = [
        ConversationRate(each, directions[each], counts, _rate(counts, earlier.get(each), seconds))
        for each, counts in now.conversations.items()
        if _is_wanted(each, directions[each], wanted)
    ]
    found.sort(key=lambda row: (-(row.rate or 0.0), -row.counts.bytes, row.conversation))
    return found


def totals(conversations: Mapping[Conversation, ConversationCounts]) -> dict[str, TrafficTotal]:
    """Return connections and bytes by verdict; a word that is none of them is not known."""
    sums = {verdict: [0, 0] for verdict in VERDICTS}
    for each, counts in conversations.items():
        total = sums.get(each.verdict) or sums[UNKNOWN]
        total[0] += counts.begun + counts.accepted
        total[1] += counts.bytes
    return {verdict: TrafficTotal(*total) for verdict, total in sums.items()}


def _place(sample: Sample) -> _SeriesPlace:
    if sample.name == _BUILD:
        return _SeriesPlace(None, 0)
    is_egress = sample.label("direction") == _EGRESS
    if sample.name in (_BOOKS, _GAPS):
        book = Book(sample.label("interface"), sample.label("direction"))
        return _SeriesPlace(book, _BOOKED if sample.name == _BOOKS else _GAP)
    key = Conversation(*(sample.label(name) for name in Conversation._fields))
    if sample.name == _FLOWS:
        return _SeriesPlace(key, _SENT if is_egress else _RECEIVED)
    return _SeriesPlace(key, _BEGUN if is_egress else _ACCEPTED)


def _directions(
    conversations: Mapping[Conversation, ConversationCounts],
) -> Mapping[Conversation, str]:
    """Who began each. One that was judged anew has its connections under the verdict before."""
    found = {each: _direction(counts) for each, counts in conversations.items()}
    silent = {each[:-1] for each, direction in found.items() if direction == UNKNOWN}
    began: dict[tuple[str, ...], ConversationCounts] = {}
    for each, counts in conversations.items():
        if each[:-1] in silent:
            sums = began.get(each[:-1], ConversationCounts())
            began[each[:-1]] = ConversationCounts(*map(sum, zip(sums, counts, strict=True)))
    return {
        each: _direction(began[each[:-1]]) if direction == UNKNOWN else direction
        for each, direction in found.items()
    }


def _direction(counts: ConversationCounts) -> str:
    if counts.begun and counts.accepted:
        return "both"
    if counts.begun or counts.accepted:
        return _EGRESS if counts.begun else _INGRESS
    return UNKNOWN


def _rate(
    now: ConversationCounts, before: ConversationCounts | None, seconds: float | None
) -> float | None:
    """A counter that is new, or has begun anew, has counted all of it since."""
    if not seconds:
        return None
    earlier = before or ConversationCounts()
    more = (
        after - then if after >= then else after
        for after, then in zip(now[:_BEGUN], earlier[:_BEGUN], strict=True)
    )
    return sum(more) / seconds


def _is_wanted(each: Conversation, direction: str, wanted: ConversationFilter) -> bool:
    return (
        not (wanted.egress and direction == _INGRESS)
        and not (wanted.outside and each.scope in _WITHIN)
        and not (wanted.denied and each.verdict not in (DENIED, UNDECLARED, OTHER))
        and wanted.namespace in (None, each.namespace)
    )
