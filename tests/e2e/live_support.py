# SPDX-License-Identifier: Apache-2.0
"""What the tests of ``--live`` share: calls, a shop's objects, and a server with given answers."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from podtally import cli
from tests.apiserver.store import Object
from tests.unit.kubeconfig_files import write_config

DENY_STRAYS = {
    "metadata": {"name": "strays"},
    "spec": {
        "tier": "Admin",
        "priority": 10,
        "subject": {"pods": {"podSelector": {"matchLabels": {"role": "gone"}}}},
        "egress": [{"action": "Deny", "to": [{"networks": ["203.0.113.0/24"]}]}],
    },
}


class CommandResult(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., CommandResult]


def runner(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> CommandResult:
        status = cli.main([str(argument) for argument in arguments])
        result = capsys.readouterr()
        return CommandResult(status, result.out, result.err)

    return run


def pod(name: str, address: str, **labels: str) -> Object:
    return {
        "metadata": {"namespace": "shop", "name": name, "labels": labels},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "shop:1"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    }


def live(folder: Path, url: str, token: str = "t") -> tuple[str, ...]:
    path = write_config(folder, {"token": token}, {"server": url})
    return "--live", "--kubeconfig", str(path)


class Scripted:
    """A server with given answers to paths; to others it answers 404."""

    def __init__(self, answers: Callable[[str], tuple[int, Any] | None]) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                status = {"kind": "Status", "reason": "NotFound", "message": "not there"}
                code, body = answers(self.path) or (404, status)
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> "Scripted":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
