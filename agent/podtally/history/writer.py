# SPDX-License-Identifier: Apache-2.0
"""Writes batches to the embedded store in a thread of its own: no epoch waits for the disk.

What cannot be written stays with the ledger, and is offered again. A store that is damaged is
set aside, and a new one is started.
"""

import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from podtally.history.clickhouse_schema import InsertBlock
from podtally.history.errors import StoreError
from podtally.history.retention import Retention, StoreLimits, missing_bytes
from podtally.history.store import Store, set_aside
from podtally.ledger.recording.history_rows import Batch
from podtally.supervision.conditions import Condition
from podtally.supervision.worker import Worker

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
_WAITING_PART = 4  # of max_bytes: one part in four is for what waits for ClickHouse
_DAMAGED = ("malformed", "not a database", "disk image", "corrupt")


class TakenBatch(NamedTuple):
    """All batches of a stream up to ``number`` are in the store."""

    stream: str
    number: int


class WriterState(NamedTuple):
    """What the writer has done; replaced as a whole."""

    taken: TakenBatch | None = None
    rows: int = 0  # written since the start
    errors: int = 0
    size: int = 0  # bytes
    lost_blocks: int = 0  # that ClickHouse did not get
    trouble: str = ""


class HistoryWriter:
    """``encode`` makes the blocks of a batch for ClickHouse; None: there is no server."""

    def __init__(
        self,
        path: Path,
        limits: StoreLimits,
        encode: Callable[[Batch], Iterable[InsertBlock]] | None = None,
    ) -> None:
        self.state = WriterState()
        self.path = path
        self._limits = limits
        self._encode = encode
        self._offered: Sequence[Batch] = ()
        self._wake = threading.Event()
        self._stopped = False
        self._damage = ""
        self._confirmed = 0  # the last block that ClickHouse has
        self._failing, self._full, self._behind = (Condition(log) for _ in range(3))
        self._worker = Worker("history", self._run, log)

    def start(self) -> None:
        self._worker.start()

    def close(self) -> None:
        """Finish the batch that is being written."""
        self._stopped = True
        self._wake.set()
        self._worker.join(timeout=30)

    def offer(self, batches: Sequence[Batch]) -> None:
        """Have committed batches written; those that the store has already are skipped."""
        self._offered = tuple(batches)
        if batches:
            self._wake.set()

    def report_damage(self, words: str) -> None:
        """Have the file set aside: a reader has found it damaged. From any thread."""
        self._damage = words
        self._wake.set()

    def confirm(self, block: int) -> None:
        """Note the id of the last block that ClickHouse has. From any thread."""
        self._confirmed = block
        self._wake.set()

    # -- in the thread --------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopped:
            try:
                with _Lock(self.path):
                    if self.path.exists() or missing_bytes(self.path.parent, self._limits) < 0:
                        self._keep_store()
                    else:  # even an empty store takes room
                        self._lacks_room()
            except (sqlite3.Error, StoreError, OSError) as error:
                self._failed(error)
            if not self._stopped:
                self._wait(RETRY_SECONDS)

    def _keep_store(self) -> None:
        store = Store(self.path)
        try:
            retention = Retention(store, self._limits)
            while not self._stopped:
                if self._damage:
                    words, self._damage = self._damage, ""
                    raise StoreError(words)
                if self._confirmed:
                    last, self._confirmed = self._confirmed, 0
                    store.remove_blocks(last)
                has_room = self._write_offered(store, retention)
                self._wait(None if has_room else RETRY_SECONDS)
        finally:
            store.close()

    def _write_offered(self, store: Store, retention: Retention) -> bool:
        """Write what is offered; return False if the disk has no room."""
        for batch in self._offered:
            if self._stopped:
                break
            if not retention.has_room():
                retention.enforce()
            if not retention.has_room():
                self._lacks_room()
                return False
            is_new = store.write(batch, self._encode(batch) if self._encode is not None else ())
            self._bound_blocks(store)
            store.roll_up(int(time.time()))
            retention.enforce()
            rows = len(batch.rows.minute) if is_new else 0
            self._wrote(TakenBatch(batch.stream, batch.number), rows, store.size())
        return True

    def _bound_blocks(self, store: Store) -> None:
        """Keep what waits for ClickHouse within its share of the limit: the oldest is lost."""
        if self._encode is None:
            return
        lost = 0
        while store.waiting_bytes() > self._limits.max_bytes // _WAITING_PART:
            if store.remove_block() is None:
                break
            lost += 1
        if lost:
            self.state = self.state._replace(lost_blocks=self.state.lost_blocks + lost)
            self._behind.met("ClickHouse has been away for too long: its oldest minutes are lost")

    def _wrote(self, taken: TakenBatch, rows: int, size: int) -> None:
        before = self.state
        self.state = before._replace(taken=taken, rows=before.rows + rows, size=size, trouble="")
        self._failing.over("the history is written again")
        self._full.over("the history is written again")

    def _lacks_room(self) -> None:
        least = self._limits.min_free_bytes
        self.state = self.state._replace(
            errors=self.state.errors + 1, trouble="the disk has too little free space"
        )
        self._full.met(
            "the history is not written: the disk of %s has less than %d bytes free "
            "(history.min_free_bytes); nothing else is affected",
            self.path,
            least,
        )

    def _failed(self, error: Exception) -> None:
        words = str(error) or type(error).__name__
        self.state = self.state._replace(errors=self.state.errors + 1, trouble=words)
        if _is_damaged(error):
            aside = set_aside(self.path)
            log.error(
                "the history %s cannot be used: %s; it is now %s, and a new one is started",
                self.path,
                words,
                aside,
            )
            return
        self._failing.met(
            "cannot write the history %s: %s; nothing else is affected", self.path, words
        )

    def _wait(self, seconds: float | None) -> None:
        self._wake.wait(seconds)
        if not self._stopped:
            self._wake.clear()


class _Lock:
    """Keeps other agents from the same file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        self._path = path.with_name(path.name + ".lock")

    def __enter__(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o640)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise OSError("another podtally writes it; use another path for one of them") from None

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _is_damaged(error: Exception) -> bool:
    if isinstance(error, StoreError):
        return True
    return isinstance(error, sqlite3.DatabaseError) and any(each in str(error) for each in _DAMAGED)
