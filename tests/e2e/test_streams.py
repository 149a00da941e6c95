# SPDX-License-Identifier: Apache-2.0
"""Ports and commands of a real pod: the streams as containerd serves them to the kubelet.

The API server and the kubelet hand the WebSocket through to the runtime unchanged, so this is the
other end of ``kubectl podtally``; only they are missing between.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from podtally.kube.access import Access, ApiServerAddress
from podtally.kube.credentials import FileCredentials
from podtally.kube.port_forward import ForwardedConnection
from podtally.kube.remote_exec import ExecResult, read_output
from podtally.runtimes.cri_proto import bytes_field, number_field
from tests.e2e.cri_node import CriNode, PodSpec, cri_node, lacking
from tests.e2e.images import BLOB_BYTES

POD = PodSpec("shop", "web-0", "1f6c9b1e-5d2a-4e1b-9c3d-000000000009", (("app", "web"),))
PORT, SILENT_PORT = 8080, 8081
SECONDS = 60.0


@pytest.fixture
def node(bpffs: Path, tmp_path: Path) -> Iterator[CriNode]:
    missing = lacking()
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (scripts/setup --dev)")
    with cri_node(tmp_path / "node") as made:
        yield made


def stream(node: CriNode, method: str, request: bytes) -> tuple[Access, str]:
    """Ask the runtime for a stream, as the kubelet does; returns where it is."""
    response = node.call(method, request)
    url = urlsplit(response[2:].decode())  # field 1, shorter than 128 bytes
    assert url.hostname is not None
    assert url.port is not None
    return Access(ApiServerAddress(url.hostname, url.port, tls=False), FileCredentials()), url.path


def forwarded(node: CriNode, sandbox: str, port: int) -> ForwardedConnection:
    access, path = stream(node, "PortForward", bytes_field(1, sandbox) + number_field(2, port))
    connection = ForwardedConnection(access, "", port, SECONDS)
    connection.target = path
    connection.connect()
    return connection


def execute(node: CriNode, container: str, *command: str) -> ExecResult:
    words = b"".join(bytes_field(2, word) for word in command)
    shown = number_field(5, 1) + number_field(6, 1)
    access, path = stream(node, "Exec", bytes_field(1, container) + words + shown)
    return read_output(access, path, SECONDS)


def ask(connection: ForwardedConnection) -> bytes:
    connection.request("GET", "/blob")
    return connection.getresponse().read()


def until(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_ports_and_commands_of_a_real_pod(node: CriNode) -> None:
    sandbox = node.run_pod(POD)
    container = node.start(POD, sandbox, "httpd", "-f", "-p", str(PORT), "-h", "/www")
    try:
        until(
            lambda: (
                execute(
                    node,
                    container,
                    "wget",
                    "-q",
                    "-O",
                    "/dev/null",
                    f"http://127.0.0.1:{PORT}/blob",
                ).code
                == 0
            )
        )
        connection = forwarded(node, sandbox, PORT)
        assert len(ask(connection)) == BLOB_BYTES
        connection.close()
        connection = forwarded(node, sandbox, SILENT_PORT)
        with pytest.raises(ConnectionError, match="refused"):
            ask(connection)
        connection.close()

        script = "echo out; echo err >&2; exit 23"
        assert execute(node, container, "sh", "-c", script) == (23, b"out\n", b"err\n")
        much = execute(node, container, "sh", "-c", "head -c 1000000 /dev/zero")
        assert (much.code, len(much.out), much.error) == (0, 1_000_000, b"")
    finally:
        node.remove_pod(sandbox)
