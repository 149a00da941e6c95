# SPDX-License-Identifier: Apache-2.0
"""Matches DNS answers with the questions of the same endpoint; counts both.

Only an answer to a seen question counts: same addresses, ports, id and name (without case).
What is left are values for the name table and for the metrics, taken once an epoch.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from podtally.dns.message import Labels, Message, parse_message
from podtally.dns.streams import DnsStreams
from podtally.dns.wire_names import MessageError, name_text
from podtally.kernel.captured import HOST, TCP, Captured

ANSWER_NS = 10_000_000_000  # later answers were not waited for
MAX_OPEN = 1024  # questions of one endpoint without an answer; the oldest count as unanswered
MAX_OPEN_ALL, MAX_OPEN_FEW = 32768, 64  # from this many in all, one endpoint may have only a few
BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)  # seconds
_BUCKETS_NS = tuple(int(each * 1e9) for each in BUCKETS)
LONG_NAME = 52  # characters of a name: DNS tunnels use nearly all 253
MAX_LONG = 64  # domains with long names, of one endpoint in an epoch
MAX_RECENT = 4096  # queries kept for ``podtally dns`` until the next epoch

QuestionKey = tuple[bytes, bytes, int, int, int, int]


class OpenQuestion(NamedTuple):
    labels: Labels
    type: int
    at_ns: int  # when it was first asked
    fine_ns: int
    asked: int = 1


class Answer(NamedTuple):
    """Addresses that an endpoint got for a name."""

    endpoint: int
    at_ns: int
    resolver: bytes
    name: str
    chain: tuple[str, ...]
    addresses: tuple[bytes, ...]
    ttl: int
    is_hint: bool = False  # of a service record: rules by name do not count it
    via: int = 0  # the interface by which it reached the host, as in Captured


class Exchange(NamedTuple):
    """What is counted of one question: ``rcode`` is -1 if nothing answered it."""

    endpoint: int
    resolver: bytes
    type: int
    rcode: int


class Observed(NamedTuple):
    """What was seen since the last time; endpoints are interface indexes."""

    answers: list[Answer]
    exchanges: Mapping[Exchange, int]
    seconds: Mapping[int, tuple[int, list[int]]]  # sum in ns, and counts by bucket
    truncated: Mapping[int, int]
    unsolicited: Mapping[int, int]
    unreadable: Mapping[int, int]
    lost: frozenset[int]  # of these endpoints, messages are missing
    long_names: Mapping[tuple[int, str], int]
    dropped: Mapping[int, int]  # messages, or pieces of them, that the kernel could not store


class RecentQuery(NamedTuple):
    """One answered or unanswered question, for ``podtally dns``."""

    at_ns: int
    endpoint: int
    resolver: bytes
    name: str
    type: int
    rcode: int
    duration_ns: int  # -1: no answer


class DnsTracker:
    """The open questions of all endpoints, and what was observed since the last ``take``."""

    def __init__(self) -> None:
        self._open: dict[int, dict[QuestionKey, OpenQuestion]] = {}
        self._count = 0  # of all open questions
        self._streams = DnsStreams()
        self.recent: list[RecentQuery] = []
        self._reset()

    def _reset(self) -> None:
        self._answers: list[Answer] = []
        self._exchanges: Counter[Exchange] = Counter()
        self._seconds: dict[int, tuple[int, list[int]]] = {}
        self._truncated: Counter[int] = Counter()
        self._unsolicited: Counter[int] = Counter()
        self._unreadable: Counter[int] = Counter()
        self._long: Counter[tuple[int, str]] = Counter()
        self._lost: set[int] = set()
        self._dropped: dict[int, int] = {}

    def add(self, captured: Captured) -> None:
        """Take in one captured piece of DNS."""
        if captured.protocol != TCP:
            self._add_message(captured, captured.data)
            return
        key = (*captured[2:6], captured.is_sent)
        gaps = self._streams.gaps
        messages = self._streams.add(captured.endpoint, key, captured.sequence, captured.data)
        if self._streams.gaps != gaps and not captured.is_sent:
            self._lost.add(captured.endpoint)
        for each in messages:
            self._add_message(captured._replace(is_cut=False), each)

    def _add_message(self, captured: Captured, data: bytes) -> None:
        try:
            message = parse_message(data)
        except MessageError:
            self._unreadable[captured.endpoint] += 1
            return
        if message is None:
            return
        key = (*captured[2:7], message.id)
        if captured.is_sent:
            if not message.is_response:
                self._asked(captured, key, message)
        elif message.is_response:
            self._answered(captured, key, message)

    def _asked(self, captured: Captured, key: QuestionKey, message: Message) -> None:
        questions = self._open.setdefault(captured.endpoint, {})
        before = questions.get(key)
        if before is not None and before.labels == message.labels and before.type == message.type:
            questions[key] = before._replace(asked=before.asked + 1)
            return
        if len(questions) >= (MAX_OPEN if self._count < MAX_OPEN_ALL else MAX_OPEN_FEW):
            first = next(iter(questions))
            self._unanswered(captured.endpoint, first, questions.pop(first))
        self._count += key not in questions
        questions[key] = OpenQuestion(
            message.labels, message.type, captured.at_ns, captured.fine_ns
        )
        if sum(map(len, message.labels)) > LONG_NAME:
            self._note_long(captured.endpoint, message.labels)

    def _answered(self, captured: Captured, key: QuestionKey, message: Message) -> None:
        endpoint = captured.endpoint
        if captured.via == endpoint != HOST:  # its own packet, which the host sent back
            self._unsolicited[endpoint] += 1
            return
        questions = self._open.get(endpoint, {})
        asked = questions.get(key)
        if asked is None or (asked.labels, asked.type) != (message.labels, message.type):
            self._unsolicited[endpoint] += 1
            return
        if asked.asked > 1:
            questions[key] = asked._replace(asked=asked.asked - 1)
        else:
            del questions[key]
            self._count -= 1
        took = captured.fine_ns - asked.fine_ns
        self._exchanges[Exchange(endpoint, captured.remote, message.type, message.rcode)] += 1
        self._observe(endpoint, took)
        name = name_text(message.labels)
        self._note(captured, name, message, took)
        if message.is_truncated:
            self._truncated[endpoint] += 1
        if message.is_cut or captured.is_cut:
            self._lost.add(endpoint)
        if message.addresses:
            chain = tuple(map(name_text, message.chain))
            found = (message.addresses, message.ttl, message.is_hint, captured.via)
            answer = (captured.remote, name, chain, *found)
            self._answers.append(Answer(endpoint, captured.at_ns, *answer))

    def _observe(self, endpoint: int, took_ns: int) -> None:
        total, counts = self._seconds.get(endpoint) or (0, [0] * (len(BUCKETS) + 1))
        bucket = 0
        for bound in _BUCKETS_NS:
            if took_ns <= bound:
                break
            bucket += 1
        counts[bucket] += 1
        self._seconds[endpoint] = (total + max(took_ns, 0), counts)

    def _note(self, captured: Captured, name: str, message: Message, took: int) -> None:
        if len(self.recent) < MAX_RECENT:
            what = (captured.endpoint, captured.remote, name, message.type, message.rcode, took)
            self.recent.append(RecentQuery(captured.at_ns, *what))

    def _note_long(self, endpoint: int, labels: Labels) -> None:
        key = (endpoint, name_text(labels[-3:]))
        if key in self._long or len(self._long) < MAX_LONG * max(len(self._open), 1):
            self._long[key] += 1

    def _unanswered(self, endpoint: int, key: QuestionKey, asked: OpenQuestion) -> None:
        self._count -= 1
        self._exchanges[Exchange(endpoint, key[1], asked.type, -1)] += 1
        if len(self.recent) < MAX_RECENT:
            name = name_text(asked.labels)
            query = RecentQuery(asked.at_ns, endpoint, key[1], name, asked.type, -1, -1)
            self.recent.append(query)

    def note_lost(self, dropped: Mapping[int, int]) -> None:
        """Note how many messages of endpoints the kernel dropped, since the last time."""
        self._lost.update(dropped)
        self._dropped.update(dropped)

    def take(self, now_ns: int) -> Observed:
        """Return what was seen since the last call; questions without an answer time out."""
        for endpoint, questions in list(self._open.items()):
            while questions:  # in the order of asking
                key = next(iter(questions))
                if questions[key].at_ns > now_ns - ANSWER_NS:
                    break
                self._unanswered(endpoint, key, questions.pop(key))
            if not questions:
                del self._open[endpoint]
        taken = Observed(
            answers=self._answers,
            exchanges=self._exchanges,
            seconds=self._seconds,
            truncated=self._truncated,
            unsolicited=self._unsolicited,
            unreadable=self._unreadable,
            lost=frozenset(self._lost),
            long_names=self._long,
            dropped=self._dropped,
        )
        self._reset()
        return taken

    # -- the checkpoint ------------------------------------------------------------------

    def open_questions(self) -> list[tuple[int, QuestionKey, OpenQuestion]]:
        """Return the questions that may still be answered."""
        return [
            (endpoint, key, question)
            for endpoint, questions in self._open.items()
            for key, question in questions.items()
        ]

    def restore(self, questions: Iterable[tuple[int, QuestionKey, OpenQuestion]]) -> None:
        for endpoint, key, question in questions:
            self._open.setdefault(endpoint, {})[key] = question
            self._count += 1
