# SPDX-License-Identifier: Apache-2.0
"""``podtally health`` against the agent's own server, and against what is none."""

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from podtally import cli
from podtally.export.publisher import Health
from tests.apiserver.certificates import Authority
from tests.unit.web.test_server import Served


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.server.close()


def health(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = cli.main(["health", *arguments])
    result = capsys.readouterr()
    return status, result.out, result.err


def test_well(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    where = f"127.0.0.1:{served.port}"
    assert health(capsys, "--listen", where) == (0, "ok\n", "")
    assert health(capsys, "--listen", where, "--ready") == (0, "ok\n", "")


def test_an_unhealthy_agent_has_a_reason(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    where = f"127.0.0.1:{served.port}"
    served.health = Health("", "no room")
    assert health(capsys, "--listen", where) == (0, "ok\n", "")
    assert health(capsys, "--listen", where, "--ready") == (1, "no room\n", "")
    served.health = Health("no epoch for 31 s", "")
    assert health(capsys, "--listen", where) == (1, "no epoch for 31 s\n", "")


def test_a_note_is_shown_although_the_agent_is_ready(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    where = f"127.0.0.1:{served.port}"
    served.health = Health("", "", "an earlier version is in force of a.yaml")
    assert health(capsys, "--listen", where) == (0, "ok\n", "")
    shown = "ok\nwarning: an earlier version is in force of a.yaml\n"
    assert health(capsys, "--listen", where, "--ready") == (0, shown, "")


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", ""])
def test_it_asks_where_the_file_says(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    path = tmp_path / "podtally.yaml"
    path.write_text(f'listen: "{host}:{served.port}"\n')
    assert health(capsys, "--config", str(path)) == (0, "ok\n", "")


def test_proxies_of_the_environment_are_not_used(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert health(capsys, "--listen", f"127.0.0.1:{served.port}")[0] == 0


def test_no_agent_answers(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:  # bound, not listening
        taken.bind(("127.0.0.1", 0))
        where = "{}:{}".format(*taken.getsockname())
        status, result, error = health(capsys, "--listen", where)
    assert (status, result) == (2, "")
    assert f"no podtally answers on {where}: Connection refused" in error


def test_another_server_answers(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        thread = threading.Thread(target=_greet, args=(other, b"SSH-2.0-OpenSSH\r\n"))
        thread.start()
        status, _, error = health(capsys, "--listen", "{}:{}".format(*other.getsockname()))
        thread.join()
    assert status == 2
    assert "no podtally answers" in error
    assert error.count("\n") == 1


def test_an_agent_that_speaks_tls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = Authority(tmp_path).issue("node-1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    with socket.create_server(("127.0.0.1", 0)) as plain:
        thread = threading.Thread(target=_answer_over_tls, args=(plain, context))
        thread.start()
        try:
            result = health(capsys, "--listen", "{}:{}".format(*plain.getsockname()))
        finally:
            thread.join()
    assert result == (0, "ok\n", "")


def _greet(server: socket.socket, words: bytes) -> None:
    """Twice: whoever is no HTTP server may be one that expects TLS."""
    for _ in range(2):
        accepted, _ = server.accept()
        with accepted:
            accepted.sendall(words)


def _answer_over_tls(server: socket.socket, context: ssl.SSLContext) -> None:
    for _ in range(2):
        accepted, _ = server.accept()
        try:
            with context.wrap_socket(accepted, server_side=True) as talk:
                assert talk.recv(4096).startswith(b"GET /livez ")
                talk.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")
        except ssl.SSLError:  # the first time: HTTP without TLS
            accepted.close()
