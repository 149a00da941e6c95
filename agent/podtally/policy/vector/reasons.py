# SPDX-License-Identifier: Apache-2.0
"""Reasons for many connections, within a budget; similar ones are searched for once.

Which rule came nearest is the same for all connections that no rule tells apart: by the side,
the classes of the peer, of its address and of the port. The words are made for each.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from podtally.dns.known_names import KnownNames
from podtally.identity.networks import ADDRESS_BITS
from podtally.policy.explain.near_miss import MIN_BOTH_FAIL, NearMiss, nearest_miss
from podtally.policy.explain.reasons import direction_reason, short_reason
from podtally.policy.model import (
    INGRESS,
    Block,
    DirectionVerdict,
    DomainPeer,
    Network,
    Policy,
    PolicyPort,
    Rule,
)
from podtally.policy.reference import engine
from podtally.policy.reference.matching import RuleInput, rules_of
from podtally.policy.vector.cache import Keys

_MAPPED, _MAPPED_BITS = 0xFFFF, 96


class AddressClasses:
    """Numbers the sets of networks that an address may be in."""

    def __init__(self, networks: Iterable[Network]) -> None:
        every = sorted(set(networks))
        self._numbers: dict[tuple[Network, ...], int] = {(): 0}
        self._families = tuple(
            _starts(self._marks([n for n in every if _is_v4(n) == is_v4]))
            for is_v4 in (False, True)
        )

    def of(self, ip: int) -> int:
        """Return the class; address 0, unknown, has its own."""
        if not ip:
            return -1
        starts, numbers = self._families[ip >> 32 == _MAPPED]
        return numbers[bisect_right(starts, ip) - 1]

    def _marks(self, networks: list[Network]) -> Iterator[tuple[int, int]]:
        """Yield where each class starts; networks are ascending, disjoint or nested."""
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
    """Numbers the ranges of ports between two bounds of rules."""

    def __init__(self, ports: Iterable[PolicyPort]) -> None:
        bounds = {bound for port in ports for bound in (port.first, port.last + 1)}
        self._bounds = sorted(bounds | {0, 1})  # 0: an unknown port

    def of(self, port: int) -> int:
        return bisect_right(self._bounds, port)


def _starts(marks: Iterator[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Merge marks; the last one at an address counts."""
    found = dict(marks)
    return list(found), list(found.values())


def _is_v4(network: Network) -> bool:
    return network.bits >= _MAPPED_BITS and network.first >> 32 == _MAPPED


def _end(network: Network) -> int:
    return network.first + (1 << (ADDRESS_BITS - network.bits))


_MAX_CACHED = 1 << 11  # texts, and searches


_MAX_PLAIN_RULES = 32  # up to which arrays are slower


_ENTRIES_A_UNIT = 1024  # of rules, to search once; _SHAPED: to find what distinguishes them


_SHAPED = 32


_SEARCH = 6  # units, at least


# The nearest rules, and how many of their halves (peers, ports) do not match.
Candidates = Callable[
    [tuple[Policy, ...], "JudgedConnection"], tuple[list[tuple[Policy, Rule]], int]
]


class ReasonBudget:
    """Units of work of about 50 µs; an endpoint may use a share of them."""

    def __init__(self, units: int, share: int) -> None:
        self._units, self._share = units, share
        self.begin()

    def begin(self) -> None:
        """Refill at the beginning of an epoch."""
        self._left = self._units
        self._spent: dict[int, int] = {}

    def is_spent(self, payer: int) -> bool:
        """Return whether nothing is left."""
        return self._left <= 0 or self._spent.get(payer, 0) >= self._share

    def take(self, payer: int, units: int) -> bool:
        """Take units if enough are left; the first may exceed its share."""
        spent = self._spent.get(payer, 0)
        if self._left <= 0 or (spent and spent + units > self._share):
            return False
        self._left -= units
        self._spent[payer] = spent + units
        return True


NO_LIMIT = ReasonBudget(1 << 62, 1 << 62)


class JudgedConnection(NamedTuple):
    """A judged connection."""

    word: Keys  # (1, WORDS)
    conn: RuleInput
    payer: int  # the endpoint that pays for it
    local: int  # class
    peer: int  # class


class _Searched(NamedTuple):
    near: NearMiss | None


class _Shape(NamedTuple):
    """What distinguishes connections for one direction's policies."""

    addresses: AddressClasses
    ports: PortClasses
    size: int  # rules and their parts
    has_domains: bool


