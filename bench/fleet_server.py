# SPDX-License-Identifier: Apache-2.0
"""An API server with the pods of many agents, all of which lead to one real agent's port.

``python -m bench.fleet_server KUBECONFIG AGENTS PORT`` writes a kubeconfig, prints a line, and
serves until its input ends.
"""

import sys
from pathlib import Path

from tests.apiserver.server import ApiServer
from tests.e2e.kube_node import kubeconfig
from tests.plugin_support import agent_pod


def main(path: Path, agents: int, port: int) -> None:
    server = ApiServer()
    for number in range(agents):
        agent_pod(server, f"node-{number:03}", port)
    kubeconfig(path, f"http://127.0.0.1:{server.port}")
    print("ready", flush=True)
    sys.stdin.read()
    server.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
