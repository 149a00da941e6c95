# SPDX-License-Identifier: Apache-2.0
"""A gRPC server over a unix socket with responses by the test: late, in pieces, invalid."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded, WindowUpdated

OK = (("grpc-status", "0"),)


@dataclass(frozen=True)
class Answer:
    """``messages`` are framed; ``raw`` goes before them unchanged."""

    messages: tuple[bytes, ...] = ()
    trailers: tuple[tuple[str, str], ...] | None = OK  # None: none at all
    status: str = "200"
    raw: bytes = b""
    reset: bool = False
    hang: bool = False
    close: bool = False


Respond = Callable[[str, bytes], Answer]


@dataclass
class Server:
    path: Path
    asked: list[tuple[str, bytes]] = field(default_factory=list)  # method, message


@contextmanager
def serving(path: Path, respond: Respond) -> Iterator[Server]:
    server, stopped = Server(path), threading.Event()
    threads: list[threading.Thread] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def accept() -> None:
            while not stopped.is_set():
                connection, _ = listener.accept()
                worker = threading.Thread(
                    target=_serve, args=(connection, server, respond, stopped)
                )
                threads.append(worker)
                worker.start()

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield server
        finally:
            stopped.set()
            with socket.socket(socket.AF_UNIX) as last:
                last.connect(str(path))
            acceptor.join()
            for thread in threads:
                thread.join()
            path.unlink()


def _serve(
    connection: socket.socket, server: Server, respond: Respond, stopped: threading.Event
) -> None:
    with connection, suppress(ConnectionError):
        http = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        http.initiate_connection()
        connection.sendall(http.data_to_send())
        method, body = "", b""
        while data := connection.recv(1 << 16):
            for event in http.receive_data(data):
                if isinstance(event, RequestReceived):
                    named = {str(name): str(value) for name, value in event.headers or ()}
                    method = named[":path"]
                elif isinstance(event, DataReceived):
                    body += event.data or b""
                elif isinstance(event, StreamEnded):
                    server.asked.append((method, body[5:]))
                    answer = respond(method, body[5:])
                    if answer.hang:
                        stopped.wait(10)
                    if answer.hang or answer.close:
                        return
                    _answer(connection, http, answer)
            connection.sendall(http.data_to_send())


def _answer(connection: socket.socket, http: H2Connection, answer: Answer) -> None:
    if answer.reset:
        http.reset_stream(1, 8)
        return
    headers = [(":status", answer.status), ("content-type", "application/grpc")]
    data = answer.raw + b"".join(struct.pack(">BI", 0, len(m)) + m for m in answer.messages)
    trailers = list(answer.trailers) if answer.trailers is not None else None
    if not data and trailers is not None:  # PROTOCOL-HTTP2.md: Trailers-Only
        http.send_headers(1, headers + trailers, end_stream=True)
        return
    http.send_headers(1, headers)
    while data:
        room = min(http.local_flow_control_window(1), http.max_outbound_frame_size)
        while room == 0:
            connection.sendall(http.data_to_send())
            events = http.receive_data(connection.recv(1 << 16))
            if any(isinstance(event, WindowUpdated) for event in events):
                room = min(http.local_flow_control_window(1), http.max_outbound_frame_size)
        piece, data = data[:room], data[room:]
        http.send_data(1, piece, end_stream=trailers is None and not data)
        connection.sendall(http.data_to_send())
    if trailers is not None:
        http.send_headers(1, trailers, end_stream=True)
