# SPDX-License-Identifier: Apache-2.0
"""Reads captured DNS messages and ClientHellos, and keeps the table of domain names.

The ring buffer is a journal: what an epoch took from it is given back after its checkpoint, so a
killed agent's successor reads it again. A thread parses ahead; the main thread takes the
result once an epoch, after the fence, so that an epoch's rows find all names sent before them.
"""

import logging
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import msgspec
import numpy as np

from podtally.config import Config
from podtally.dns.domain_table import RECORD, DomainTable, SavedTable, lost, restored
from podtally.dns.doubts import Doubts
from podtally.dns.known_names import ENCRYPTED_DNS, NAMES_OFF
from podtally.dns.peer_naming import DomainInputs
from podtally.dns.server_names import (
    NO_SERVER_NAMES,
    HelloTracker,
    SentName,
    restored_names,
)
from podtally.dns.server_names import RECORD as HELLO_RECORD
from podtally.dns.tracker import DnsTracker, Observed, OpenQuestion, QuestionKey, RecentQuery
from podtally.kernel.captured import HOST
from podtally.kernel.piece_ring import PieceRing
from podtally.kernel.pins import Generation
from podtally.ledger.checkpoint.checkpoint import Parts
from podtally.ledger.checkpoint.saved import Saved, SavedError, encode
from podtally.supervision.worker import Worker

log = logging.getLogger(__name__)

_PART = "names"
_READ_SECONDS = 0.1  # between two readings of the ring buffer
_AT_ONCE = 512 << 10  # bytes that are parsed before others get the lock
_FORGET_NS = 60_000_000_000  # how long names of a removed interface are kept
_DNS_OVER_TLS = 853
_MAX_RECENT = 8192  # queries kept for ``podtally dns``
# Servers of DNS over HTTPS that clients use by default; others cannot be told from web servers.
_DNS_OVER_HTTPS = {
    *("dns.google", "dns64.dns.google", "cloudflare-dns.com", "mozilla.cloudflare-dns.com"),
    *("one.one.one.one", "chrome.cloudflare-dns.com", "dns.quad9.net", "dns.nextdns.io"),
    *("doh.opendns.com", "dns.adguard.com", "dns.adguard-dns.com", "doh.cleanbrowsing.org"),
}


class _SavedNames(msgspec.Struct, frozen=True):
    generation: str
    position: int  # in the ring buffer
    table: SavedTable
    questions: list[tuple[int, QuestionKey, OpenQuestion]]
    server_names: list[str]
    lost: dict[int, int] = {}  # pieces of this generation, by interface


class CollectedNames(NamedTuple):
    """What an epoch gets."""

    inputs: DomainInputs
    observed: Observed | None = None  # None: names are off


