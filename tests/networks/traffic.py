# SPDX-License-Identifier: Apache-2.0
"""Conversations between namespaces, over IPv4 and IPv6."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from tests.e2e.policy_world import SIZE, TIMES, receive
from tests.kernel.links_support import inside
from tests.patience import FACTOR

SECONDS = 30.0 * FACTOR
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


def socket_in(netns: str, version: int, kind: int) -> socket.socket:
    """A socket in a namespace; "" is the caller's."""

    def make() -> socket.socket:
        if not netns:
            return socket.socket(FAMILIES[version], kind)
        with inside(netns):
            return socket.socket(FAMILIES[version], kind)

    if not netns:
        made = make()
    else:  # so that a failure never leaves our thread elsewhere
        with ThreadPoolExecutor(1) as other:
            made = other.submit(make).result()
    made.settimeout(SECONDS)
    return made


@contextmanager
def connected(
    client: str, server: str, to: tuple[str, int], port: int, source: str = ""
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection from a namespace to another, where ``port`` listens for what goes ``to``."""
    version = 6 if ":" in to[0] else 4
    with socket_in(server, version, STREAM) as listener, socket_in(client, version, STREAM) as end:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", port))
        listener.listen()
        if source:
            end.bind((source, 0))
        end.connect(to)
        answering, _ = listener.accept()
        answering.settimeout(SECONDS)
        with answering:
            yield end, answering


def exchange(asking: socket.socket, answering: socket.socket) -> None:
    for _ in range(TIMES):
        asking.sendall(bytes(SIZE))
        receive(answering, SIZE)
        answering.sendall(bytes(SIZE))
        receive(asking, SIZE)


def converse(client: str, server: str, to: tuple[str, int], port: int, source: str = "") -> None:
    """A connection that carries data both ways, and ends."""
    with connected(client, server, to, port, source) as ends:
        exchange(*ends)


def datagrams(client: str, server: str, address: str, port: int) -> None:
    """Ask by UDP, and be answered; the first ones may be lost while a neighbour is found."""
    version = 6 if ":" in address else 4
    with socket_in(server, version, DATAGRAM) as there, socket_in(client, version, DATAGRAM) as end:
        there.bind((address, port))
        end.settimeout(1.0)
        end.connect((address, port))
        for _ in range(int(SECONDS)):
            with suppress(TimeoutError):
                end.send(bytes(SIZE))
                _, sender = there.recvfrom(SIZE)
                there.sendto(bytes(SIZE), sender)
                end.recv(SIZE)
                return
    raise AssertionError(f"no answer from {address}:{port}")
