# SPDX-License-Identifier: Apache-2.0
"""Reads conversations and books from the agent's /metrics, for ``top`` and the demo.

Both directions of a conversation's bytes, and who opened it, are one row; sums are exact.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from podtally.api.schema import Traffic
from podtally.commands.traffic.text_format import Sample, SampleReader
from podtally.ledger.metrics.failures import is_failure
from podtally.policy.model import UNKNOWN, VERDICTS

_FLOWS, _CONNECTIONS = "podtally_flow_bytes_total", "podtally_connections_total"
_OUTCOMES = "podtally_connection_outcomes_total"
_BOOKS, _GAPS = "podtally_books_bytes_total", "podtally_books_gap_bytes"
_BUILD = "podtally_build_info"  # on every page of podtally
EGRESS, INGRESS = "egress", "ingress"


class Conversation(NamedTuple):
    """The labels of a flow series except its direction."""

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
    peer_domain: str = ""


class BookPage(NamedTuple):
    interface: str
    direction: str


class Book(NamedTuple):
    """A page of the books: bytes by account; ``gap`` is None if it is not reported."""

    page: BookPage
    accounts: Mapping[str, int]
    gap: int | None


class _FlowPlace(NamedTuple):
    """Where the value of a flow series belongs."""

    conversation: Conversation
    column: int


class _BookPlace(NamedTuple):
    """Where the value of a series of the books belongs."""

    page: BookPage
    account: str | None  # None: it is the gap


_IGNORED = "ignored"
_SENT, _RECEIVED, _BEGUN, _ACCEPTED, _FAILED = range(5)
_COLUMNS = 5


class ConversationCounts(NamedTuple):
    """Bytes that the endpoint sent and received; connections that it and its peer opened, and
    those among them that failed.
    """

    sent: int = 0
    received: int = 0
    begun: int = 0
    accepted: int = 0
    failed: int = 0

    @property
    def bytes(self) -> int:
        return self.sent + self.received


class Gap(msgspec.Struct, frozen=True):
    """A page of the books that does not close, in JSON."""

    interface: str
    direction: str
    bytes: int | None  # None: not reported


class BookSummary(msgspec.Struct, frozen=True):
    """All books, in JSON."""

    bytes: int  # booked in total
    gaps: list[Gap]  # empty: they close


class TrafficTotal(msgspec.Struct, frozen=True):
    connections: int = 0
    bytes: int = 0


class TrafficSnapshot(NamedTuple):
    """The sums of one page; ``at_seconds`` is of a monotonic clock."""

    at_seconds: float
    conversations: Mapping[Conversation, ConversationCounts]
    books: tuple[Book, ...]
    totals: Mapping[str, TrafficTotal]  # of all conversations, by verdict

    def book_summary(self) -> BookSummary:
        gaps = [Gap(*book.page, book.gap) for book in self.books if book.gap != 0]
        return BookSummary(sum(sum(book.accounts.values()) for book in self.books), gaps)


class TrafficReader:
    """Reads page after page of one agent's metrics."""

    def __init__(self) -> None:
        self._samples = SampleReader(
            (_FLOWS, _CONNECTIONS, _OUTCOMES, _BOOKS, _GAPS, _BUILD), _place
        )

    def read(self, text: str, at_seconds: float) -> TrafficSnapshot:
        """Return the sums of a page; ValueError if it is not podtally's."""
        conversations: dict[Conversation, list[int]] = defaultdict(lambda: [0] * _COLUMNS)
        accounts: dict[BookPage, Counter[str]] = defaultdict(Counter)
        gaps: dict[BookPage, int] = {}
        is_podtally = False
        for place, value in self._samples.read(text):
            if isinstance(place, _FlowPlace):
                conversations[place.conversation][place.column] += int(value)
            elif isinstance(place, _BookPlace):
                if place.account is None:
                    gaps[place.page] = int(value)
                else:
                    accounts[place.page][place.account] += int(value)
            elif place is None:
                is_podtally = True
        if not is_podtally:
            raise ValueError(f"there is no {_BUILD}")
        counted = {
            key: ConversationCounts(*counts) for key, counts in conversations.items() if any(counts)
        }
        books = tuple(
            Book(page, accounts[page], gaps.get(page)) for page in sorted({*accounts, *gaps})
        )
        return TrafficSnapshot(at_seconds, counted, books, totals(counted))


def snapshot_of(traffic: Traffic, at_seconds: float) -> TrafficSnapshot:
    """Return the sums of a reply; a label that an older agent does not send is empty."""
    columns = [
        traffic.labels.index(name) if name in traffic.labels else None
        for name in Conversation._fields
    ]
    counted = {
        Conversation(*("" if at is None else each.labels[at] for at in columns)): (
            ConversationCounts(each.sent, each.received, each.begun, each.accepted, each.failed)
        )
        for each in traffic.conversations
    }
    books = tuple(
        Book(BookPage(each.interface, each.direction), each.accounts, each.gap)
        for each in traffic.books
    )
    return TrafficSnapshot(at_seconds, counted, books, totals(counted))


def totals(conversations: Mapping[Conversation, ConversationCounts]) -> dict[str, TrafficTotal]:
    """Return connections and bytes by verdict; any other verdict counts as unknown."""
    sums = {verdict: [0, 0] for verdict in VERDICTS}
    for each, counts in conversations.items():
        total = sums.get(each.verdict) or sums[UNKNOWN]
        total[0] += counts.begun + counts.accepted
        total[1] += counts.bytes
    return {verdict: TrafficTotal(*total) for verdict, total in sums.items()}


def directions(
    conversations: Mapping[Conversation, ConversationCounts],
) -> Mapping[Conversation, str]:
    """Return who opened each: egress: the endpoint, ingress: its peer; both; unknown.

    After a change of verdict, bytes and connections may be under different verdicts.
    """
    known = {each: _direction(counts) for each, counts in conversations.items()}
    without = {
        each: each._replace(verdict="") for each, direction in known.items() if direction == UNKNOWN
    }
    if not without:
        return known
    sums = dict.fromkeys(without.values(), ConversationCounts())
    for each, counts in conversations.items():
        if (any_verdict := each._replace(verdict="")) in sums:
            both = zip(sums[any_verdict], counts, strict=True)
            sums[any_verdict] = ConversationCounts(*map(sum, both))
    return known | {each: _direction(sums[any_verdict]) for each, any_verdict in without.items()}


def _direction(counts: ConversationCounts) -> str:
    if counts.begun and counts.accepted:
        return "both"
    if counts.begun or counts.accepted:
        return EGRESS if counts.begun else INGRESS
    return UNKNOWN


def _place(sample: Sample) -> _FlowPlace | _BookPlace | str | None:
    if sample.name == _BUILD:
        return None
    is_egress = sample.label("direction") == EGRESS
    if sample.name in (_BOOKS, _GAPS):
        page = BookPage(sample.label("interface"), sample.label("direction"))
        return _BookPlace(page, sample.label("account") if sample.name == _BOOKS else None)
    conversation = Conversation(*(sample.label(name) for name in Conversation._fields))
    if sample.name == _OUTCOMES:
        failed = is_failure(sample.label("outcome"), sample.label("protocol"))
        return _FlowPlace(conversation, _FAILED) if failed else _IGNORED
    if sample.name == _FLOWS:
        return _FlowPlace(conversation, _SENT if is_egress else _RECEIVED)
    return _FlowPlace(conversation, _BEGUN if is_egress else _ACCEPTED)
