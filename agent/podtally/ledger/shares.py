# SPDX-License-Identifier: Apache-2.0
"""Limits what one endpoint may take of a shared limit, so that its neighbours keep theirs.

An endpoint may use up to a quarter of the whole, first come, first served; below its
guaranteed share it is served even when the whole is used up by others.
"""

from collections import Counter
from collections.abc import Hashable
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

_GREEDY = 4  # one endpoint may use this part of the whole
_LEAST = 8  # guaranteed to each endpoint, however many there are
_BACKSTOP = 2  # times the whole: what guarantees may add up to


class Taken(NamedTuple):
    """What one thing that is counted was taken for; both must be hashable."""

    endpoint: Hashable
    peer: Hashable  # of that endpoint


class Shares:
    """Counts what each endpoint and each of its peers has taken of ``whole``."""

    def __init__(self, whole: int, most: int | None = None, by_peer: int = 100) -> None:
        """``most``: for one endpoint, if that is less than a quarter of the whole;
        ``by_peer``: for one peer of an endpoint.
        """
        self._whole = whole
        self.most = max(1, min(whole // _GREEDY, whole if most is None else most))
        self.by_peer = by_peer
        self._endpoints: Counter[Hashable] = Counter()
        self._peers: Counter[Taken] = Counter()

    def take(self, taken: Taken, any_port: bool = False) -> None:
        """Count one, of a peer or of ``any_port`` of it; what stands for many peers is not
        to be counted.
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
        """Whether the endpoint may take another one, when ``used`` of the whole are."""
        own = self._endpoints[taken.endpoint]
        if own >= self.most:
            return False
        return used < self._whole or own < self._guaranteed()

    def full(self) -> set[Hashable]:
        """The endpoints that have taken all they may, or have for one of their peers."""
        full = {endpoint for endpoint, own in self._endpoints.items() if own >= self.most}
        return full | {key.endpoint for key, own in self._peers.items() if own >= self.by_peer}

    def exhausted(self, used: int) -> bool:
        """Whether not even what stands for many may be added."""
        return used >= max(_BACKSTOP * self._whole, self._whole + _LEAST)

    def _guaranteed(self) -> int:
        return min(self.most, max(_LEAST, self._whole // (2 * max(1, len(self._endpoints)))))


Key = TypeVar("Key", bound=Hashable)


def _one_less(counter: Counter[Key], key: Key) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]


def beyond(group: NDArray[np.int64], known: NDArray[np.int64], most: int) -> NDArray[np.bool_]:
    """Which values are more than ``most`` of their group, with those already known. (n,)

    ``group`` (n,) are the groups of new values, in the order in which they are served;
    ``known`` (m,) those of known ones, ascending.
    """
    before = np.searchsorted(known, group, side="right") - np.searchsorted(known, group)
    found: NDArray[np.bool_] = before + rank(group) >= most
    return found


def rank(group: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of the same group come before each. (n,)"""
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    place = np.empty(len(group), np.int64)
    place[order] = np.arange(len(group)) - np.searchsorted(ordered, ordered)
    return place


def level(counts: NDArray[np.int64], whole: int) -> int:
    """The most that each may keep of its ``counts`` so that they add up to ``whole`` at most."""
    ascending = np.sort(counts)
    n = len(ascending)
    if int(ascending.sum()) <= whole:
        return int(ascending[-1]) if n else 0
    before = np.concatenate([[0], np.cumsum(ascending)[:-1]])
    # Those below the level keep all; the others share what these leave.
    shares = (whole - before) // np.arange(n, 0, -1)
    return int(shares[np.flatnonzero(shares < ascending)[0]])
