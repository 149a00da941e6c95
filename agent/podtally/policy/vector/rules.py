# SPDX-License-Identifier: Apache-2.0
"""Policies and rules compiled for the vector engine, and the index of rules in long lists."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.arrays.packed_fields import PackedFields
from podtally.policy.model import EGRESS, INGRESS, Block, DomainPeer, Policy, Rule
from podtally.policy.reference.matching import applies_in
from podtally.policy.vector.addresses import BlockRanges
from podtally.policy.vector.cache import KEY_WORDS, unique_rows
from podtally.policy.vector.classes import EndpointClasses
from podtally.policy.vector.endpoints import ConnectionBatch
from podtally.policy.vector.ragged import Indices, RaggedLists
from podtally.policy.vector.selectors import NO


class CompiledRule(NamedTuple):
    rule: Rule
    slots: tuple[int, ...] = ()  # peers by labels
    ranges: BlockRanges | None = None  # peers by address
    domains: tuple[DomainPeer, ...] = ()  # peers by name
    everyone: bool = False


class CompiledPolicy(NamedTuple):
    policy: Policy
    subject: int  # a slot
    ingress: tuple[CompiledRule, ...] | None
    egress: tuple[CompiledRule, ...] | None

    def rules(self, is_egress: bool) -> tuple[CompiledRule, ...] | None:
        return self.egress if is_egress else self.ingress

    def domains(self) -> Iterator[DomainPeer]:
        for rule in (*(self.ingress or ()), *(self.egress or ())):
            yield from rule.domains

    def applies_in(self, is_egress: bool) -> bool:
        return applies_in(self.policy, EGRESS if is_egress else INGRESS)


def compile_policy(policy: Policy, classes: EndpointClasses) -> CompiledPolicy:
    def each(rules: tuple[Rule, ...] | None) -> tuple[CompiledRule, ...] | None:
        if rules is None:
            return None
        return tuple(_rule(rule, policy.namespace, classes) for rule in rules)

    subject = classes.slot(policy.subject, policy.namespace)
    return CompiledPolicy(policy, subject, each(policy.ingress), each(policy.egress))


def _rule(rule: Rule, namespace: str, classes: EndpointClasses) -> CompiledRule:
    if rule.peers is None:
        return CompiledRule(rule, everyone=True)
    blocks = [peer for peer in rule.peers if isinstance(peer, Block)]
    slots = [
        classes.slot(peer, namespace)
        for peer in rule.peers
        if not isinstance(peer, Block | DomainPeer)
    ]
    domains = tuple(peer for peer in rule.peers if isinstance(peer, DomainPeer))
    return CompiledRule(rule, tuple(slots), BlockRanges(blocks) if blocks else None, domains)


_PAIRS = 1 << 17  # in one batch, which bounds memory


_SOME = 64  # expected candidates of a connection, beside rules tried on all


_K1, _K2, _K3 = (np.uint64(k | 1) for k in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB1331))


_CLASSES = PackedFields(peer=31, destination=32)
_PORTS = PackedFields(protocol=8, port=32, names=20)  # port: between which bounds


_64, _ALL = 64, (1 << 64) - 1


Words64 = NDArray[np.uint64]


class _RuleNetworks(NamedTuple):
    """Networks of one length: hashes, ascending, and the rule of each."""

    bits: int
    hashes: Words64
    place: Indices


class RuleIndex:
    """Index of a list's rules by their peers; places are positions in the list."""

    def __init__(self, rules: list[CompiledRule | None], classes: EndpointClasses) -> None:
        self._classes = classes
        self.size = len(rules)
        tried: list[int] = []
        ranged: list[int] = []
        slots: list[int] = []
        owners: list[int] = []
        lists: list[int] = []
        named: list[int] = []
        networks: dict[int, list[tuple[int, int]]] = {}
        for place, rule in enumerate(rules):
            if rule is None or rule.everyone:
                tried.append(place)
                continue
            slots += rule.slots
            owners += [place] * len(rule.slots)
            lists += [classes.names.number(peer) for peer in rule.domains]
            named += [place] * len(rule.domains)
            if rule.ranges is not None:
                ranged.append(place)
            for peer in rule.rule.peers or ():
                if isinstance(peer, Block):
                    networks.setdefault(peer.network.bits, []).append((peer.network.first, place))
        self._tried, self._ranged = np.array(tried, np.int64), np.array(ranged, np.int64)
        self._slots, self._owners = np.array(slots, np.int64), np.array(owners, np.int64)
        self._lists, self._named = np.array(lists, np.int64), np.array(named, np.int64)
        self._networks = [_networks(bits, each) for bits, each in networks.items()]

    def parts(self, batch: ConnectionBatch) -> Iterator[tuple[Indices, Indices]]:
        """Yield rows with a place that may match each; a row is complete in one batch, in order."""
        step = max(1, _PAIRS // (len(self._tried) + _SOME))
        for start in range(0, len(batch.peer), step):
            part = batch.take(slice(start, start + step))
            found = np.unique(np.concatenate(list(self._pairs(part))))
            yield start + found // self.size, found % self.size

    def _pairs(self, batch: ConnectionBatch) -> Iterator[Indices]:
        """Return row * ``size`` + place, with duplicates."""
        high, low = batch.high, batch.low
        yield _product(np.arange(len(low)), self._tried, self.size)
        unknown = np.flatnonzero((high | low) == 0)
        yield _product(unknown, self._ranged, self.size)
        for bits, hashes, place in self._networks:
            asked = _hashes(bits, high, low)
            first = np.searchsorted(hashes, asked, side="left")
            last = np.searchsorted(hashes, asked, side="right")
            owner, at = RaggedLists(first, last - first).members()
            yield owner * self.size + place[at]
        peers, of_row = np.unique(batch.peer, return_inverse=True)
        for number, peer in enumerate(peers.tolist()):
            matches = self._classes.table.at(self._slots, peer)
            selected = self._owners[matches != NO]
            yield _product(np.flatnonzero(of_row.ravel() == number), selected, self.size)
        if len(self._lists):
            names, of_row = np.unique(batch.names, return_inverse=True)
            for number, name in enumerate(names.tolist()):
                selected = self._named[self._classes.names.of_class(name)[self._lists] != NO]
                yield _product(np.flatnonzero(of_row.ravel() == number), selected, self.size)


def group_connections(
    batch: ConnectionBatch, rows: Indices, bounds: NDArray[np.int64]
) -> tuple[Indices, Indices]:
    """One row of each kind that rules cannot tell apart, and of which kind each is; ``bounds``
    are the ports at which they begin to differ, ascending.
    """
    port = np.searchsorted(bounds, batch.port[rows], side="right")
    words = np.empty((len(rows), KEY_WORDS), np.uint64)
    words[:, 0] = _CLASSES.pack(peer=batch.peer[rows], destination=batch.destination[rows])
    words[:, 1], words[:, 2] = batch.high[rows], batch.low[rows]
    words[:, 3] = _PORTS.pack(protocol=batch.protocol[rows], port=port, names=batch.names[rows])
    unique, kind = unique_rows(words)
    one = np.empty(len(unique), np.int64)
    one[kind] = rows
    return one, kind


def _product(rows: Indices, places: Indices, size: int) -> Indices:
    found: Indices = (rows[:, None] * size + places[None, :]).ravel()
    return found


def _networks(bits: int, each: list[tuple[int, int]]) -> _RuleNetworks:
    high = np.array([first >> _64 for first, _ in each], np.uint64)
    low = np.array([first & _ALL for first, _ in each], np.uint64)
    hashes, place = _hashes(bits, high, low), np.array([place for _, place in each], np.int64)
    order = np.argsort(hashes, kind="stable")
    return _RuleNetworks(bits, hashes[order], place[order])


def _hashes(bits: int, high: Words64, low: Words64) -> Words64:
    """Return hashes of the addresses' networks of that length; they may collide."""
    mask = (1 << 128) - (1 << (128 - bits))
    upper, lower = np.uint64(mask >> _64), np.uint64(mask & _ALL)
    found: Words64 = (high & upper) * _K1 ^ (low & lower) * _K2
    found ^= found >> np.uint64(29)
    return found * _K3
