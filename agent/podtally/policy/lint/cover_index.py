# SPDX-License-Identifier: Apache-2.0
"""Index of rules by peers and ports, to find the few that may cover a given rule.

Results are a superset of the covering rules (``subsumption``), in ascending order of number.
"""

from collections.abc import Hashable, Iterator
from heapq import merge

import numpy as np

from podtally.policy.domain_patterns import above
from podtally.policy.lint.subsumption import is_contradictory, namespaces_of
from podtally.policy.model import (
    ANY_PROTOCOL,
    LAST_PORT,
    Block,
    DomainPeer,
    Network,
    NodePeer,
    Peer,
    PodPeer,
    PodSubject,
    PolicyPort,
    Selector,
    Subject,
)

_EVERYONE = "everyone"
_ALL = "all"
_MAX_TRIED = 4  # peers or ports of a rule: the one with the fewest candidates is used


class CoverCandidates:
    """Numbers found, in ascending lists."""

    def __init__(self, lists: list[list[int]]) -> None:
        self._lists = [each for each in lists if each]
        self.count = sum(map(len, self._lists))

    def __iter__(self) -> Iterator[int]:
        last = -1
        for number in self._lists[0] if len(self._lists) == 1 else merge(*self._lists):
            if number != last:
                yield number
            last = number


class PeerIndex:
    def __init__(self) -> None:
        self._numbers: dict[Hashable, list[int]] = {}
        self._all: list[int] = []
        self._bits: set[int] = set()  # lengths of the networks

    def add(self, number: int, peers: tuple[Peer | Subject, ...] | None, namespace: str) -> None:
        """Numbers ascend. None: everyone."""
        self._all.append(number)
        tokens = {_EVERYONE} if peers is None else {
            token for peer in peers for token in self._tokens(peer, namespace)
        }  # fmt: skip
        for token in tokens:
            self._numbers.setdefault(token, []).append(number)

    def find(self, peers: tuple[Peer | Subject, ...] | None, namespace: str) -> CoverCandidates:
        """Return what may cover all of the peers."""
        everyone = self._numbers.get(_EVERYONE, [])
        if peers is None:
            return CoverCandidates([everyone])
        found = (self._covering(peer, namespace) for peer in peers[:_MAX_TRIED])
        return min(
            (CoverCandidates([everyone, *lists]) for lists in found), key=lambda each: each.count
        )

    def _tokens(self, peer: Peer | Subject, namespace: str) -> Iterator[Hashable]:
        if isinstance(peer, Block):
            self._bits.add(peer.network.bits)
            yield _prefix(peer.network, peer.network.bits)
        elif isinstance(peer, DomainPeer):
            yield from (("domain", name) for name in peer.names)
        elif isinstance(peer, NodePeer):
            yield _token([("node", peer.nodes)])
        elif isinstance(peer, PodPeer | PodSubject):
            yield _token([("pod", peer.pods), ("namespace", namespaces_of(peer, namespace))])
        else:
            yield peer

    def _covering(self, peer: Peer | Subject, namespace: str) -> list[list[int]]:
        if isinstance(peer, Block):
            lengths = (bits for bits in self._bits if bits <= peer.network.bits)
            return self._under([_prefix(peer.network, bits) for bits in lengths])
        if isinstance(peer, DomainPeer):
            return self._under(
                [("domain", each) for name in peer.names[:1] for each in above(name)]
            )
        if isinstance(peer, NodePeer):
            scopes = [("node", peer.nodes)]
        elif isinstance(peer, PodPeer | PodSubject):
            scopes = [("pod", peer.pods), ("namespace", namespaces_of(peer, namespace))]
        else:
            return self._under([peer])
        if any(is_contradictory(selector) for _, selector in scopes):
            return [self._all]
        tokens: dict[Hashable, None] = {(scopes[0][0], _ALL): None}
        for scope, selector in scopes:
            for requirement in selector.requirements:
                tokens[scope, requirement.key] = None
                if requirement.operator == "In":
                    tokens |= {(scope, requirement.key, v): None for v in requirement.values}
        return self._under(list(tokens))

    def _under(self, tokens: list[Hashable]) -> list[list[int]]:
        return [self._numbers[token] for token in tokens if token in self._numbers]


class PortIndex:
    def __init__(self) -> None:
        self._any: list[int] = []
        self._single: dict[tuple[int, int | str], list[int]] = {}
        self._ranges: dict[int, list[tuple[int, int, int]]] = {}
        self._arrays: dict[int, np.ndarray[tuple[int, int], np.dtype[np.int64]]] = {}

    def add(self, number: int, ports: tuple[PolicyPort, ...] | None) -> None:
        """Numbers ascend. None: every port."""
        if ports is None:
            self._any.append(number)
        for port in set(ports or ()):
            if not port.name and port.first != port.last:
                ranges = self._ranges.setdefault(port.protocol, [])
                ranges.append((port.first, port.last, number))
                continue
            numbers = self._single.setdefault((port.protocol, port.name or port.first), [])
            if not numbers or numbers[-1] != number:
                numbers.append(number)

    def find(self, ports: tuple[PolicyPort, ...] | None) -> CoverCandidates:
        """Return what may cover all of the ports."""
        if ports is None:
            return CoverCandidates([self._any])
        found = (CoverCandidates([self._any, *self._covering(port)]) for port in ports[:_MAX_TRIED])
        return min(found, key=lambda each: each.count)

    def _covering(self, port: PolicyPort) -> Iterator[list[int]]:
        first, last = (0, LAST_PORT) if port.name else (port.first, port.last)
        for protocol in {port.protocol, ANY_PROTOCOL}:
            if port.name or first == last:
                yield self._single.get((protocol, port.name or first), [])
            if protocol in self._ranges:
                array = self._arrays.get(protocol)
                if array is None:
                    array = np.array(self._ranges[protocol], np.int64).T
                    self._arrays[protocol] = array
                yield np.unique(array[2][(array[0] <= first) & (array[1] >= last)]).tolist()


def _prefix(network: Network, bits: int) -> Hashable:
    return bits, network.first >> (128 - bits)


def _token(scopes: list[tuple[str, Selector]]) -> Hashable:
    """Return a token that every selector covered by these contains."""
    token: Hashable = (scopes[0][0], _ALL)
    for scope, selector in reversed(scopes):
        for requirement in selector.requirements:
            only = requirement.values if requirement.operator == "In" else ()
            if len(only) == 1:
                token = (scope, requirement.key, next(iter(only)))
            elif not isinstance(token, tuple) or len(token) < 3:
                token = (scope, requirement.key)
    return token
