# SPDX-License-Identifier: Apache-2.0
"""Endpoints by number, with what matters besides their class: identity and node."""

from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from podtally.policy.model import (
    ADDRESS,
    POD,
    UNIDENTIFIED,
    PolicyEndpoint,
)
from podtally.policy.reference.matching import HAVE_PORTS, uses_node
from podtally.policy.vector.cache import (
    RESERVED_ROWS,
    Keys,
    unpack_keys,
)
from podtally.policy.vector.classes import ADDRESS_CLASS, UNKNOWN_CLASS, EndpointClasses
from podtally.policy.vector.ragged import Indices

_SPARE = 1 << 8


_T = TypeVar("_T", bound=np.generic)


class EndpointTable:
    """Rows are numbers plus RESERVED_ROWS; every array has a row per endpoint, and spare ones."""

    def __init__(self, endpoints: Iterable[PolicyEndpoint], classes: EndpointClasses) -> None:
        self._classes = classes
        self._endpoints: list[PolicyEndpoint] = []
        self._identities: dict[tuple[object, ...], int] = {}
        self._nodes: dict[str, int] = {"": 0}
        self.class_of = np.zeros(0, np.int32)
        self.identity = np.zeros(0, np.int64)  # equal: the same pod, or endpoint of a host
        self.node = np.zeros(0, np.int32)  # 0: none
        self.uses_node = np.zeros(0, np.bool_)
        self.is_pod = np.zeros(0, np.bool_)
        for row, endpoint in enumerate(
            (PolicyEndpoint(UNIDENTIFIED), PolicyEndpoint(ADDRESS), *endpoints)
        ):
            self._set(row, endpoint)
        assert self.class_of[0] == UNKNOWN_CLASS
        assert self.class_of[1] == ADDRESS_CLASS

    def __len__(self) -> int:
        return len(self._endpoints) - RESERVED_ROWS

    def __getitem__(self, number: int) -> PolicyEndpoint:
        return self._endpoints[number + RESERVED_ROWS]

    def all(self) -> list[PolicyEndpoint]:
        return self._endpoints[RESERVED_ROWS:]

    def put(self, number: int, endpoint: PolicyEndpoint) -> None:
        """Set an endpoint; ``number`` is in use or the next free one, otherwise IndexError."""
        if not 0 <= number <= len(self):
            raise IndexError(f"endpoint {number} of {len(self)}")
        self._set(number + RESERVED_ROWS, endpoint)

    def _set(self, row: int, endpoint: PolicyEndpoint) -> None:
        if row == len(self._endpoints):
            self._endpoints.append(endpoint)
        self._endpoints[row] = endpoint
        if row >= len(self.class_of):
            self._grow(row + row // 4 + 64)
        self.class_of[row] = self._classes.number(endpoint)
        self._identify(row, endpoint)
        self.node[row] = self._nodes.setdefault(endpoint.node, len(self._nodes))
        self.uses_node[row], self.is_pod[row] = uses_node(endpoint), endpoint.kind == POD

    def _identify(self, row: int, endpoint: PolicyEndpoint) -> None:
        if len(self._identities) > 2 * len(self._endpoints) + _SPARE:
            # Most belong to former endpoints.
            self._identities.clear()
            for other, known in enumerate(self._endpoints):
                self._identify(other, known)
        self.identity[row] = self._identities.setdefault(
            _identity(endpoint, row), len(self._identities)
        )

    def _grow(self, rows: int) -> None:
        self.class_of, self.identity = _longer(self.class_of, rows), _longer(self.identity, rows)
        self.node, self.uses_node = _longer(self.node, rows), _longer(self.uses_node, rows)
        self.is_pod = _longer(self.is_pod, rows)


def _identity(endpoint: PolicyEndpoint, row: int) -> tuple[object, ...]:
    """Return the identities that the reference engine compares."""
    if endpoint.kind == POD and not endpoint.name:
        return (row,)
    return (endpoint.kind, endpoint.namespace, endpoint.name, endpoint.unit, endpoint.container)


def _longer(array: NDArray[_T], rows: int) -> NDArray[_T]:
    return np.concatenate((array, np.zeros(rows - len(array), array.dtype)))


class ConnectionBatch(NamedTuple):
    """Connections as one endpoint's policies see them; index i is the same one."""

    local: NDArray[np.int32]  # class
    peer: NDArray[np.int32]
    high: NDArray[np.uint64]  # the peer's address, in two words
    low: NDArray[np.uint64]
    destination: NDArray[np.int32]  # class
    protocol: NDArray[np.int32]
    port: NDArray[np.int32]
    names: NDArray[np.int32]  # class, see ``NameClasses``

    def take(self, index: Indices | NDArray[np.bool_] | slice) -> "ConnectionBatch":
        return ConnectionBatch._make(column[index] for column in self)


def has_ports(protocols: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return which protocols have ports. (n,)"""
    found = np.zeros(len(protocols), np.bool_)
    for protocol in HAVE_PORTS:
        found |= protocols == protocol
    return found


def batch_of(words: Keys, is_egress: bool, endpoints: EndpointTable) -> ConnectionBatch:
    """Connections of one direction."""
    each = unpack_keys(words)
    mine, other = endpoints.class_of[each.local], endpoints.class_of[each.peer]
    destination = other if is_egress else mine
    return ConnectionBatch(
        mine, other, each.high, each.low, destination, each.protocol, each.port, each.names
    )


def is_own_node(words: Keys, endpoints: EndpointTable) -> NDArray[np.bool_]:
    """Return which peers are the endpoint's own node. (n,)"""
    each = unpack_keys(words)
    node = endpoints.node[each.local]
    at_home = (node != 0) & (node == endpoints.node[each.peer]) & endpoints.uses_node[each.peer]
    found: NDArray[np.bool_] = at_home & endpoints.is_pod[each.local]
    return found
