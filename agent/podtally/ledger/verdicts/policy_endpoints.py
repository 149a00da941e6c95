# SPDX-License-Identifier: Apache-2.0
"""Number the endpoints that policies are evaluated for, and find those of owners."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from podtally.identity.cluster_labels import ClusterLabels
from podtally.identity.model import Endpoint, Owner
from podtally.identity.name_table import WELL_KNOWN
from podtally.ledger.peers.peer_columns import NO_OWNER
from podtally.policy.endpoints import of_endpoint, of_owner
from podtally.policy.model import ADDRESS, UNIDENTIFIED, PolicyEndpoint
from podtally.policy.vector.evaluator import ADDRESS_INDEX, UNKNOWN_INDEX

_NO_ENDPOINT = {ADDRESS: ADDRESS_INDEX, UNIDENTIFIED: UNKNOWN_INDEX}
_SPARE = 128  # endpoints that are gone, before numbering starts again


class PolicyEndpointNumbers:
    """Numbers by endpoint; by owner for one table of names and cluster labels."""

    def __init__(self) -> None:
        self.changes = 0  # grows when the labels of a numbered endpoint change
        self.numbers: dict[PolicyEndpoint, int] = {}
        self._new: list[PolicyEndpoint] = []
        self._known: dict[tuple[str, ...], int] = {}  # by identity without labels
        self._owners: Sequence[Owner] = ()
        self._labels: ClusterLabels | None = None
        self._of_owner = np.zeros(0, np.int32)  # number by owner, as the next two
        self._is_local = np.zeros(0, np.bool_)
        self._is_outside = np.zeros(0, np.bool_)

    def is_table(self, owners: Sequence[Owner], labels: ClusterLabels) -> bool:
        return owners is self._owners and labels is self._labels

    def is_full(self, owners: Sequence[Owner]) -> bool:
        """Return whether most numbers are of endpoints that are gone."""
        return len(self.numbers) > 2 * len(owners) + _SPARE

    def restart(self) -> None:
        self.numbers, self._known, self._new = {}, {}, []

    def learn(self, owners: Sequence[Owner], labels: ClusterLabels) -> None:
        """Number the owners that are new since the last call; their list only grows."""
        if not self.is_table(owners, labels):
            self._owners, self._labels = owners, labels
            self._forget_owners()
        fresh = owners[len(self._of_owner) :]
        if not len(fresh):
            return
        numbers = self._numbers_of(of_owner(owner, labels) for owner in fresh)
        for owner, number in zip(fresh, numbers, strict=True):
            if number >= 0 and self._known.setdefault(_identity(owner), number) != number:
                self._known[_identity(owner)] = number
                self.changes += 1
        is_local = [owner.kind == "pod" and owner.scope == "node" for owner in fresh]
        outside = [owner.kind == "external" and owner.name not in WELL_KNOWN for owner in fresh]
        self._of_owner = np.concatenate([self._of_owner, np.array(numbers, np.int32)])
        self._is_local = np.concatenate([self._is_local, np.array(is_local, np.bool_)])
        self._is_outside = np.concatenate([self._is_outside, np.array(outside, np.bool_)])

    def number(self, endpoint: Endpoint) -> int:
        """Return the number of an endpoint of this host."""
        assert self._labels is not None
        return self._numbers_of([of_endpoint(endpoint, self._labels)])[0]

    def take_new(self) -> list[PolicyEndpoint]:
        """Return the endpoints numbered since the last call, in order."""
        new, self._new = self._new, []
        return new

    def of_owners(self, owner: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the numbers of owners, NO_OWNER among them. (n,)"""
        numbers = np.where(owner == NO_OWNER, UNKNOWN_INDEX, self._of_owner[owner])
        return numbers.astype(np.int32)

    def are_local(self, owner: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which owners are pods of this host. (n,)"""
        found: NDArray[np.bool_] = self._is_local[owner] & (owner != NO_OWNER)
        return found

    def are_outside(self, owner: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which owners are outside the cluster. (n,)"""
        found: NDArray[np.bool_] = self._is_outside[owner] & (owner != NO_OWNER)
        return found

    def _forget_owners(self) -> None:
        self._of_owner = self._of_owner[:0]
        self._is_local, self._is_outside = self._is_local[:0], self._is_outside[:0]

    def _numbers_of(self, endpoints: Iterable[PolicyEndpoint]) -> list[int]:
        found = []
        for endpoint in endpoints:
            number = _NO_ENDPOINT.get(endpoint.kind)
            if number is None:
                number = self.numbers.get(endpoint)
            if number is None:
                number = self.numbers[endpoint] = len(self.numbers)
                self._new.append(endpoint)
            found.append(number)
        return found


def _identity(owner: Owner) -> tuple[str, ...]:
    """Return what stays the same of an owner when its labels change."""
    return (owner.uid,) if owner.uid else (owner.kind, owner.namespace, owner.name)
