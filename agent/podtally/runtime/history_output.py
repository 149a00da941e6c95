# SPDX-License-Identifier: Apache-2.0
"""Hands committed batches of the history to its writer, and tells the ledger what is written."""

from podtally.config import History
from podtally.export.agent_metrics import AgentMetrics
from podtally.history.access import HistoryAccess
from podtally.history.retention import StoreLimits
from podtally.history.writer import HistoryWriter
from podtally.ledger.ledger import Ledger


class HistoryOutput:
    """Of one agent; without a path, it does nothing."""

    def __init__(self, settings: History, metrics: AgentMetrics) -> None:
        self._metrics = metrics
        self._writer: HistoryWriter | None = None
        self.access: HistoryAccess | None = None
        self._counted = (0, 0, 0)
        if settings.is_on:
            limits = StoreLimits(settings.max_bytes, settings.min_free_bytes)
            self._writer = HistoryWriter(settings.file, limits)
            self.access = HistoryAccess(settings.file, self._writer.report_damage)

    def start(self) -> None:
        if self._writer is not None:
            self._writer.start()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def exchange(self, ledger: Ledger) -> None:
        """Call after the checkpoint: a batch that it lacks may be made again, with other rows."""
        if self._writer is None:
            return
        recorder, state = ledger.recorder, self._writer.state
        self._writer.offer(recorder.outbox)
        if state.taken is not None:
            recorder.taken(*state.taken)
        if self.access is not None and self.access.is_wanted:
            self.access.publish([*recorder.outbox, ledger.open_minute()])
        metrics = self._metrics
        totals = (metrics.history_rows, metrics.history_errors, metrics.history_lost)
        now = (state.rows, state.errors, recorder.lost_rows)
        for total, count, counted in zip(totals, now, self._counted, strict=True):
            total.inc(max(0, count - counted))
        self._counted = now
        metrics.history_size.set(state.size)
        metrics.history_pending.set(len(recorder.outbox))
