# SPDX-License-Identifier: Apache-2.0
"""An API server of a big cluster, for the agent under measurement to list and watch.

``python -m bench.kube_server KUBECONFIG`` writes a kubeconfig, prints a line, and serves until its
input ends.
"""

import sys
from pathlib import Path

from bench import cluster_objects
from tests.apiserver.server import ApiServer
from tests.e2e.kube_node import kubeconfig


def main(path: Path) -> None:
    server = ApiServer()
    for resource, items in cluster_objects.everything():
        server.store.begin_with(resource, list(items), 7)
    kubeconfig(path, f"http://127.0.0.1:{server.port}")
    print("ready", flush=True)
    sys.stdin.read()
    server.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
