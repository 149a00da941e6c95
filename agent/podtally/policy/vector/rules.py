# SPDX-License-Identifier: Apache-2.0
"""Policies with what their selectors and blocks were compiled to; connections in batches.

All connections of a batch go the same way. Grades are those of ``compiled_labels``.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.policy.model import Block, DomainPeer, Policy, Rule
from podtally.policy.reference.matching import EGRESS, HAVE_PORTS, INGRESS, applies_in
from podtally.policy.vector.address_ranges import BlockRanges
from podtally.policy.vector.classes import EndpointClasses

Indices = NDArray[np.int64]
Numbers = NDArray[np.int32]  # of sides


class Batch(NamedTuple):
    """Connections as one end's policies see them; index i of every array is the same one."""

    local: NDArray[np.int32]  # class
    peer: NDArray[np.int32]
    high: NDArray[np.uint64]  # the peer's address, in two words
    low: NDArray[np.uint64]
    destination: NDArray[np.int32]  # class
    protocol: NDArray[np.int32]
    port: NDArray[np.int32]

    def take(self, index: Indices | NDArray[np.bool_] | slice) -> "Batch":
        return Batch._make(column[index] for column in self)


class CompiledRule(NamedTuple):
    rule: Rule
    slots: tuple[int, ...] = ()  # peers by labels
    ranges: BlockRanges | None = None  # peers by address
    by_name: bool = False  # peers by a name of DNS
    everyone: bool = False


class CompiledPolicy(NamedTuple):
    policy: Policy
    subject: int  # a slot
    ingress: tuple[CompiledRule, ...] | None
    egress: tuple[CompiledRule, ...] | None

    def rules(self, is_egress: bool) -> tuple[CompiledRule, ...] | None:
        return self.egress if is_egress else self.ingress

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
    by_name = any(isinstance(peer, DomainPeer) for peer in rule.peers)
    return CompiledRule(rule, tuple(slots), BlockRanges(blocks) if blocks else None, by_name)


def has_ports(protocols: NDArray[np.int32]) -> NDArray[np.bool_]:
    """(n,); whether each is one of ``rules.HAVE_PORTS``."""
    found = np.zeros(len(protocols), np.bool_)
    for protocol in HAVE_PORTS:
        found |= protocols == protocol
    return found
