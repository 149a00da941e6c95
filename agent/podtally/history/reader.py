# SPDX-License-Identifier: Apache-2.0
"""Reads the embedded store, while the agent writes it or without one."""

import contextlib
import ipaddress
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from podtally.history.conditions import Network, where
from podtally.history.errors import StoreError
from podtally.history.flow_query import Amount, FlowAnswer, FlowQuery, FlowRow, merged, ordered
from podtally.history.label_text import label_text
from podtally.history.node_label import is_selected, with_node, without_node
from podtally.history.sqlite_schema import (
    AMOUNTS,
    AT,
    BASE_SECONDS,
    CHECK,
    CONVERSATION,
    CONVERSATION_BITS,
    MINUTE,
    TIERS,
    Tier,
)
from podtally.history.store import Store, check_identity, within
from podtally.history.text_sums import DICTIONARIES, is_wrong, verify_texts
from podtally.ledger.recording.history_rows import Batch

_BUSY_SECONDS = 10.0


class Segment(NamedTuple):
    """Intervals of a tier: from ``first`` to before ``end``."""

    tier: Tier
    first: int
    end: int


class SqliteDialect:
    is_cluster = False

    def text(self, value: str) -> str:
        return "'" + value.replace("'", "''").replace("\0", "") + "'"

    def like(self, column: str, pattern: str) -> str:
        return f"{column} GLOB {self.text(pattern.replace('[', '[[]').replace('?', '[?]'))}"

    def within(self, column: str, network: Network) -> str:
        if network.num_addresses == 1:
            return f"{column} = {self.text(str(network.network_address))}"
        return f"within_network({column}, {self.text(str(network))})"


class HistoryReader:
    """One file, opened for reading; sqlite3.Error or StoreError if it cannot be used."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise FileNotFoundError(f"there is no history {path}")
        self._db = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS,
            isolation_level=None, check_same_thread=False,
        )  # fmt: skip
        try:
            check_identity(self._db)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    def answer(self, query: FlowQuery, live: Sequence[Batch] = (), node: str = "") -> FlowAnswer:
        """Answer a query; ``live`` are batches that the file may not have yet.

        ``node`` is the one whose store it is; "": not known.
        """
        asked, query = query, without_node(query)
        selected = is_selected(asked, node)
        with self._snapshot():
            segments = plan(self._db, query)
            for segment in segments:
                verify(self._db, segment)
            verify_texts(self._db)
            parts = [select(self._db, query, segments)] if selected else [[]]
            missing = [each for each in live if each.number < 0 or not self._has(each)]
            first, last = _bounds(segments, query, _oldest(self._db))
        if missing and selected:
            parts.append(_of_batches(missing, query))
        rows = with_node(merged(parts), asked, node)
        return FlowAnswer(ordered(rows, query), first, last, len(rows))

    def _has(self, batch: Batch) -> bool:
        found = self._db.execute("SELECT number FROM stream WHERE name = ?", (batch.stream,))
        last = found.fetchone()
        return last is not None and int(last[0]) >= batch.number

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Read one state of the file, whatever is written meanwhile."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")


def answer_live(query: FlowQuery, live: Sequence[Batch], node: str = "") -> FlowAnswer:
    """Answer a query from batches alone."""
    found = _of_batches(live, without_node(query)) if is_selected(query, node) else []
    rows = with_node(found, query, node)
    first, last = _bounds([], query, 0)
    return FlowAnswer(ordered(rows, query), first, last, len(rows))


def plan(db: sqlite3.Connection, query: FlowQuery) -> list[Segment]:
    """Return the intervals that make up the window, the coarsest that fit.

    Where a tier does not retain the window's ends, they move outward to the next one's.
    """
    tiers = {
        name: (until or 0, kept or 0) for name, until, kept in db.execute("SELECT * FROM tier")
    }
    begin = int(0 if query.only_new else query.since) - BASE_SECONDS
    end = int(query.until or time.time() + 60) - BASE_SECONDS
    first = _outward(begin, tiers, up=False)
    last = _outward(end, tiers, up=True)
    segments: list[Segment] = []
    _split(segments, len(TIERS) - 1, (first, last), tiers)
    return segments


def _outward(at: int, tiers: dict[str, tuple[int, int]], up: bool) -> int:
    """Move a time to the end of an interval of the finest tier that retains it."""
    for tier in TIERS:
        interval = -(-at // tier.seconds) if up else at // tier.seconds
        if at // tier.seconds >= tiers[tier.table][1] or tier is TIERS[-1]:
            return max(0, interval * tier.seconds)
    raise AssertionError


def _split(
    segments: list[Segment],
    level: int,
    window: tuple[int, int],
    tiers: dict[str, tuple[int, int]],
) -> None:
    """Add the segments of a window, in seconds, from this tier and finer ones."""
    begin, end = window
    if begin >= end:
        return
    tier = TIERS[level]
    if tier is MINUTE:
        segments.append(Segment(tier, begin // 60, -(-end // 60)))
        return
    until, kept = tiers[tier.table]
    first = max(-(-begin // tier.seconds), kept)
    last = min(end // tier.seconds, until)
    if first >= last:
        _split(segments, level - 1, window, tiers)
        return
    _split(segments, level - 1, (begin, first * tier.seconds), tiers)
    segments.append(Segment(tier, first, last))
    _split(segments, level - 1, (last * tier.seconds, end), tiers)


def verify(db: sqlite3.Connection, segment: Segment) -> None:
    """Compare intervals with their check sums; StoreError if they differ."""
    tier, first, end = segment
    noted = {
        at: (rows, total)
        for at, rows, total in db.execute(
            "SELECT at, rows, sum FROM chunk WHERE tier = ? AND at >= ? AND at < ?",
            (tier.table, first, end),
        )
    }
    # Interval by interval: grouping by an expression of the key would sort all rows.
    read = f"SELECT count(*), total({CHECK}) FROM {tier.table} WHERE id >= ? AND id < ?"
    edge = first
    for at in sorted(noted):
        bounds = (at << CONVERSATION_BITS, at + 1 << CONVERSATION_BITS)
        if noted[at] != db.execute(read, bounds).fetchone() or _any_between(db, tier, edge, at):
            raise StoreError(f"its table {tier.table!r} is damaged")
        edge = at + 1
    if _any_between(db, tier, edge, end):
        raise StoreError(f"its table {tier.table!r} is damaged")


def _any_between(db: sqlite3.Connection, tier: Tier, first: int, end: int) -> bool:
    """Return whether there are rows of intervals that are noted nowhere."""
    if first >= end:
        return False
    query = f"SELECT 1 FROM {tier.table} WHERE {within(first, end)} LIMIT 1"
    return db.execute(query).fetchone() is not None


def select(db: sqlite3.Connection, query: FlowQuery, segments: Sequence[Segment]) -> list[FlowRow]:
    """Return the sums of the rows in segments, by the query's columns."""
    if not segments:
        return []
    db.create_function("within_network", 2, _is_within, deterministic=True)
    by = ", ".join(query.by)
    groups = f"GROUP BY {by}" if by else ""
    amounts = ", ".join(AMOUNTS)
    sums = ", ".join(f"sum({each})" for each in AMOUNTS)
    conversations = "conversation AS c" + "".join(
        f" JOIN {each} ON {each}.id = c.{each}" for each in DICTIONARIES
    )
    cost = _cost(query)
    scope = ", scope" if "scope" not in query.by and cost != "0" else ""
    kept = f"{by}{', ' if by else ''}{amounts}"
    parts = " UNION ALL ".join(
        f"SELECT {kept}{scope}, wrong, "
        f"{BASE_SECONDS} + (t.{AT}) * {tier.seconds} + span / {tier.span} AS first, "
        f"{BASE_SECONDS} + (t.{AT}) * {tier.seconds} + span % {tier.span} AS last "
        f"FROM {tier.table} AS t JOIN chosen ON chosen.conversation = t.{CONVERSATION} "
        f"WHERE {within(first, end)}"
        for tier, first, end in segments
    )
    wrong = f"{is_wrong(db, 'c')} AS wrong"
    chosen = ", ".join(("c.id AS conversation", *query.by, wrong))
    found = db.execute(
        f"WITH chosen AS MATERIALIZED (SELECT {chosen}{scope} "
        f"FROM {conversations} WHERE {where(query, SqliteDialect())}) "
        f"SELECT {by}{', ' if by else ''}{sums}, min(first), max(last), {cost}, max(wrong) "
        f"FROM ({parts}) {groups}"
    )
    width, rows = len(query.by), []
    for *row, wrong in found:
        if wrong:
            raise StoreError("its table 'conversation' is damaged")
        if row[width] is not None:
            rows.append(_row(query.by, row[:width], row[width:]))
    return rows


