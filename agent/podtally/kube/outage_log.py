# SPDX-License-Identifier: Apache-2.0
"""Logs when the API server is lost, at growing intervals while it is, and when it is back."""

import logging
import threading

from podtally.supervision.conditions import Condition

_log = logging.getLogger(__name__)


class OutageLog:
    """Shared by the reflectors of one server, each of which loses and finds it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._lost: set[str] = set()
        self._outage = Condition(_log, logging.WARNING, changes=1)

    def lost(self, resource: str, why: str, repeated: bool) -> None:
        """Note a failure; log it if ``repeated``: a single cut connection is normal."""
        with self._lock:
            self._lost.add(resource)
            if repeated:
                self._outage.met(
                    "the Kubernetes API at %s is lost (%s: %s); the last known state stays in use",
                    self._url,
                    resource,
                    why,
                )

    def found(self, resource: str) -> None:
        """Note that a resource's requests succeed again."""
        with self._lock:
            self._lost.discard(resource)
            if not self._lost:
                self._outage.over("the Kubernetes API at %s is back", self._url)
