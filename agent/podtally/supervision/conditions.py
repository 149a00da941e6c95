# SPDX-License-Identifier: Apache-2.0
"""Logs a condition that lasts when it starts, at growing intervals, and when it ends."""

import logging
import threading
import time
from collections.abc import Callable

FIRST_SECONDS, LONGEST_SECONDS = 60.0, 3600.0
MAX_CHANGES = 5  # of the text, logged at once


class Condition:
    """One fault that may last for hours; any thread may report it each time it is met.

    Another text (another error, another file) is logged at once, but ``changes`` times at most.
    """

    def __init__(
        self,
        log: logging.Logger,
        level: int = logging.ERROR,
        changes: int = MAX_CHANGES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._level = level
        self._max_changes = changes
        self._clock = clock
        self._lock = threading.Lock()
        self._text, self._changes = "", 0
        self._since = self._next = 0.0
        self._interval = FIRST_SECONDS
        self._times = 0

    @property
    def is_met(self) -> bool:
        return bool(self._times)

    def met(self, words: str, *arguments: object) -> None:
        """Log the text if it is new, or it is time to repeat it."""
        text = words % arguments
        with self._lock:
            now = self._clock()
            if not self._times:
                self._since, self._interval = now, FIRST_SECONDS
                self._next = now + FIRST_SECONDS
            self._times += 1
            if text != self._text and self._changes < self._max_changes:
                self._text, self._changes = text, self._changes + 1
                self._log.log(self._level, "%s", text)
            elif now >= self._next:
                self._interval = min(2 * self._interval, LONGEST_SECONDS)
                self._next = now + self._interval
                lasted, times = now - self._since, self._times
                self._log.log(self._level, "%s (%d times in %.0f s)", text, times, lasted)

    def over(self, words: str, *arguments: object) -> None:
        """Log the end of the condition, if it was met."""
        with self._lock:
            if self._times:
                text, lasted = words % arguments, self._clock() - self._since
                self._log.info("%s after %.0f s", text, lasted)
            self._times, self._text, self._news = 0, "", 0
