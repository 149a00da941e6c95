# SPDX-License-Identifier: Apache-2.0
"""Divides a limit among endpoints, so that none can use it up.

An endpoint may use up to a quarter of the whole, first come, first served. Below its
guaranteed share it is served even if others have used up the whole.
"""

from collections import Counter
from collections.abc import Hashable
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

_PART = 4  # one endpoint may use one part in four
_GUARANTEED = 8  # for each endpoint, however many there are
_BACKSTOP = 2  # times the whole: the limit of all guarantees together


class Taken(NamedTuple):
    """The endpoint and peer that one item counts for."""

    endpoint: Hashable
    peer: Hashable  # of that endpoint


class Shares:
    """Counts the items that each endpoint and each of its peers has taken of ``whole``."""

    def __init__(self, whole: int, most: int | None = None, by_peer: int = 100) -> None:
        """Limit an endpoint to ``most`` or a quarter of the whole, and a peer to ``by_peer``."""
        self._whole = whole
        self.most = max(1, min(whole // _PART, whole if most is None else most))
        self.by_peer = by_peer
        self._endpoints: Counter[Hashable] = Counter()
        self._peers: Counter[Taken] = Counter()

    def take(self, taken: Taken, any_port: bool = False) -> None:
        """Count one item of a peer; with ``any_port``, one that stands for its ports.

        Items that stand for many peers are not counted.
        """
        self._endpoints[taken.endpoint] += 1
        if not any_port:
            self._peers[taken] += 1

    def give_back(self, taken: Taken, any_port: bool = False) -> None:
        _one_less(self._endpoints, taken.endpoint)
        if not any_port:
            _one_less(self._peers, taken)

    def clear(self) -> None:
        self._endpoints.clear()
        self._peers.clear()

    def peer_has_room(self, taken: Taken) -> bool:
        return self._peers[taken] < self.by_peer

    def has_room(self, taken: Taken, used: int) -> bool:
        """Return whether the endpoint may take another item, with ``used`` of the whole taken."""
        own = self._endpoints[taken.endpoint]
        if own >= self.most:
            return False
        return used < self._whole or own < self._guaranteed()

    def full(self) -> set[Hashable]:
        """Return the endpoints that have used their share, or that of one of their peers."""
        full = {endpoint for endpoint, own in self._endpoints.items() if own >= self.most}
        return full | {key.endpoint for key, own in self._peers.items() if own >= self.by_peer}

    def exhausted(self, used: int) -> bool:
        """Return whether not even an item that stands for many may be added."""
        return used >= max(_BACKSTOP * self._whole, self._whole + _GUARANTEED)

    def _guaranteed(self) -> int:
        return min(self.most, max(_GUARANTEED, self._whole // (2 * max(1, len(self._endpoints)))))


Key = TypeVar("Key", bound=Hashable)


def _one_less(counter: Counter[Key], key: Key) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]


def beyond(group: NDArray[np.int64], known: NDArray[np.int64], most: int) -> NDArray[np.bool_]:
    """Return which new values exceed ``most`` values of their group. (n,)

    ``group`` (n,) are the groups of the new values, in the order of service; ``known`` (m,)
    those of known values, ascending.
    """
    before = np.searchsorted(known, group, side="right") - np.searchsorted(known, group)
    found: NDArray[np.bool_] = before + rank(group) >= most
    return found


def rank(group: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many values of the same group come before each. (n,)"""
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    place = np.empty(len(group), np.int64)
    place[order] = np.arange(len(group)) - np.searchsorted(ordered, ordered)
    return place


def level(counts: NDArray[np.int64], whole: int) -> int:
    """Return the largest cap on each of ``counts`` that keeps their sum within ``whole``."""
    ascending = np.sort(counts)
    n = len(ascending)
    if int(ascending.sum()) <= whole:
        return int(ascending[-1]) if n else 0
    before = np.concatenate([[0], np.cumsum(ascending)[:-1]])
    # Counts below the level are kept; the others share the rest.
    shares = (whole - before) // np.arange(n, 0, -1)
    return int(shares[np.flatnonzero(shares < ascending)[0]])
