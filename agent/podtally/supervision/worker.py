# SPDX-License-Identifier: Apache-2.0
"""Runs a thread that restarts after an error, such as a lack of descriptors or memory."""

import logging
import threading
import time
from collections.abc import Callable

from podtally.supervision.conditions import Condition

_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.05, 5.0
_CALM_SECONDS = 10.0  # without an error: then the trouble is over


class Worker:
    """Runs ``loop`` in a thread of its own until it returns; after an exception, again.

    ``trouble`` says what is wrong, "" if nothing is; ``alive`` is False once the thread has ended.
    """

    def __init__(self, name: str, loop: Callable[[], None], log: logging.Logger) -> None:
        self._name, self._loop = name, loop
        self._condition = Condition(log)
        self._log = log
        self._bugs: set[str] = set()
        self._stop = threading.Event()
        self._failed_at = 0.0
        self._error = ""
        self.failures = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def trouble(self) -> str:
        is_recent = self._error and time.monotonic() - self._failed_at < _CALM_SECONDS
        return f"the thread {self._name} fails: {self._error}" if is_recent else ""

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end of ``loop``, which must have been asked to return."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        wait = _FIRST_WAIT_SECONDS
        while True:
            began = time.monotonic()
            try:
                self._loop()
                return
            except Exception as error:  # other threads depend on this one
                self._failed(error)
            if time.monotonic() - began > _CALM_SECONDS:
                wait = _FIRST_WAIT_SECONDS
            self._stop.wait(wait)
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)

    def _failed(self, error: Exception) -> None:
        now = time.monotonic()
        if self._condition.is_met and now - self._failed_at > _CALM_SECONDS:
            self._condition.over("the thread %s worked again", self._name)
        self.failures += 1
        self._failed_at, self._error = now, str(error) or type(error).__name__
        words = f"{type(error).__name__}: {error}"
        if not isinstance(error, OSError | MemoryError) and words not in self._bugs:
            self._bugs.add(words)
            self._log.error("a bug in the thread %s, please report it", self._name, exc_info=error)
        self._condition.met("the thread %s failed, and is restarted: %s", self._name, self._error)
