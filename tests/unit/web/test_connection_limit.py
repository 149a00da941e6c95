# SPDX-License-Identifier: Apache-2.0
"""The limit of connections, and which one is closed beyond it."""

import socket
from collections.abc import Iterator

import pytest

from podtally.web.connection_limit import ConnectionLimit

LIMIT = 3


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """The server's end of each connection, and the client's."""
    made = [socket.socketpair() for _ in range(LIMIT + 1)]
    yield made
    for pair in made:
        for end in pair:
            end.close()


def is_hung_up(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False


def test_exactly_this_many_may_stay(pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    clients = ConnectionLimit(LIMIT)
    for server, _ in pairs[:LIMIT]:
        clients.add(server)
    assert len(clients) == LIMIT
    assert not any(is_hung_up(client) for _, client in pairs)
    clients.add(pairs[LIMIT][0])
    assert len(clients) == LIMIT
    assert [is_hung_up(client) for _, client in pairs] == [True, False, False, False]


def test_the_last_active_connection_stays(pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    clients = ConnectionLimit(LIMIT)
    for server, _ in pairs[:LIMIT]:
        clients.add(server)
    clients.touch(pairs[0][0])
    clients.add(pairs[LIMIT][0])
    assert [is_hung_up(client) for _, client in pairs] == [False, True, False, False]


def test_a_removed_connection_makes_room(pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    clients = ConnectionLimit(LIMIT)
    for server, _ in pairs[:LIMIT]:
        clients.add(server)
    clients.remove(pairs[1][0])
    clients.add(pairs[LIMIT][0])
    assert not any(is_hung_up(client) for _, client in pairs)
