# SPDX-License-Identifier: Apache-2.0
"""What is logged of the API server: that it is away, while it is, and that it is back."""

import logging
import threading

from podtally.supervision.conditions import Condition

_log = logging.getLogger(__name__)


class OutageLog:
    """Shared by the reflectors of one server, which each lose and find it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._lost: set[str] = set()
        self._away = Condition(_log, logging.WARNING, news=1)

    def lost(self, resource: str, why: str, tell: bool) -> None:
        """Note a failure; ``tell`` if it is not the first in a row: one cut is nothing."""
        with self._lock:
            self._lost.add(resource)
            if tell:
                self._away.met(
                    "the Kubernetes API at %s is lost (%s: %s); what it said before stays in use",
                    self._url,
                    resource,
                    why,
                )

    def found(self, resource: str) -> None:
        """Note that something was heard of a resource again."""
        with self._lock:
            self._lost.discard(resource)
            if not self._lost:
                self._away.over("the Kubernetes API at %s is back", self._url)
