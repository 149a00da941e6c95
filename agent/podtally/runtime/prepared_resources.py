# SPDX-License-Identifier: Apache-2.0
"""What an agent opens before it attaches anything; a failure here leaves no trace."""

from contextlib import ExitStack, suppress

from podtally.config import Config
from podtally.config.node_name import node_name
from podtally.export.agent_metrics import AgentMetrics
from podtally.export.event_log import EventLog, EventOrigin
from podtally.export.expected import ExpectedMatcher
from podtally.export.flow_log import FlowLog
from podtally.kernel import capabilities
from podtally.kernel.pins import Pins
from podtally.kube.api_access import api_access
from podtally.ledger.checkpoint.checkpoint import Checkpoint
from podtally.runtime.history_output import HistoryOutput
from podtally.runtime.rights import needed_rights
from podtally.runtime.state_directory import StateDirectory
from podtally.web.server import WebServer
from podtally.web.unix_socket import API_SOCKET


class PreparedResources:
    """The state directory, the pins' lock, the listening server and the logs."""

    def __init__(self, config: Config) -> None:
        api_access(config)  # refuses wrong settings now; the API itself may be unreachable
        self.flow_log: FlowLog | None = None
        self.event_log: EventLog | None = None
        self._config = config
        with ExitStack() as opened:
            self.state = StateDirectory(config.state_dir)
            opened.callback(self.state.close)
            self.checkpoint = Checkpoint(config.state_dir)
            self.server = WebServer(
                config.listen_address(), config.web_config_file, config.state_dir / API_SOCKET
            )
            opened.callback(self.server.close)
            self.pins = Pins(config.pin_dir)
            opened.callback(self.pins.close)
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
            self.server.listen("loading the kernel programs", self._give_up_rights)
            self._opened = opened.pop_all()

    def _give_up_rights(self) -> None:
        """Give up what the running agent does not need, in a thread that serves clients.

        The main thread still loads programs.
        """
        with suppress(OSError):  # the main thread finds it, and says so
            capabilities.keep_in_thread(needed_rights(self._config))

    def close(self) -> None:
        self._opened.close()