def _cost(query: FlowQuery) -> str:
    cases = []
    for column, prices in zip(AMOUNTS[:2], query.prices, strict=True):
        words = " ".join(
            f"WHEN {SqliteDialect().text(scope)} THEN {price:.6f}"
            for scope, price in prices.items()
        )
        if words:
            cases.append(f"{column} * CASE scope {words} ELSE 0 END")
    return f"sum(({' + '.join(cases)}) / 1e9)" if cases else "0"


def _row(by: Sequence[str], key: Sequence[object], sums: Sequence[int]) -> FlowRow:
    labels = {name: label_text(name, value) for name, value in zip(by, key, strict=True)}
    sent, received, packets_sent, packets_received, connections, first, last, cost = sums
    return FlowRow(
        labels,
        connections,
        Amount(sent, received),
        Amount(packets_sent, packets_received),
        first,
        last,
        float(cost),
    )


def _of_batches(batches: Sequence[Batch], query: FlowQuery) -> list[FlowRow]:
    """Return the sums of batches, which go through the same tables, in memory."""
    store = Store(None)
    try:
        for number, batch in enumerate(batches):
            store.write(batch._replace(number=number))
        return select(store.connection, query, plan(store.connection, query))
    finally:
        store.close()


def _oldest(db: sqlite3.Connection) -> int:
    """Return the first second that is retained, since 1970."""
    kept = dict(db.execute("SELECT name, kept FROM tier WHERE kept IS NOT NULL").fetchall())
    return min(
        (BASE_SECONDS + kept[each.table] * each.seconds for each in TIERS if each.table in kept),
        default=0,
    )


def _bounds(segments: Sequence[Segment], query: FlowQuery, oldest: int) -> tuple[int, int]:
    """Return the window that segments cover, as far as there are data."""
    now = int(time.time())
    if not segments:
        return int(query.since), int(query.until or now)
    ends = [(each.tier.seconds * each.first, each.tier.seconds * each.end) for each in segments]
    first, last = min(each[0] for each in ends), max(each[1] for each in ends)
    return max(BASE_SECONDS + first, oldest), min(BASE_SECONDS + last, now)


def _is_within(address: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network)
    except ValueError:
        return False