class ReasonWriter:
    """Writes reasons for one set of policies, while endpoints stay the same."""

    def __init__(self, candidates: Candidates) -> None:
        self._candidates = candidates
        self._shapes: dict[tuple[int, str], _Shape] = {}
        self._searched: dict[tuple[object, ...], _Searched] = {}
        self._texts: dict[tuple[int, bytes, KnownNames], str] = {}

    def forget_texts(self) -> None:
        """Forget texts when an endpoint changes: they contain names and labels."""
        self._texts.clear()

    def known(self, number: int, key: bytes, names: KnownNames) -> str | None:
        """Return a cached reason; ``key`` is the connection's word."""
        return self._texts.get((number, key, names))

    def text(
        self, number: int, outcome: DirectionVerdict, given: JudgedConnection, budget: ReasonBudget
    ) -> str:
        """Return the reason; beyond the budget only the deciding policies."""
        if not budget.take(given.payer, 1 + _size_of_rule(outcome.rule) // _SHAPED):
            return short_reason(outcome, given.conn.direction)
        searched: _Searched | None = _Searched(None)
        if outcome.cause == engine.ISOLATED:
            searched = self._nearest_of(number, outcome, given, budget)
        if searched is None:
            return short_reason(outcome, given.conn.direction)
        near = searched.near
        text = direction_reason(outcome, given.conn, lambda *_: near)
        if len(self._texts) >= _MAX_CACHED:
            self._texts.clear()
        self._texts[number, given.word.tobytes(), given.conn.names] = text
        return text

    def _nearest_of(
        self, number: int, outcome: DirectionVerdict, given: JudgedConnection, budget: ReasonBudget
    ) -> _Searched | None:
        """Return the nearest rule; None: no budget to search."""
        shape = self._shape(number, outcome, given, budget)
        if shape is None:
            return None
        key = _alike(number, shape, given)
        if key not in self._searched:
            if not budget.take(given.payer, _SEARCH + shape.size // _ENTRIES_A_UNIT):
                return None
            if len(self._searched) >= _MAX_CACHED:
                self._searched.clear()
            self._searched[key] = _Searched(self._search(outcome.policies, given, shape.size))
        return self._searched[key]

    def _search(
        self, policies: tuple[Policy, ...], given: JudgedConnection, size: int
    ) -> NearMiss | None:
        if size <= _MAX_PLAIN_RULES:
            return nearest_miss(_rules(policies, given.conn.direction), given.conn)
        rules, failing = self._candidates(policies, given)
        return nearest_miss(rules, given.conn, MIN_BOTH_FAIL if failing > 1 else None)

    def _shape(
        self, number: int, outcome: DirectionVerdict, given: JudgedConnection, budget: ReasonBudget
    ) -> _Shape | None:
        direction = given.conn.direction
        shape = self._shapes.get((number, direction))
        if shape is None:
            rules = [rule for _, rule in _rules(outcome.policies, direction)]
            size = sum(1 + _size_of_rule(rule) for rule in rules)
            if not budget.take(given.payer, size // _SHAPED):
                return None
            ports = (port for rule in rules for port in rule.ports or () if not port.name)
            named = any(isinstance(p, DomainPeer) for rule in rules for p in rule.peers or ())
            shape = _Shape(AddressClasses(_networks(rules)), PortClasses(ports), size, named)
            self._shapes[number, direction] = shape
        return shape


def _alike(number: int, shape: _Shape, given: JudgedConnection) -> tuple[object, ...]:
    """Equal for connections with the same nearest rule."""
    conn = given.conn
    names = None
    if conn.destination.ports is not None:
        port = (conn.protocol, conn.port)
        names = tuple(name for name, *rest in conn.destination.ports if tuple(rest) == port)
    return (
        number,
        conn.direction,
        given.local if conn.direction == INGRESS else 0,
        given.peer,
        shape.addresses.of(conn.peer_ip),
        conn.protocol,
        shape.ports.of(conn.port),
        names,
        conn.names if shape.has_domains else None,
    )


def _rules(policies: tuple[Policy, ...], direction: str) -> Iterator[tuple[Policy, Rule]]:
    return ((policy, rule) for policy in policies for rule in rules_of(policy, direction) or ())


def _networks(rules: list[Rule]) -> Iterator[Network]:
    for rule in rules:
        for peer in rule.peers or ():
            if isinstance(peer, Block):
                yield peer.network
                yield from peer.excepted


def _size_of_rule(rule: Rule | None) -> int:
    return 0 if rule is None else len(rule.peers or ()) + len(rule.ports or ())
