# SPDX-License-Identifier: Apache-2.0
"""Writes the flow log and the event log after an epoch; a failure costs no epoch."""

import datetime
import logging
import time

from podtally.export.agent_metrics import AgentMetrics
from podtally.export.event_log import EventLog
from podtally.export.flow_log import FlowLog
from podtally.ledger.closed import ClosedConnections
from podtally.ledger.events.events import Events
from podtally.supervision.conditions import Condition

log = logging.getLogger(__name__)


class LogOutput:
    """Both logs of an agent, as far as they are configured."""

    def __init__(
        self,
        flow_log: FlowLog | None,
        event_log: EventLog | None,
        metrics: AgentMetrics,
        events_interval_ns: int,
    ) -> None:
        self._flow_log, self._event_log = flow_log, event_log
        self._metrics = metrics
        self._events_interval_ns = events_interval_ns
        self._flow_log_failing, self._event_log_failing = Condition(log), Condition(log)

    def write_flows(self, closed: list[ClosedConnections]) -> None:
        """Write connections that ended; what cannot be written is lost and counted."""
        if self._flow_log is None:
            return
        try:
            now = datetime.datetime.now(datetime.UTC)
            written = self._flow_log.write(closed, time.monotonic_ns(), now)
        except OSError as error:
            self._metrics.flow_log_errors.inc()
            self._flow_log_failing.met("cannot write the flow log: %s", error)
            return
        if written:
            self._flow_log_failing.over("the flow log is written again")

    def write_events(self, events: Events) -> None:
        """Write events that are due. Call after the checkpoint: an event that is written again
        after a kill has the same sums.
        """
        if self._event_log is None:
            return
        now_ns = time.monotonic_ns()
        index, due = events.due(self._event_log.room(now_ns), self._events_interval_ns, now_ns)
        try:
            self._event_log.write(due, now_ns, datetime.datetime.now(datetime.UTC))
        except OSError as error:
            self._metrics.event_log_errors.inc()
            self._event_log_failing.met(
                "cannot write events: %s; they are kept, and tried again", error
            )
            return
        if due:
            self._event_log_failing.over("events are written again")
        events.mark_reported(index, now_ns)
        self._metrics.events_pending.set(events.pending)
        self._metrics.events_logged.inc(len(due))
