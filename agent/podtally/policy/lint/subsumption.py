# SPDX-License-Identifier: Apache-2.0
"""Whether one selector, peer or rule certainly covers another: matches everything it matches.

Decided by the text alone, not by a cluster; False if uncertain.
"""

from functools import lru_cache
from typing import NamedTuple

from podtally.policy.domain_patterns import covers
from podtally.policy.model import (
    ANY_PROTOCOL,
    LAST_PORT,
    NAMESPACE_NAME_LABEL,
    Block,
    DomainPeer,
    Network,
    NodePeer,
    Peer,
    PodPeer,
    PodSubject,
    Policy,
    PolicyPort,
    Requirement,
    Rule,
    Selector,
    Subject,
)
from podtally.policy.reference.matching import in_network

_MAX_CACHED = 1 << 16  # answers


class _KnownLabels(NamedTuple):
    """What a selector requires of one label."""

    only: frozenset[str] | None = None  # its value is one of these; None: any
    never: frozenset[str] = frozenset()  # its value, if present, is not one of these
    there: bool = False
    absent: bool = False


@lru_cache(_MAX_CACHED)
def is_contradictory(selector: Selector) -> bool:
    """Return whether no labels can satisfy it."""
    facts = (_known(selector, requirement.key) for requirement in selector.requirements)
    return any((each.there and each.absent) or each.only == frozenset() for each in facts)


@lru_cache(_MAX_CACHED)
def covers_selector(outer: Selector, inner: Selector) -> bool:
    return all(_follows(wanted, _known(inner, wanted.key)) for wanted in outer.requirements)


def covers_subject(outer: Policy, inner: Policy) -> bool:
    """Return whether ``outer`` selects every endpoint that ``inner`` selects."""
    return _covers_peer(outer.subject, outer.namespace, inner.subject, inner.namespace)


def covers_rule(outer: Rule, outer_policy: Policy, inner: Rule, inner_policy: Policy) -> bool:
    """Return whether ``outer`` matches every connection that ``inner`` matches, subjects aside."""
    if outer.ports is not None:
        if not inner.ports:
            return False
        for port in inner.ports:
            if not any(_covers_port(each, port) for each in outer.ports):
                return False
    if outer.peers is None:
        return True
    namespaces = outer_policy.namespace, inner_policy.namespace
    return bool(inner.peers) and all(
        any(_covers_peer(each, namespaces[0], peer, namespaces[1]) for each in outer.peers)
        for peer in inner.peers or ()
    )


def _covers_peer(
    outer: Peer | Subject, outer_namespace: str, inner: Peer | Subject, inner_namespace: str
) -> bool:
    if isinstance(outer, PodPeer | PodSubject) and isinstance(inner, PodPeer | PodSubject):
        return covers_selector(outer.pods, inner.pods) and covers_selector(
            namespaces_of(outer, outer_namespace), namespaces_of(inner, inner_namespace)
        )
    if isinstance(outer, Block) and isinstance(inner, Block):
        return _covers_block(outer, inner)
    if isinstance(outer, NodePeer) and isinstance(inner, NodePeer):
        return covers_selector(outer.nodes, inner.nodes)
    if isinstance(outer, DomainPeer) and isinstance(inner, DomainPeer):
        if inner.is_defined != outer.is_defined:
            return False
        return all(any(covers(each, name) for each in outer.names) for name in inner.names)
    return outer == inner


def namespaces_of(meant: PodPeer | PodSubject, own: str) -> Selector:
    """Return the namespace selector; for the policy's own namespace, by name label (KEP-2161)."""
    if meant.namespaces is not None:
        return meant.namespaces
    return Selector((Requirement(NAMESPACE_NAME_LABEL, "In", frozenset((own,))),))


def _covers_block(outer: Block, inner: Block) -> bool:
    if not _contains(outer.network, inner.network):
        return False
    return all(
        _apart(excepted, inner.network) or any(_contains(each, excepted) for each in inner.excepted)
        for excepted in outer.excepted
    )


def _contains(outer: Network, inner: Network) -> bool:
    return inner.bits >= outer.bits and in_network(outer, inner.first)


def _apart(one: Network, other: Network) -> bool:
    return not _contains(one, other) and not _contains(other, one)


def _covers_port(outer: PolicyPort, inner: PolicyPort) -> bool:
    if outer.protocol not in (inner.protocol, ANY_PROTOCOL):
        return False
    if outer.name:
        return outer.name == inner.name
    if inner.name:
        return (outer.first, outer.last) == (0, LAST_PORT)
    return outer.first <= inner.first and inner.last <= outer.last


def _known(selector: Selector, key: str) -> _KnownLabels:
    known = _KnownLabels()
    for requirement in selector.requirements:
        if requirement.key == key:
            known = _with(known, requirement)
    if known.only is not None:
        known = known._replace(only=known.only - known.never)
    return known


def _with(known: _KnownLabels, requirement: Requirement) -> _KnownLabels:
    operator, values = requirement.operator, requirement.values
    if operator == "In":
        only = values if known.only is None else known.only & values
        return known._replace(only=only, there=True)
    if operator == "NotIn":
        return known._replace(never=known.never | values)
    if operator == "Exists":
        return known._replace(there=True)
    return known._replace(absent=True)


def _follows(wanted: Requirement, known: _KnownLabels) -> bool:
    """Return whether the known facts about the label imply the requirement."""
    if wanted.operator == "In":
        return known.only is not None and known.only <= wanted.values
    if wanted.operator == "NotIn":
        if known.absent or wanted.values <= known.never:
            return True
        return known.only is not None and not known.only & wanted.values
    return known.there if wanted.operator == "Exists" else known.absent
