# SPDX-License-Identifier: Apache-2.0
"""What an agent opens first; a failure here leaves no trace."""

from contextlib import ExitStack, suppress

from podtally.config import Config
from podtally.export.log_sink import require_writable
from podtally.kernel import capabilities
from podtally.kernel.pins import Pins
from podtally.kube.api_access import api_access
from podtally.ledger.checkpoint.checkpoint import Checkpoint
from podtally.runtime.rights import needed_rights
from podtally.runtime.state_directory import StateDirectory
from podtally.web.server import WebServer
from podtally.web.unix_socket import API_SOCKET


class Opening:
    """The state directory, the pins' lock, and the server, which answers that it starts.

    Settings that can be refused without much are refused here, before anything is attached.
    """

    def __init__(self, config: Config) -> None:
        api_access(config)  # the API itself may be unreachable
        if config.flow_log:
            require_writable(str(config.flow_log), config.flow_log_max_bytes, "--flow-log")
        if config.events:
            require_writable(config.events, config.events_max_bytes, "--events")
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
