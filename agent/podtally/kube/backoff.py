# SPDX-License-Identifier: Apache-2.0
"""Timeouts of the API client, and waits between its attempts; no I/O, random numbers only."""

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class ClientTiming:
    """Timeouts and limits of the API client; tests use shorter ones."""

    connect_seconds: float = 4.0  # three SYNs
    response_seconds: float = 30.0  # to the head of a response, and between two parts of a list
    # A watch without a line for that long is considered dead: bookmarks come once a minute
    # (apiserver, cacher/cacher.go, bookmarkFrequency).
    quiet_seconds: float = 150.0
    watch_seconds: tuple[float, float] = (300.0, 600.0)  # a watch's timeoutSeconds, as client-go's
    first_bound_seconds: float = 0.5  # of the first wait; doubled with every further one
    # The largest bounds of waits: short where recovery should show soon, long while the server
    # answers with errors and may be overloaded.
    unreachable_max_seconds: float = 2.0
    error_max_seconds: float = 30.0
    forbidden_max_seconds: float = 8.0
    forbidden_after_seconds: float = 10.0  # a starting server refuses what it will grant later
    # Between two attempts to find a missing CRD: the first bound, and the last.
    absent_seconds: tuple[float, float] = (60.0, 600.0)
    retry_after_seconds: float = 120.0  # a longer Retry-After is cut to this
    stable_seconds: float = 60.0  # a watch that lasted this long ends the series of failures
    relist_seconds: float = 1.5  # spreads the lists of many agents after a server's restart
    page_objects: int = 500  # in one page of a list: with pods, some 4 MB


class Backoff:
    """Full jitter: any time up to a bound, which doubles within a series of similar failures."""

    def __init__(self, timing: ClientTiming, dice: random.Random | None = None) -> None:
        self._first = timing.first_bound_seconds
        self._dice = dice or random.Random()
        self._kind = ""
        self._failures = 0

    def next(
        self, kind: str, last_bound_seconds: float, first_bound_seconds: float | None = None
    ) -> float:
        """Return the seconds to wait after a failure; another kind starts another series."""
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
