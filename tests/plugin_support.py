# SPDX-License-Identifier: Apache-2.0
"""A cluster's agents for tests of ``kubectl podtally``: pods in the test API, real ports behind them."""

import os
import sys
from pathlib import Path

from podtally.plugin.agent_pods import DEFAULT_NAMESPACE
from tests.apiserver.server import ApiServer
from tests.apiserver.store import Key
from tests.apiserver.streams import PodBackend
from tests.unit.kubeconfig_files import write_config

PORT = 9775


def agent_pod(
    api: ApiServer,
    node: str,
    listening: int | None,
    namespace: str = DEFAULT_NAMESPACE,
    **environment: str,
) -> PodBackend:
    """Add the agent's pod of a node; ``listening``: the port of the real agent, None: no agent."""
    name = f"podtally-{node}"
    api.put("pods", {
        "metadata": {
            "name": name, "namespace": namespace,
            "labels": {"app.kubernetes.io/name": "podtally"},
        },
        "spec": {
            "nodeName": node,
            "containers": [
                {"name": "podtally", "ports": [{"name": "metrics", "containerPort": PORT}]}
            ],
        },
        "status": {"phase": "Running"},
    })  # fmt: skip
    ports = {} if listening is None else {PORT: ("127.0.0.1", listening)}
    sources = str(Path(__file__).parents[1] / "agent")
    variables = {**os.environ, "PYTHONPATH": sources, **environment}
    backend = PodBackend(ports, (sys.executable, "-m"), variables)
    api.backends[Key(namespace, name)] = backend
    return backend


def kubeconfig_of(api: ApiServer, folder: Path) -> Path:
    return write_config(folder, {}, {"server": api.url})
