# SPDX-License-Identifier: Apache-2.0
"""The HTTP client, byte by byte."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from podtally.kube.access import Access, ApiServerAddress
from podtally.kube.credentials import FileCredentials
from podtally.kube.http import (
    ApiError,
    BrokenError,
    Client,
    ConnectError,
    ContactError,
    SilentError,
)
from tests.unit.kube_support import QUICK

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@contextmanager
def answering(*pieces: bytes, stays: bool = False) -> Iterator[Client]:
    """Give a client of a server that answers one request with ``pieces``, and closes (or stays)."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.recv(65536)
            for piece in pieces:
                connection.sendall(piece)
                over.wait(0.01)
            if stays:
                over.wait(5)

    thread = threading.Thread(target=serve)
    thread.start()
    port = listener.getsockname()[1]
    client = Client(
        Access(ApiServerAddress("127.0.0.1", port, tls=False), FileCredentials()), QUICK
    )
    try:
        yield client
    finally:
        over.set()
        client.drop()
        thread.join()
        listener.close()


def all_lines(client: Client) -> list[bytes]:
    lines = client.lines("/", "application/json")
    read: list[bytes] = []
    while True:
        try:
            read += lines.read()
        except EOFError:
            return read


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
def test_lines_do_not_depend_on_how_they_were_cut_into_chunks(size: int) -> None:
    text = b'{"a":1}\n{"b":22}\n\n{"c":333}\n'
    parts = [chunk(text[at : at + size]) for at in range(0, len(text), size)]
    with answering(CHUNKED, *parts, b"0\r\n\r\n") as client:
        assert all_lines(client) == [b'{"a":1}', b'{"b":22}', b'{"c":333}']


def test_a_line_longer_than_any_buffer() -> None:
    line = b"x" * 1_000_003
    with answering(CHUNKED + chunk(line + b"\n" + b"y\n") + b"0\r\n\r\n") as client:
        assert all_lines(client) == [line, b"y"]


@pytest.mark.parametrize(
    "rest",
    [
        chunk(b"one\ntwo") + b"0\r\n\r\n",  # ends well, but within a line
        chunk(b"one\n") + b"5\r\ntw",
        chunk(b"one\n") + b"5",
        chunk(b"one\n"),
    ],
)
def test_an_answer_that_is_cut_is_broken(rest: bytes) -> None:
    with answering(CHUNKED + rest) as client, pytest.raises(BrokenError, match="cut"):
        all_lines(client)


def test_a_body_that_is_cut_is_broken() -> None:
    head = b"Content-Length: 23\r\n\r\n"
    with answering(OK + head + b"half") as client, pytest.raises(BrokenError, match="cut"):
        client.get("/", "application/json")


def test_what_is_not_http() -> None:
    with answering(b"SSH-2.0-OpenSSH_9.2\r\n") as client, pytest.raises(BrokenError):
        client.get("/", "application/json")


def test_silence_within_a_line_and_within_a_body() -> None:
    with answering(CHUNKED + chunk(b"half"), stays=True) as client, pytest.raises(SilentError):
        all_lines(client)
    part = OK + b"Content-Length: 23\r\n\r\nhalf"
    with answering(part, stays=True) as client, pytest.raises(SilentError):
        client.get("/", "application/json")


@pytest.mark.parametrize(
    ("head", "body", "seconds", "message"),
    [
        (b"429 Too Many Requests\r\nRetry-After: 7", b"{}", 7.0, ""),
        (b"429 Too Many Requests\r\nRetry-After: Wed, 21 Oct 2026 07:28:00 GMT", b"{}", 0.0, ""),
        (b"503 Unavailable", b'{"message":"m","details":{"retryAfterSeconds":3}}', 3.0, "m"),
        (b"502 Bad Gateway", b"<html>proxy</html>", 0.0, "<html>proxy</html>"),
    ],
)
def test_errors(head: bytes, body: bytes, seconds: float, message: str) -> None:
    answer = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (head, len(body), body)
    with answering(answer) as client, pytest.raises(ApiError) as caught:
        client.get("/", "application/json")
    status = caught.value.status
    assert (status.code, status.retry_after_seconds) == (int(head[:3]), seconds)
    assert status.message == message


def test_an_interrupt_ends_waiting_and_later_calls() -> None:
    with answering(CHUNKED, stays=True) as client:
        lines = client.lines("/", "application/json")
        timer = threading.Timer(0.05, client.interrupt)
        timer.start()
        with pytest.raises(ContactError):
            lines.read()
        with pytest.raises(ConnectError, match="interrupted"):
            client.get("/", "application/json")
        timer.join()


def test_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = Client(
        Access(ApiServerAddress("127.0.0.1", port, tls=False), FileCredentials()), QUICK
    )
    with pytest.raises(ConnectError, match="Connection refused"):
        client.get("/", "application/json")
