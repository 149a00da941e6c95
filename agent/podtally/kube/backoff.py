# SPDX-License-Identifier: Apache-2.0
"""How long to wait for the API server, and between two attempts; pure but for its dice."""

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class ClientTiming:
    """Times in seconds, for real life; tests take shorter ones."""

    connect_seconds: float = 4.0  # three SYNs
    response_seconds: float = 30.0  # to the head of an answer, and between two parts of a list
    # Without a line for that long a watch is held to be dead: bookmarks come once a minute
    # (apiserver, cacher/cacher.go, bookmarkFrequency).
    quiet_seconds: float = 150.0
    watch_seconds: tuple[float, float] = (300.0, 600.0)  # what a watch asks for, as client-go's
    first_bound_seconds: float = 0.5  # the bound of the first wait, doubled with every further one
    unreachable_max_seconds: float = (
        2.0  # the last bound while there is no server: seen soon when it is back
    )
    error_max_seconds: float = 30.0  # while it answers with errors: it has enough to do
    forbidden_max_seconds: float = (
        8.0  # while a right is missing: it is seen soon that it was given
    )
    forbidden_after_seconds: float = 10.0  # a server that starts refuses what it will grant
    # Between two looks for a CRD that is not there: the first bound, and the last.
    absent_seconds: tuple[float, float] = (60.0, 600.0)
    retry_after_seconds: float = 120.0  # the most that a Retry-After is believed
    stable_seconds: float = 60.0  # what stood for that long is no longer part of a bad series
    relist_seconds: float = 1.5  # a restart makes many agents list anew: over this time
    page_objects: int = 500  # in one page of a list: with pods, some 4 MB


class Backoff:
    """Full jitter: any time up to a bound, which doubles within a series of like failures."""

    def __init__(self, patience: ClientTiming, dice: random.Random | None = None) -> None:
        self._first = patience.first_bound_seconds
        self._dice = dice or random.Random()
        self._kind = ""
        self._failures = 0

    def next(
        self, kind: str, last_bound_seconds: float, first_bound_seconds: float | None = None
    ) -> float:
        """Return the seconds to wait after a failure; another kind begins another series."""
        if kind != self._kind:
            self._kind, self._failures = kind, 0
        first = self._first if first_bound_seconds is None else first_bound_seconds
        bound = min(last_bound_seconds, first * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return self._dice.uniform(0.0, bound)

    def reset(self) -> None:
        self._kind, self._failures = "", 0

    def between(self, low: float, high: float) -> float:
        return self._dice.uniform(low, high)
