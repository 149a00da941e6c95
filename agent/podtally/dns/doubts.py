# SPDX-License-Identifier: Apache-2.0
"""Why names of endpoints may be missing, and until when that matters. Immutable.

An answer that was not seen is of use until its TTL ends. So what was lost once is a doubt for
the longest TTL that the endpoint may have got, counted from the last loss: it is never shortened
by what the endpoint does, and it goes on while more is lost.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.dns.known_names import FORGOTTEN, MESSAGES_LOST, MISSING_CAUSES, SEEN_LATE
from podtally.dns.message import MAX_TTL

LONGEST_TTL = 86_400  # seconds; what resolvers keep at most by default (unbound: cache-max-ttl)
_ENDING = MESSAGES_LOST | FORGOTTEN  # others last: encrypted DNS goes on unseen
_SECOND = 1_000_000_000


class Doubts(NamedTuple):
    """By endpoint and bit of ``Candidates.missing``: when it was last so (CLOCK_MONOTONIC)."""

    last_ns: Mapping[tuple[int, int], int] = {}
    longer: Mapping[int, int] = {}  # by endpoint: the longest TTL above ``longest_ttl``
    longest_ttl: int = LONGEST_TTL  # seconds

    @property
    def endpoints(self) -> frozenset[int]:
        return frozenset(endpoint for endpoint, _ in self.last_ns)

    def at(self, endpoints: NDArray[np.int64], times_ns: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return why names of endpoints (n,) may be missing at times (n,): bits. (n,)"""
        bits = np.zeros(len(endpoints), np.uint8)
        for (endpoint, bit), last_ns in self.last_ns.items():  # few: trouble only
            rows = endpoints == endpoint
            if bit & _ENDING:
                rows &= times_ns <= last_ns + self._lasts_ns(endpoint)
            bits[rows] |= bit
        return bits

    def seen_late(
        self,
        endpoints: NDArray[np.int64],
        since_ns: NDArray[np.int64],
        times_ns: NDArray[np.int64],
    ) -> NDArray[np.uint8]:
        """Return SEEN_LATE where answers from before the agent may be of use, else 0. (n,)

        ``since_ns``: when the agent first saw the endpoints, which were there before it.
        """
        lasts = np.full(len(endpoints), self.longest_ttl * _SECOND)
        for endpoint in self.longer:
            lasts[endpoints == endpoint] = self._lasts_ns(endpoint)
        return np.where(times_ns - since_ns <= lasts, SEEN_LATE, 0).astype(np.uint8)

    def _lasts_ns(self, endpoint: int) -> int:
        return max(self.longest_ttl, self.longer.get(endpoint, 0)) * _SECOND

    def with_ttls(self, ttls: Iterable[tuple[int, int]]) -> "Doubts":
        """Return them with TTLs, in seconds, that endpoints got."""
        longer = dict(self.longer)
        for endpoint, ttl in ttls:
            if ttl > self.longest_ttl:
                longer[endpoint] = max(longer.get(endpoint, 0), min(ttl, MAX_TTL))
        return self if longer == self.longer else self._replace(longer=longer)

    def with_missing(self, more: Iterable[tuple[int, int]], now_ns: int) -> "Doubts":
        """Return them with more endpoints and bits."""
        last_ns = dict(self.last_ns)
        for endpoint, bits in more:
            last_ns |= {(endpoint, bit): now_ns for bit in MISSING_CAUSES if bits & bit}
        return self._replace(last_ns=last_ns)

    def without(self, gone: Collection[int]) -> "Doubts":
        """Return them without endpoints that are gone."""
        last_ns = {key: value for key, value in self.last_ns.items() if key[0] not in gone}
        longer = {key: value for key, value in self.longer.items() if key not in gone}
        return self._replace(last_ns=last_ns, longer=longer)

    def bits(self) -> list[tuple[int, int]]:
        """Return endpoints with their bits."""
        found: dict[int, int] = {}
        for endpoint, bit in self.last_ns:
            found[endpoint] = found.get(endpoint, 0) | bit
        return sorted(found.items())


NO_DOUBTS = Doubts()
