# SPDX-License-Identifier: Apache-2.0
"""The name of this node, as the API, events and the history have it."""

import os
import socket

from podtally.config.settings import Config


def node_name(config: Config) -> str:
    """Return the configured name, NODE_NAME (downward API), or as the kubelet: the host name in
    lower case.
    """
    return config.node_name or os.environ.get("NODE_NAME") or socket.gethostname().lower()
