# SPDX-License-Identifier: Apache-2.0
"""Watches the Kubernetes API, one thread per resource, and passes on its events."""

import logging
import time
from collections.abc import Callable, Sequence

from podtally.kube.access import Access
from podtally.kube.backoff import ClientTiming
from podtally.kube.model import ApiEvent, WatchedResource
from podtally.kube.outage_log import OutageLog
from podtally.kube.reflector import Reflector
from podtally.supervision.worker import Worker

_log = logging.getLogger(__name__)

FORBIDDEN, NEVER_SYNCED = "forbidden", "never synced"
_STOP_SECONDS = 1.0  # threads still in a DNS look-up by then are abandoned


class KubeSource:
    """Lists and watches; calls ``put`` (of a queue) for every event, in the resource's thread.

    Events of one resource come in order; across resources the order is undefined.
    """

    def __init__(
        self,
        access: Access,
        resources: Sequence[WatchedResource],
        put: Callable[[ApiEvent], None],
        timing: ClientTiming | None = None,
    ) -> None:
        self._access = access
        self._made_ns = time.monotonic_ns()
        outage = OutageLog(access.server.url)
        timing = timing or ClientTiming()
        self._reflectors = {
            resource.name: Reflector(access, resource, put, outage, timing)
            for resource in resources
        }
        self._workers = {
            name: Worker(f"kube-{name}", reflector.run, _log)
            for name, reflector in self._reflectors.items()
        }

    def start(self) -> None:
        for worker in self._workers.values():
            worker.start()

    def stop(self) -> None:
        """End all threads, also those waiting for the server, within a second."""
        for reflector in self._reflectors.values():
            reflector.stop()
        self._access.close()
        deadline = time.monotonic() + _STOP_SECONDS
        for worker in self._workers.values():
            worker.join(max(0.0, deadline - time.monotonic()))

    @property
    def resources(self) -> tuple[str, ...]:
        return tuple(self._reflectors)

    def contact_ns(self, resource: str) -> int:
        """Return when a resource was last in contact, else when this was made (CLOCK_MONOTONIC).

        An absent resource is seldom requested: it is as fresh as the freshest other.
        """
        reflector = self._reflectors[resource]
        if reflector.absent:
            return max(self._made_ns, *(each.contact_ns for each in self._reflectors.values()))
        return reflector.contact_ns or self._made_ns

    def listed(self, resource: str) -> bool:
        """Return whether a resource was ever listed completely, or found absent."""
        return self._reflectors[resource].listed

    def unsynced(self, resource: str) -> str:
        """Return why a resource's objects are unknown: ``forbidden`` or ``never synced``; "" if
        they are known, even if outdated.
        """
        reflector = self._reflectors[resource]
        if reflector.forbidden:
            return FORBIDDEN
        return "" if reflector.listed else NEVER_SYNCED

    def absent(self, resource: str) -> bool:
        """Return whether the server lacks the resource (``WatchedResource.optional``)."""
        return self._reflectors[resource].absent

    def errors(self, resource: str) -> int:
        """Return the number of failed requests and watches."""
        return self._reflectors[resource].errors + self._workers[resource].failures

    def lists(self, resource: str) -> int:
        """Return the number of answered lists: more than one means lost watches."""
        return self._reflectors[resource].lists

    def alive(self, resource: str) -> bool:
        """Return whether the resource's thread runs."""
        return self._workers[resource].alive

    def trouble(self, resource: str) -> str:
        """Return what is wrong with the resource's thread; "" if nothing is."""
        return self._workers[resource].trouble
