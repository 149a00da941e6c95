# SPDX-License-Identifier: Apache-2.0
"""``podtally top``: the address of the page, and what is printed if it is down, or not podtally."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import pytest

from podtally import cli
from podtally.commands.shared import exit_codes
from tests.unit.commands.top_support import METRICS, books, printed


class _Page(http.server.BaseHTTPRequestHandler):
    status: ClassVar[int] = 200
    body: ClassVar[bytes] = b""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def serving(body: bytes, status: int = 200) -> Iterator[str]:
    handler = type("_This", (_Page,), {"body": body, "status": status})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def top(*arguments: str) -> int:
    return cli.main(["top", *arguments])


def test_what_is_not_a_terminal_gets_the_totals_once(capsys: pytest.CaptureFixture[str]) -> None:
    with serving((METRICS + books()).encode()) as where:
        assert top("--listen", where) == 0
    assert capsys.readouterr().out == printed(METRICS + books())


def test_books_that_do_not_close_are_a_finding(capsys: pytest.CaptureFixture[str]) -> None:
    with serving((METRICS + books("23")).encode()) as where:
        assert top("--listen", where, "--once", "--namespace", "shop", "--limit", "1") == 1
        assert capsys.readouterr().out.count("\n") == 4
        assert top("--listen", where, "--output", "json") == 1
    assert '"bytes": 23' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, b"not found\n", "has no /metrics: 'status 404'; is it podtally"),
        (200, b"<html>\x1b[2J</html>", "is not podtally's: 'there is no podtally_build_info'"),
        (200, b'podtally_flow_bytes_total{a="\x1b"', "is not podtally's: 'not a line of the Prometheus"),
        (200, b"\xff\xfe", "is not podtally's"),
    ],
)  # fmt: skip
def test_another_server_is_not_podtally(
    status: int, body: bytes, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(body, status) as where:
        assert top("--listen", where) == exit_codes.USAGE_ERROR
    result = capsys.readouterr()
    assert (result.out, result.err.count("\n")) == ("", 1)
    assert words in result.err
    assert where in result.err
    assert "\x1b" not in result.err


def test_no_agent_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert top("--listen", "127.0.0.1:1") == exit_codes.USAGE_ERROR
    assert "no podtally answers on 127.0.0.1:1: Connection refused" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--interval", "0"],
        ["--interval", "nan"],
        ["--interval", "-1"],
        ["--limit", "0"],
        ["--limit", "x"],
    ],
)
def test_wrong_use(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        top(*arguments)
    assert ended.value.code == exit_codes.USAGE_ERROR
    assert f"argument {arguments[0]}" in capsys.readouterr().err
