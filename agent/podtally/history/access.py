# SPDX-License-Identifier: Apache-2.0
"""Answers queries in the running agent: from the file, and from what is not written yet."""

import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from podtally.errors import PodtallyError
from podtally.history.errors import StoreError
from podtally.history.flow_query import FlowAnswer, FlowQuery
from podtally.history.reader import HistoryReader, answer_live
from podtally.ledger.recording.history_rows import Batch

MAX_QUERIES = 2  # at once; others wait
_LIVE_SECONDS = 5.0  # how long to wait for the present minute


class HistoryAccess:
    """``answer`` is called by HTTP threads, the rest by the main thread, once an epoch.

    ``report_damage`` has the writer set the file aside.
    """

    def __init__(self, path: Path, report_damage: Callable[[str], None], node: str = "") -> None:
        self._path, self._node = path, node
        self._report_damage = report_damage
        self._room = threading.BoundedSemaphore(MAX_QUERIES)
        self._published = threading.Condition()
        self._waiting = 0
        self._epoch = 0
        self._live: Sequence[Batch] = ()

    @property
    def is_wanted(self) -> bool:
        """Return whether a query waits for the present minute."""
        return self._waiting > 0

    def publish(self, live: Sequence[Batch]) -> None:
        with self._published:
            self._live = tuple(live)
            self._epoch += 1
            self._published.notify_all()

    def answer(self, query: FlowQuery) -> FlowAnswer:
        """Answer a query; PodtallyError if that is not possible."""
        live = self._present()
        with self._room:
            try:
                reader = HistoryReader(self._path)
            except FileNotFoundError:
                return answer_live(query, live, self._node)
            except (sqlite3.Error, OSError, StoreError) as error:
                raise self._unreadable(error) from None
            try:
                return reader.answer(query, live, self._node)
            except (sqlite3.Error, StoreError) as error:
                raise self._unreadable(error) from None
            finally:
                reader.close()

    def _present(self) -> Sequence[Batch]:
        """Wait for the end of the epoch; return what the file may lack."""
        with self._published:
            self._waiting += 1
            epoch = self._epoch
            self._published.wait_for(lambda: self._epoch > epoch, _LIVE_SECONDS)
            self._waiting -= 1
            return self._live

    def _unreadable(self, error: Exception) -> PodtallyError:
        if isinstance(error, StoreError | sqlite3.DatabaseError) and not isinstance(
            error, sqlite3.OperationalError
        ):
            self._report_damage(str(error))
        return PodtallyError(
            f"the history {self._path} cannot be read: {error}",
            "see the agent's log; a damaged file is set aside",
        )
