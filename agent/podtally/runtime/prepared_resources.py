# SPDX-License-Identifier: Apache-2.0
"""What a running agent writes to, beside what it opened first."""

from contextlib import ExitStack

from podtally.config import Config
from podtally.config.node_name import node_name
from podtally.export.agent_metrics import AgentMetrics
from podtally.export.event_log import EventLog, EventOrigin
from podtally.export.expected import ExpectedMatcher
from podtally.export.flow_log import FlowLog
from podtally.runtime.history_output import HistoryOutput
from podtally.runtime.opening import Opening


class PreparedResources:
    """The logs, the metrics and the history, over the state directory and the server."""

    def __init__(self, config: Config, opening: Opening) -> None:
        self.opening = opening
        self.state, self.checkpoint = opening.state, opening.checkpoint
        self.server, self.pins = opening.server, opening.pins
        self.flow_log: FlowLog | None = None
        self.event_log: EventLog | None = None
        with ExitStack() as opened:
            if config.flow_log:
                self.flow_log = FlowLog(config.flow_log, config.flow_log_max_bytes)
                opened.callback(self.flow_log.close)
            if config.events:
                limits = (config.events_max_bytes, config.events_rate)
                origin = EventOrigin(
                    config.cluster_name or "", node_name(config), ExpectedMatcher(config.expected)
                )
                self.event_log = EventLog(config.events, *limits, origin)
                opened.callback(self.event_log.close)
            self.metrics = AgentMetrics()
            self.history = HistoryOutput(config.history, node_name(config), self.metrics)
            opened.callback(self.history.close)
            self._opened = opened.pop_all()

    def close(self) -> None:
        self._opened.close()
