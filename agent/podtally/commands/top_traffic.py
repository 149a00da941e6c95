"""What one page of /metrics says of conversations and of the books: values in, values out.

Both directions of a conversation's bytes, and who began it, stand in one row; sums are exact.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from podtally.commands.samples import Reader, Sample
from podtally.ledger.labels import OTHER
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


class _Place(NamedTuple):
    """Where a series' value belongs: to what, and there under which number."""

    key: Conversation | Book | None
    column: int


_SENT, _RECEIVED, _BEGUN, _ACCEPTED = range(4)  # columns of a conversation
_BOOKED, _GAP = range(2)  # of a book


class Counts(NamedTuple):
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


class Books(msgspec.Struct, frozen=True):
    bytes: int  # all that is booked
    gaps: list[Gap]  # none: they close


class Total(msgspec.Struct, frozen=True):
    connections: int = 0
    bytes: int = 0


class Look(NamedTuple):
    """A page; ``at_seconds`` is of a clock that only goes on."""

    at_seconds: float
    conversations: Mapping[Conversation, Counts]
    books: Books
    totals: Mapping[str, Total]  # of all conversations, by verdict


class Row(NamedTuple):
    conversation: Conversation
    direction: str  # egress: the endpoint began it, ingress: its peer; both; unknown
    counts: Counts
    rate: float | None  # bytes a second, both ways; None: there was no look before


class Wanted(NamedTuple):
    """Which rows; what cannot be told apart is among them."""

    egress: bool = False
    outside: bool = False
    denied: bool = False
    namespace: str | None = None


def reader() -> Reader[_Place]:
    """Return a reader of one agent's pages, for ``look``."""
    return Reader((_FLOWS, _CONNECTIONS, _BOOKS, _GAPS, _BUILD), _place)


def look(places: Iterable[tuple[_Place, float]], at_seconds: float) -> Look:
    """Sum a page up; raises ValueError if no podtally has written it."""
    conversations: dict[Conversation, list[int]] = defaultdict(lambda: [0] * len(Counts()))
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
    counted = {key: Counts(*counts) for key, counts in conversations.items() if any(counts)}
    return Look(at_seconds, counted, Books(booked, gaps), totals(counted))


def rows(now: Look, before: Look | None, wanted: Wanted) -> list[Row]:
    """Return what is wanted, the highest rate first; without ``before``, the most bytes."""
    directions = _directions(now.conversations)
    earlier = {} if before is None else before.conversations
    seconds = None if before is None else now.at_seconds - before.at_seconds
    found = [
        Row(each, directions[each], counts, _rate(counts, earlier.get(each), seconds))
        for each, counts in now.conversations.items()
        if _is_wanted(each, directions[each], wanted)
    ]
    found.sort(key=lambda row: (-(row.rate or 0.0), -row.counts.bytes, row.conversation))
    return found


def totals(conversations: Mapping[Conversation, Counts]) -> dict[str, Total]:
    """Return connections and bytes by verdict; a word that is none of them is not known."""
    sums = {verdict: [0, 0] for verdict in VERDICTS}
    for each, counts in conversations.items():
        total = sums.get(each.verdict) or sums[UNKNOWN]
        total[0] += counts.begun + counts.accepted
        total[1] += counts.bytes
    return {verdict: Total(*total) for verdict, total in sums.items()}


def _place(sample: Sample) -> _Place:
    if sample.name == _BUILD:
        return _Place(None, 0)
    is_egress = sample.label("direction") == _EGRESS
    if sample.name in (_BOOKS, _GAPS):
        book = Book(sample.label("interface"), sample.label("direction"))
        return _Place(book, _BOOKED if sample.name == _BOOKS else _GAP)
    key = Conversation(*(sample.label(name) for name in Conversation._fields))
    if sample.name == _FLOWS:
        return _Place(key, _SENT if is_egress else _RECEIVED)
    return _Place(key, _BEGUN if is_egress else _ACCEPTED)


def _directions(conversations: Mapping[Conversation, Counts]) -> Mapping[Conversation, str]:
    """Who began each. One that was judged anew has its connections under the verdict before."""
    found = {each: _direction(counts) for each, counts in conversations.items()}
    silent = {each[:-1] for each, direction in found.items() if direction == UNKNOWN}
    began: dict[tuple[str, ...], Counts] = {}
    for each, counts in conversations.items():
        if each[:-1] in silent:
            sums = began.get(each[:-1], Counts())
            began[each[:-1]] = Counts(*map(sum, zip(sums, counts, strict=True)))
    return {
        each: _direction(began[each[:-1]]) if direction == UNKNOWN else direction
        for each, direction in found.items()
    }


def _direction(counts: Counts) -> str:
    if counts.begun and counts.accepted:
        return "both"
    if counts.begun or counts.accepted:
        return _EGRESS if counts.begun else _INGRESS
    return UNKNOWN


def _rate(now: Counts, before: Counts | None, seconds: float | None) -> float | None:
    """A counter that is new, or has begun anew, has counted all of it since."""
    if not seconds:
        return None
    earlier = before or Counts()
    more = (
        after - then if after >= then else after
        for after, then in zip(now[:_BEGUN], earlier[:_BEGUN], strict=True)
    )
    return sum(more) / seconds


def _is_wanted(each: Conversation, direction: str, wanted: Wanted) -> bool:
    return (
        not (wanted.egress and direction == _INGRESS)
        and not (wanted.outside and each.scope in _WITHIN)
        and not (wanted.denied and each.verdict not in (DENIED, UNDECLARED, OTHER))
        and wanted.namespace in (None, each.namespace)
    )
