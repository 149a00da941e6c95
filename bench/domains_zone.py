# SPDX-License-Identifier: Apache-2.0
"""The names of the benchmark `domains`: shared addresses, rotation, aliases, short TTLs."""

from typing import NamedTuple

EACH = 4  # addresses of a name
_STEP = 7  # so that neighbours share some of their addresses
_ALIASES = 4
_TRUNCATED = 7


class Answer(NamedTuple):
    """What a name resolves to; ``chain`` are the aliases behind it."""

    addresses: tuple[str, ...]
    chain: tuple[str, ...]
    ttl: int
    is_truncated: bool  # over UDP: the client asks again over TCP


def name(number: int) -> str:
    return f"n{number}.d{number % 50}.example.net"


def pool(size: int, family: int) -> list[str]:
    """Return the addresses that all names share."""
    prefix = "198.18.5." if family == 4 else "2001:db8:5::"
    return [f"{prefix}{1 + each}" for each in range(size)]


def answer(asked: str, family: int, shared: int, turn: int) -> Answer:
    """Return a part of the name's addresses, which rotates with ``turn``."""
    number = int(asked.partition(".")[0][1:])
    some = pool(shared, family)
    count = 1 + number % 3
    addresses = [some[(number * _STEP + (turn + k) % EACH * 11) % shared] for k in range(count)]
    chain = tuple(f"a{each}.{number}.cdn.example.org" for each in range(number % _ALIASES))
    return Answer(tuple(dict.fromkeys(addresses)), chain, 1 + number % 5, number % _TRUNCATED == 0)
