# SPDX-License-Identifier: Apache-2.0
"""The embedded store: writes batches to a SQLite file, each once, and rolls them up.

One writer, in a thread of its own; readers open the file for themselves. What a store does to
stay within its limits is in ``retention``.
"""

import contextlib
import itertools
import os
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from podtally.history import incoming, text_sums
from podtally.history.clickhouse_schema import InsertBlock
from podtally.history.conversation_numbers import ConversationNumbers
from podtally.history.errors import StoreError
from podtally.history.recent_numbers import RecentNumbers
from podtally.history.sqlite_schema import (
    AMOUNTS,
    APPLICATION,
    AT,
    BASE_SECONDS,
    CHECK,
    CONVERSATION,
    CONVERSATION_BITS,
    CREATE,
    MINUTE,
    TIERS,
    VERSION,
    Tier,
)
from podtally.history.text_sums import DICTIONARIES
from podtally.ledger.recording.history_rows import Batch, RowLabels

GRACE_SECONDS = 120  # after an interval, for rows that were waiting for a name
_PAGE = 4096
_CACHE_KIB = 2048
_MAX_IDS = 4_000  # of texts in a batch that are remembered
_SUFFIXES = ("", "-wal", "-shm")
_SUMS = ", ".join(f"sum({each})" for each in AMOUNTS)


