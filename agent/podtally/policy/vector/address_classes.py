# SPDX-License-Identifier: Apache-2.0
"""Addresses that no block of a set of rules can tell apart are one class; the same for ports."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from podtally.identity.networks import ADDRESS_BITS
from podtally.policy.model import Network, PolicyPort

_MAPPED, _MAPPED_BITS = 0xFFFF, 96


class AddressClasses:
    """A number for each set of networks that an address may be in."""

    def __init__(self, networks: Iterable[Network]) -> None:
        every = sorted(set(networks))
        self._numbers: dict[tuple[Network, ...], int] = {(): 0}
        self._families = tuple(
            _starts(self._marks([n for n in every if _is_v4(n) == is_v4]))
            for is_v4 in (False, True)
        )

    def of(self, ip: int) -> int:
        """The class; of 0, an address that is not known, one of its own."""
        if not ip:
            return -1
        starts, numbers = self._families[ip >> 32 == _MAPPED]
        return numbers[bisect_right(starts, ip) - 1]

    def _marks(self, networks: list[Network]) -> Iterator[tuple[int, int]]:
        """Where a class begins, and which; networks are ascending, apart or one in the other."""
        inside: list[Network] = []
        yield 0, 0
        for network in networks:
            while inside and _end(inside[-1]) <= network.first:
                yield _end(inside.pop()), self._number(inside)
            inside.append(network)
            yield network.first, self._number(inside)
        while inside:
            yield _end(inside.pop()), self._number(inside)

    def _number(self, inside: list[Network]) -> int:
        return self._numbers.setdefault(tuple(inside), len(self._numbers))


class PortClasses:
    """A number for each stretch of ports between two bounds of rules."""

    def __init__(self, ports: Iterable[PolicyPort]) -> None:
        bounds = {bound for port in ports for bound in (port.first, port.last + 1)}
        self._bounds = sorted(bounds | {0, 1})  # 0: a port that is not known

    def of(self, port: int) -> int:
        return bisect_right(self._bounds, port)


def _starts(marks: Iterator[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Of several marks at one address the last counts."""
    found = dict(marks)
    return list(found), list(found.values())


def _is_v4(network: Network) -> bool:
    return network.bits >= _MAPPED_BITS and network.first >> 32 == _MAPPED


def _end(network: Network) -> int:
    return network.first + (1 << (ADDRESS_BITS - network.bits))
