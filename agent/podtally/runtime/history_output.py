# SPDX-License-Identifier: Apache-2.0
"""Hands committed batches of the history to its writer, and reports what is written."""

from podtally.config import History
from podtally.export.agent_metrics import AgentMetrics
from podtally.history.access import HistoryAccess
from podtally.history.clickhouse import ClickHouseClient
from podtally.history.clickhouse_schema import blocks
from podtally.history.forwarder import Forwarder
from podtally.history.retention import StoreLimits
from podtally.history.writer import HistoryWriter
from podtally.ledger.ledger import Ledger


class HistoryOutput:
    """Of one agent; without a path, it does nothing."""

    def __init__(self, settings: History, node: str, metrics: AgentMetrics) -> None:
        self._metrics = metrics
        self._writer: HistoryWriter | None = None
        self._forwarder: Forwarder | None = None
        self.access: HistoryAccess | None = None
        self._counted: tuple[int, int, int] | None = None
        if not settings.is_on:
            return
        limits = StoreLimits(settings.max_bytes, settings.min_free_bytes)
        if not settings.clickhouse.url:
            self._writer = HistoryWriter(settings.file, limits)
        else:
            self._writer = HistoryWriter(settings.file, limits, lambda batch: blocks(batch, node))
            client = ClickHouseClient(settings.clickhouse)
            self._forwarder = Forwarder(settings.file, client, node, self._writer.confirm)
        self.access = HistoryAccess(settings.file, self._writer.report_damage, node)

    def start(self) -> None:
        if self._writer is not None:
            self._writer.start()
        if self._forwarder is not None:
            self._forwarder.start()

    def close(self) -> None:
        if self._forwarder is not None:
            self._forwarder.close()
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
        errors = state.errors + (self._forwarder.state.errors if self._forwarder else 0)
        now = (state.rows, errors, recorder.lost_rows)
        # What earlier agents lost is in the checkpoint, and in the metric.
        counted = self._counted or (0, 0, recorder.lost_rows)
        for total, count, before in zip(totals, now, counted, strict=True):
            total.inc(max(0, count - before))
        self._counted = now
        metrics.history_size.set(state.size)
        metrics.history_pending.set(len(recorder.outbox))
