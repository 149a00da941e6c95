"""What is logged of the API server: once that it is away, once that it is back."""

import logging
import threading
import time

_log = logging.getLogger(__name__)


class Outage:
    """Shared by the reflectors of one server, which each lose and find it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._lost: set[str] = set()
        self._since_ns = 0
        self._told = False

    def lost(self, resource: str, why: str, tell: bool) -> None:
        """Note a failure; ``tell`` if it is not the first in a row: one cut is nothing."""
        with self._lock:
            if not self._lost:
                self._since_ns = time.monotonic_ns()
            self._lost.add(resource)
            if tell and not self._told:
                self._told = True
                _log.warning(
                    "the Kubernetes API at %s is lost (%s: %s); what it said before stays in use",
                    self._url,
                    resource,
                    why,
                )

    def found(self, resource: str) -> None:
        """Note that something was heard of a resource again."""
        with self._lock:
            self._lost.discard(resource)
            if self._lost:
                return
            if self._told:
                seconds = (time.monotonic_ns() - self._since_ns) / 1e9
                _log.info("the Kubernetes API at %s is back after %.0f s", self._url, seconds)
            self._told = False
