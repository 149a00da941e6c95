"""A rule, or a subject, tried on many connections at once; what ``rules`` does for one.

All connections of a batch go the same way. Grades are those of ``compiled_classes``.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.policy.compiled_blocks import Addresses, Ranges
from podtally.policy.compiled_classes import UNKNOWN_CLASS, Classes, is_selectable
from podtally.policy.compiled_labels import NO, PERHAPS, YES, Grades
from podtally.policy.model import ANY_PROTOCOL, Block, DomainPeer, Policy, Port, Rule

Indices = NDArray[np.int64]


class Batch(NamedTuple):
    """Connections as one end's policies see them; index i of every array is the same one."""

    local: NDArray[np.int32]  # class
    peer: NDArray[np.int32]
    high: NDArray[np.uint64]  # the peer's address, in two words
    low: NDArray[np.uint64]
    destination: NDArray[np.int32]  # class
    protocol: NDArray[np.int32]
    port: NDArray[np.int32]

    def take(self, index: Indices | NDArray[np.bool_]) -> "Batch":
        return Batch._make(column[index] for column in self)


class CompiledRule(NamedTuple):
    rule: Rule
    slots: tuple[int, ...] = ()  # peers by labels
    ranges: Ranges | None = None  # peers by address
    by_name: bool = False  # peers by a name of DNS
    everyone: bool = False


class CompiledPolicy(NamedTuple):
    policy: Policy
    subject: int  # a slot
    ingress: tuple[CompiledRule, ...] | None
    egress: tuple[CompiledRule, ...] | None

    def rules(self, is_egress: bool) -> tuple[CompiledRule, ...] | None:
        return self.egress if is_egress else self.ingress


def compiled(policy: Policy, classes: Classes) -> CompiledPolicy:
    def each(rules: tuple[Rule, ...] | None) -> tuple[CompiledRule, ...] | None:
        if rules is None:
            return None
        return tuple(_rule(rule, policy.namespace, classes) for rule in rules)

    subject = classes.slot(policy.subject, policy.namespace)
    return CompiledPolicy(policy, subject, each(policy.ingress), each(policy.egress))


def _rule(rule: Rule, namespace: str, classes: Classes) -> CompiledRule:
    if rule.peers is None:
        return CompiledRule(rule, everyone=True)
    blocks = [peer for peer in rule.peers if isinstance(peer, Block)]
    slots = [
        classes.slot(peer, namespace)
        for peer in rule.peers
        if not isinstance(peer, Block | DomainPeer)
    ]
    by_name = any(isinstance(peer, DomainPeer) for peer in rule.peers)
    return CompiledRule(rule, tuple(slots), Ranges(blocks) if blocks else None, by_name)


class Matcher:
    """Tries rules on batches; remembers, for as long as it lives, what it looked up."""

    def __init__(self, classes: Classes) -> None:
        self.classes = classes
        self._named: dict[str, NDArray[np.int64]] = {}
        unnamed = (is_selectable(party) and party.ports is None for party in classes.parties)
        self._ports_not_known = np.fromiter(unnamed, np.bool_, len(classes.parties))
        self._ports_not_known[UNKNOWN_CLASS] = True

    def grades(self, rule: CompiledRule, batch: Batch) -> Grades:
        at_port = self._ports(rule.rule.ports, batch)
        if rule.everyone or not at_port.any():
            return at_port
        return np.minimum(at_port, self._peers(rule, batch))

    def _peers(self, rule: CompiledRule, batch: Batch) -> Grades:
        found = np.full(len(batch.peer), PERHAPS if rule.by_name else NO, np.uint8)
        for slot in rule.slots:
            np.maximum(found, self.classes.grades(slot)[batch.peer], out=found)
        if rule.ranges is not None:
            known = (batch.high | batch.low) != 0
            found[known & rule.ranges.hold(Addresses(batch.high, batch.low))] = YES
            found[~known & (found == NO)] = PERHAPS
        return found

    def _ports(self, ports: tuple[Port, ...] | None, batch: Batch) -> Grades:
        if ports is None:
            return np.full(len(batch.port), YES, np.uint8)
        found = np.zeros(len(batch.port), np.uint8)
        for port in ports:
            if port.name:
                np.maximum(found, self._named_port(port, batch), out=found)
                continue
            within = (batch.port >= port.first) & (batch.port <= port.last)
            if port.protocol != ANY_PROTOCOL:
                within &= batch.protocol == port.protocol
            found[within] = YES
        return found

    def _named_port(self, port: Port, batch: Batch) -> Grades:
        if port.name not in self._named:
            self._named[port.name] = self.classes.named(port.name)
        keys = self._named[port.name]
        asked = batch.destination.astype(np.int64) << 24 | batch.protocol << 16 | batch.port
        place = np.searchsorted(keys, asked)
        found = np.zeros(len(asked), np.uint8)
        if len(keys):
            found[keys[np.minimum(place, len(keys) - 1)] == asked] = YES
        found[self._ports_not_known[batch.destination]] = PERHAPS
        if port.protocol != ANY_PROTOCOL:
            found[batch.protocol != port.protocol] = NO
        return found