class NameCapture:
    """Over the ring buffer of one generation; without one, no names are known."""

    def __init__(self, config: Config) -> None:
        self._wanted = frozenset(config.names_from)
        self.names_from: frozenset[str] = frozenset()  # what is captured
        self.trouble = ""
        self.recent: tuple[RecentQuery, ...] = ()  # replaced as a whole: HTTP threads read it
        self.inputs = DomainInputs(missing=NAMES_OFF)
        self._tracker, self._hellos = DnsTracker(), HelloTracker()
        self._longest_ttl = int(config.longest_ttl)
        self._table = DomainTable(doubts=Doubts(longest_ttl=self._longest_ttl))
        self._server_names = NO_SERVER_NAMES
        self._ring: PieceRing | None = None
        self._generation = ""
        self._saved: Parts = {}
        self._position = 0
        self._before: _SavedNames | None = None
        self._lost: dict[int, int] = {}  # pieces, by interface
        self._absent: dict[int, int] = {}  # removed interfaces with names, since when
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._worker = Worker("names", self._follow, log)

    # -- start and stop ------------------------------------------------------------------------

    def open(self, generation: Generation, names_from: frozenset[str]) -> None:
        """Go on where the checkpoint ended; ``names_from`` is what the kernel captures."""
        self.names_from = names_from
        missing = sorted(self._wanted - self.names_from)
        if missing:
            self.trouble = (
                f"this kernel cannot capture {' and '.join(missing)} (it has no ring buffers, "
                "or refuses the programs): peers outside have no domain names"
            )
            log.warning("%s; counting is not affected", self.trouble)
        if not self.names_from:
            return
        self._ring = PieceRing(generation)
        self._generation = generation.about.generation
        if self._before is not None and self._before.generation == self._generation:
            self._ring.skip_to(self._before.position)
            self._lost = dict(self._before.lost)

    def drain(self, old: Generation) -> None:
        """Read what the programs of an earlier generation captured; they do not run any more."""
        if "messages" not in old.maps or old.about.layout.piece is None:
            return
        ring = PieceRing(old)
        try:
            if self._before is not None and self._before.generation == old.about.generation:
                ring.skip_to(self._before.position)
            self._process(ring, ring.written)
        finally:
            ring.close()

    def start(self) -> None:
        if self._ring is not None:
            self._worker.start()

    def close(self) -> None:
        self._stop.set()
        self._worker.join()
        if self._ring is not None:
            self._ring.close()
            self._ring = None

    @property
    def alive(self) -> bool:
        return self._ring is None or self._worker.alive

    @property
    def thread_trouble(self) -> str:
        return self._worker.trouble

    def _follow(self) -> None:
        while not self._stop.wait(_READ_SECONDS):
            ring = self._ring
            if ring is None:
                return
            self._catch_up(ring, ring.written)

    def _catch_up(self, ring: PieceRing, until: int) -> None:
        while ring.position < until and not self._stop.is_set():
            with self._lock:
                before = ring.position
                self._process(ring, min(until, before + _AT_ONCE))
            if ring.position == before:
                return  # a piece that is being written

    def _process(self, ring: PieceRing, until: int) -> None:
        for captured in ring.read(until):
            if captured.is_hello:
                self._hellos.add(captured)
            else:
                self._tracker.add(captured)

    # -- once an epoch ---------------------------------------------------------------------------

    def collect(
        self,
        resolvers: Collection[bytes],
        senders: Mapping[int, Collection[bytes]],
        present: Collection[int],
        lost_pieces: Mapping[int, int],
    ) -> CollectedNames:
        """Return what is known now.

        ``resolvers`` are trusted, ``senders`` as in ``DomainTable.trust``; ``present`` are the
        watched interfaces, ``lost_pieces`` those that the kernel has dropped on them.
        """
        ring, now_ns = self._ring, time.monotonic_ns()
        if ring is None:
            return CollectedNames(self.inputs)
        self._catch_up(ring, ring.written)
        with self._lock:
            self._tracker.note_lost(self._newly_lost(lost_pieces))
            observed, sent = self._tracker.take(now_ns), self._hellos.take(now_ns)
            questions, self._position = self._tracker.open_questions(), ring.position
            if self._tracker.recent:
                self.recent = (*self.recent, *self._tracker.recent)[-_MAX_RECENT:]
                self._tracker.recent = []
        gone = self._gone(present, now_ns)
        missing = [*lost(observed.lost), *_encrypted(sent)]
        self._table = self._table.updated(observed.answers, now_ns, missing, gone)
        self._server_names = self._server_names.updated(sent, now_ns, gone)
        self.inputs = DomainInputs(
            table=self._table,
            server_names=self._server_names,
            trusted=self._table.trust(resolvers, senders),
            trusted_resolvers=frozenset(resolvers),
            wall_offset=(time.time_ns() - now_ns) / 1e9,
            missing=0 if "dns" in self.names_from else NAMES_OFF,
            is_on=True,
            reads_tls="tls" in self.names_from,
        )
        self._save(questions)
        return CollectedNames(self.inputs, observed)

    def _newly_lost(self, lost_pieces: Mapping[int, int]) -> Mapping[int, int]:
        newly = {i: count - self._lost.get(i, 0) for i, count in lost_pieces.items()}
        self._lost = {i: count for i, count in lost_pieces.items() if count}
        return {i: count for i, count in newly.items() if count > 0}

    def _gone(self, present: Collection[int], now_ns: int) -> set[int]:
        """Return the interfaces that can be forgotten."""
        known = set(np.unique(self._table.records["endpoint"]).tolist())
        known |= self._table.doubts.endpoints
        absent = known - set(present) - {HOST}
        self._absent = {each: self._absent.get(each, now_ns) for each in absent}
        return {each for each, since in self._absent.items() if now_ns - since > _FORGET_NS}

    # -- the checkpoint ----------------------------------------------------------------------------

    def _save(self, questions: list[tuple[int, QuestionKey, OpenQuestion]]) -> None:
        values = _SavedNames(
            generation=self._generation,
            position=self._position,
            table=self._table.values(),
            questions=questions,
            server_names=list(self._server_names.texts),
            lost=self._lost,
        )
        hellos = self._server_names.records
        arrays = {"records": self._table.records, "hellos": hellos.view(f"V{hellos.itemsize}")}
        self._saved = {_PART: Saved(encode(values), arrays)}

    def save(self) -> Parts:
        """Return what ``collect`` knew."""
        return self._saved

    def release(self) -> None:
        """Give back what was collected: the checkpoint has it."""
        if self._ring is not None:
            self._ring.release(self._position)

    def restore(self, parts: Parts) -> None:
        """Go on with a checkpoint; SavedError if its part cannot be read."""
        if _PART not in parts:
            return
        saved = parts[_PART]
        values = saved.decode(_SavedNames)
        try:
            records = saved.array("records").view(RECORD).reshape(-1)
            hellos = saved.array("hellos").view(HELLO_RECORD).reshape(-1)
            now_ns = time.monotonic_ns()
            self._table = restored(records, values.table, now_ns, self._longest_ttl)
            self._server_names = restored_names(hellos, values.server_names)
        except (ValueError, TypeError) as error:
            raise SavedError(f"{_PART}: {error}") from None
        self._tracker.restore(values.questions)
        self._before, self._saved = values, parts and {_PART: saved}


def _encrypted(sent: list[SentName]) -> Iterable[tuple[int, int]]:
    """Return ``missing`` for endpoints that ask where their questions cannot be read."""
    return {
        (each.captured.endpoint, ENCRYPTED_DNS)
        for each in sent
        if each.captured.remote_port == _DNS_OVER_TLS or each.name in _DNS_OVER_HTTPS
    }
