# SPDX-License-Identifier: Apache-2.0
"""Sends blocks to ClickHouse in a thread of its own: in order, each once.

Blocks wait in the embedded store. An insert that was interrupted, also by a restart of the
agent, may have been executed: the server is queried before the block is sent again.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from podtally.history.clickhouse import (
    BlockIdentity,
    ClickHouseClient,
    ServerError,
    UncertainError,
)
from podtally.history.clickhouse_schema import InsertBlock
from podtally.supervision.conditions import Condition
from podtally.supervision.worker import Worker

log = logging.getLogger(__name__)

_POLL_SECONDS, _LONGEST_SECONDS = 1.0, 60.0
_NEXT = (
    "SELECT id, stream, number, part, rows, first, last, block FROM outbox "
    "WHERE id > ? ORDER BY id LIMIT 1"
)


class ForwarderState(NamedTuple):
    """What the forwarder has done; replaced as a whole."""

    blocks: int = 0  # confirmed since the start
    errors: int = 0
    trouble: str = ""


class Forwarder:
    """``confirm`` is called with the id of the last block that the server has."""

    def __init__(
        self,
        path: Path,
        client: ClickHouseClient,
        node: str,
        confirm: Callable[[int], None],
    ) -> None:
        self.state = ForwarderState()
        self._path = path
        self._client = client
        self._node = node
        self._confirm = confirm
        self._sent = 0  # the id of the last block that is confirmed
        self._uncertain = True  # at the start: the agent may have been killed while it sent
        self._stop = threading.Event()
        self._failing = Condition(log)
        self._worker = Worker("history to ClickHouse", self._run, log)

    def start(self) -> None:
        self._worker.start()

    def close(self) -> None:
        self._stop.set()
        self._worker.join(timeout=5)

    def _run(self) -> None:
        wait = _POLL_SECONDS
        while not self._stop.is_set():
            try:
                is_idle = not self._send_next()
                wait = _POLL_SECONDS if is_idle else 0.0
            except (ServerError, UncertainError) as error:
                wait = min(max(2 * wait, _POLL_SECONDS), _LONGEST_SECONDS)
                self._failed(str(error))
            except (sqlite3.Error, OSError) as error:
                wait = _POLL_SECONDS  # the writer makes the file, or sets it aside
                log.debug("the history cannot be read: %s", error)
            self._stop.wait(wait)

    def _send_next(self) -> bool:
        """Send the oldest block; return False if there is none."""
        found = self._next()
        if found is None:
            return False
        number, identity, block = found
        if not self._uncertain or not self._has(identity, block):
            self._uncertain = True  # until the server has answered
            self._client.insert(identity, block)
            self._uncertain = False
        # Else the block after it may be there, too: an agent that was killed may have sent it.
        self._confirmed(number)
        return True

    def _has(self, identity: BlockIdentity, block: InsertBlock) -> bool:
        if self._client.is_running(identity, block):
            raise UncertainError("the server still executes the last insert")
        rows = self._client.rows_of(identity, block)
        if rows not in (0, block.rows):
            log.error(
                "ClickHouse has %d of %d rows of batch %d, stream %s: the block is not sent again",
                rows, block.rows, identity.batch, identity.stream,
            )  # fmt: skip
        return rows > 0

    def _next(self) -> tuple[int, BlockIdentity, InsertBlock] | None:
        if not self._path.exists():
            return None
        db = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)
        try:
            row = db.execute(_NEXT, (self._sent,)).fetchone()
            if row is None and self._sent:
                # A new file, or one with other block numbers: ask for them first.
                query = "SELECT seq FROM sqlite_sequence WHERE name = 'outbox'"
                last = db.execute(query).fetchone()
                if last is None or last[0] < self._sent:
                    self._sent, self._uncertain = 0, True
        finally:
            db.close()
        if row is None:
            return None
        number, stream, batch, *block = row
        return number, BlockIdentity(self._node, stream, batch), InsertBlock(*block)

    def _confirmed(self, number: int) -> None:
        self._sent = number
        self._confirm(number)
        self.state = ForwarderState(self.state.blocks + 1, self.state.errors)
        self._failing.over("ClickHouse takes the history again")

    def _failed(self, words: str) -> None:
        self.state = self.state._replace(errors=self.state.errors + 1, trouble=words)
        self._failing.met("ClickHouse does not take the history: %s; it waits in the file", words)