class Store:
    """Opens or makes the file; sqlite3.Error, OSError or StoreError if that fails.

    Without a path, it is in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path or Path(":memory:")
        is_new = path is None or _make(path)
        self._ids: RecentNumbers[tuple[str, ...]] = RecentNumbers(_MAX_IDS)  # of texts
        self._conversations = ConversationNumbers()
        self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            self._set_up(is_new)
        except BaseException:
            self._db.close()
            raise

    @property
    def remembered(self) -> int:
        """Return how many numbers of texts and conversations are kept in memory."""
        return len(self._ids) + len(self._conversations.remembered)

    @property
    def connection(self) -> sqlite3.Connection:
        return self._db

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
        except BaseException:
            self._forget_numbers()  # they may be of rows that are undone
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # -- batches --------------------------------------------------------------------------

    def written(self, stream: str) -> int:
        """Return the number of a stream's last batch; -1 without one."""
        found = self._db.execute("SELECT number FROM stream WHERE name = ?", (stream,)).fetchone()
        return -1 if found is None else int(found[0])

    def write(self, batch: Batch, blocks: Iterable[InsertBlock] = ()) -> bool:
        """Write a batch in one transaction; return False if the store has it already.

        ``blocks`` are kept for ClickHouse, until its server has them.
        """
        if batch.number <= self.written(batch.stream):
            return False
        with self.transaction() as db:
            self._add_batch(batch)
            for block in blocks:
                db.execute(
                    "INSERT INTO outbox (stream, number, part, rows, first, last, block) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (batch.stream, batch.number, *block),
                )
            db.execute(
                "INSERT INTO stream VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET number = excluded.number",
                (batch.stream, batch.number),
            )
        self._conversations.remembered.end_batch()
        self._ids.end_batch()
        self._db.execute("PRAGMA shrink_memory")  # the next batch is a minute away
        return True

    def _add_batch(self, batch: Batch) -> None:
        """Add rows to the minutes, and to those hours and days that are rolled up already."""
        rows = batch.rows
        ids = np.array([self._label_ids(each) for each in batch.labels], np.int64)
        keys = incoming.ConversationKeys(rows, ids.reshape(-1, len(DICTIONARIES)))
        conversations = np.array(self._conversations.numbers(self._db, keys), np.int64)
        text_sums.fill(self._db)
        for tier in TIERS:
            at = incoming.intervals(rows, tier)
            self._db.execute(
                "UPDATE tier SET until = ?1, kept = ?1 WHERE name = ?2 AND kept IS NULL",
                (int(at.min(initial=sys.maxsize)), tier.table),
            )
            some = np.ones(len(at), np.bool_) if tier is MINUTE else at < self.until(tier)
            if some.any():
                added = incoming.tier_rows(rows.take(some), conversations[some], tier)
                self._db.executemany(
                    f"INSERT INTO {tier.table} VALUES (?, ?, ?, ?, ?, ?, ?) {_upsert(tier)}", added
                )
                self._check(tier, np.unique(at[some]).tolist())

    def _label_ids(self, labels: RowLabels) -> list[int]:
        found, begin = [], 0
        for name, columns in DICTIONARIES.items():
            found.append(self._id(name, labels[begin : begin + len(columns)]))
            begin += len(columns)
        return found

    def _id(self, table: str, values: tuple[str, ...]) -> int:
        known = self._ids.find((table, *values))
        if known is not None:
            return known
        columns = DICTIONARIES[table]
        places = ", ".join("?" * len(columns))
        self._db.execute(
            f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({places})", values
        )
        where = " AND ".join(f"{each} = ?" for each in columns)
        [number] = self._db.execute(f"SELECT id FROM {table} WHERE {where}", values).fetchone()
        self._ids.put((table, *values), int(number))
        return int(number)

    def _check(self, tier: Tier, intervals: Sequence[int]) -> None:
        """Bring the check sums of intervals up to date."""
        for at in intervals:
            self._db.execute(
                f"INSERT OR REPLACE INTO chunk SELECT '{tier.table}', {at}, count(*), "
                f"total({CHECK}) FROM {tier.table} WHERE {within(at, at + 1)}"
            )

    # -- roll-ups -------------------------------------------------------------------------

    def until(self, tier: Tier) -> int:
        """Return up to which interval (exclusive) a tier has sums of the finer one."""
        return self._of_tier(tier, "until")

    def kept(self, tier: Tier) -> int:
        """Return the first interval that a tier retains."""
        return self._of_tier(tier, "kept")

    def roll_up(self, now: int) -> None:
        """Sum up the hours and days that are over at ``now`` (seconds since 1970)."""
        for finer, tier in itertools.pairwise(TIERS):
            self._roll_up(finer, tier, (now - GRACE_SECONDS - BASE_SECONDS) // tier.seconds)

    def _roll_up(self, finer: Tier, tier: Tier, end: int) -> None:
        """Sum up intervals before ``end``; rows that come later are added to them at once."""
        until = self.until(tier)
        if not 0 < until < end:
            return
        factor = tier.seconds // finer.seconds
        part = f"({AT}) % {factor} * {finer.seconds}"
        where = within(until * factor, end * factor)
        with self.transaction() as db:
            db.execute(
                f"INSERT INTO {tier.table} "
                f"SELECT ({AT}) / {factor} << {CONVERSATION_BITS} | ({CONVERSATION}) AS place, "
                f"{_SUMS}, min({part} + span / {finer.span}) * {tier.span} "
                f"+ max({part} + span % {finer.span}) "
                f"FROM {finer.table} WHERE {where} GROUP BY place {_upsert(tier)}"
            )
            summed = db.execute(
                f"SELECT DISTINCT at / {factor} FROM chunk WHERE tier = '{finer.table}' "
                f"AND at >= {until * factor} AND at < {end * factor}"
            )
            self._check(tier, [at for (at,) in summed.fetchall()])
            db.execute("UPDATE tier SET until = ? WHERE name = ?", (end, tier.table))

    # -- removal --------------------------------------------------------------------------

    def bounds(self, tier: Tier) -> tuple[int, int]:
        """Return the first and the last interval with rows; (0, -1) without any."""
        query = f"SELECT (SELECT min(id) FROM {tier.table}), (SELECT max(id) FROM {tier.table})"
        first, last = self._db.execute(query).fetchone()
        if first is None:
            return 0, -1
        return first >> CONVERSATION_BITS, last >> CONVERSATION_BITS

    def remove(self, tier: Tier, end: int) -> int:
        """Remove a tier's intervals before ``end``, which the next tier then has; return how
        many rows.
        """
        if tier is not TIERS[-1]:
            coarser = TIERS[TIERS.index(tier) + 1]
            self._roll_up(tier, coarser, -(-end * tier.seconds // coarser.seconds))
        with self.transaction() as db:
            removed = db.execute(f"DELETE FROM {tier.table} WHERE {before(end)}").rowcount
            db.execute(f"DELETE FROM chunk WHERE tier = '{tier.table}' AND at < {end}")
            db.execute(f"UPDATE tier SET kept = max(kept, {end}) WHERE name = '{tier.table}'")
            if tier is TIERS[-1]:
                self._remove_unused()
        return removed

    def remove_blocks(self, last: int) -> None:
        """Remove blocks up to an id: the server has them."""
        with self.transaction() as db:
            db.execute("DELETE FROM outbox WHERE id <= ?", (last,))

    def remove_block(self) -> int | None:
        """Remove the oldest block for ClickHouse; None if there is none."""
        with self.transaction() as db:
            oldest = "SELECT min(id) FROM outbox"
            return db.execute(f"DELETE FROM outbox WHERE id = ({oldest})").rowcount or None

    def waiting_bytes(self) -> int:
        """Return the size of the blocks that wait for ClickHouse."""
        return int(self._db.execute("SELECT total(length(block)) FROM outbox").fetchone()[0])

    def _remove_unused(self) -> None:
        """Remove conversations, and their texts, that no retained interval has."""
        used = " UNION ".join(f"SELECT {CONVERSATION} FROM {tier.table}" for tier in TIERS)
        self._db.execute(f"DELETE FROM conversation WHERE id NOT IN ({used})")
        for name in DICTIONARIES:
            used = f"SELECT {name} FROM conversation"
            self._db.execute(f"DELETE FROM {name} WHERE id NOT IN ({used})")
        self._forget_numbers()

    def _forget_numbers(self) -> None:
        self._ids.clear()
        self._conversations = ConversationNumbers()

    def _of_tier(self, tier: Tier, column: str) -> int:
        query = f"SELECT {column} FROM tier WHERE name = ?"
        return int(self._db.execute(query, (tier.table,)).fetchone()[0] or 0)

    # -- the file -------------------------------------------------------------------------

    def size(self) -> int:
        """Return the bytes of the file and of what belongs to it."""
        return sum(_size(self.path.with_name(self.path.name + each)) for each in _SUFFIXES)

    def free_inside(self) -> int:
        """Return the bytes of the file that can be used again."""
        return self._page_count("freelist_count") * _PAGE

    def shrink(self) -> None:
        """Give free pages back to the file system."""
        self._db.execute("PRAGMA incremental_vacuum").fetchall()
        self.truncate_log()

    def truncate_log(self) -> None:
        """Move the write-ahead log into the file, as far as readers permit."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _page_count(self, pragma: str) -> int:
        return int(self._db.execute(f"PRAGMA {pragma}").fetchone()[0])

    def _set_up(self, is_new: bool) -> None:
        db = self._db
        if is_new:
            db.execute(f"PRAGMA page_size = {_PAGE}")
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL").fetchall()
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        db.execute("PRAGMA temp_store = MEMORY")
        db.execute("PRAGMA journal_size_limit = 4194304").fetchall()
        db.execute("PRAGMA busy_timeout = 5000").fetchall()
        if is_new:
            db.executescript(f"BEGIN; {CREATE} COMMIT;")
        check_identity(db)
        with self.transaction():
            text_sums.prepare(db)
        text_sums.verify_texts(db, conversations=True)


def _make(path: Path) -> bool:
    """Make the file if it is not there, or empty; return whether it was made."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    if path.exists() and path.stat().st_size:
        return False
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640))
    return True


def _upsert(tier: Tier) -> str:
    """Return how a row is added to one that is there already."""
    span = tier.span
    added = ", ".join(f"{each} = {each} + excluded.{each}" for each in AMOUNTS)
    return (
        f"ON CONFLICT (id) DO UPDATE SET {added}, "
        f"span = min(span / {span}, excluded.span / {span}) * {span} "
        f"+ max(span % {span}, excluded.span % {span})"
    )


def before(at: int) -> str:
    """Return the condition on rows of intervals before ``at``."""
    return f"id < {at << CONVERSATION_BITS}"


def within(first: int, end: int) -> str:
    """Return the condition on rows of intervals from ``first`` to before ``end``."""
    return f"id >= {first << CONVERSATION_BITS} AND {before(end)}"


def check_identity(db: sqlite3.Connection) -> None:
    """Raise StoreError unless the file is a store of this version."""
    [application] = db.execute("PRAGMA application_id").fetchone()
    [version] = db.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION:
        raise StoreError("it is no history of podtally")
    if version != VERSION:
        raise StoreError(f"it has version {version}, this podtally reads {VERSION}")


def set_aside(path: Path) -> Path:
    """Rename a file that cannot be used, so that it can be examined; the last one is replaced.

    One is kept: a disk that damages files must not be filled with them.
    """
    aside = path.with_name(f"{path.name}.unusable")
    for suffix in _SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).replace(aside.with_name(aside.name + suffix))
    return aside


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
