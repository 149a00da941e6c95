# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes API as a source of events: one thread for each resource."""

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
_STOP_SECONDS = 1.0  # threads that are still in a name look-up then are left behind


class KubeSource:
    """Lists and watches; every event is given to ``put`` (of a queue), in a thread of its own.

    Events of one resource come in order; between resources there is none.
    """

    def __init__(
        self,
        access: Access,
        resources: Sequence[WatchedResource],
        put: Callable[[ApiEvent], None],
        patience: ClientTiming | None = None,
    ) -> None:
        self._access = access
        self._made_ns = time.monotonic_ns()
        outage = OutageLog(access.server.url)
        patience = patience or ClientTiming()
        self._reflectors = {
            resource.name: Reflector(access, resource, put, outage, patience)
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
        """End all threads, also those that wait for the server; takes at most a second."""
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
        """Return when something was last heard of a resource (CLOCK_MONOTONIC); of one that was
        never heard of, when it was first wanted.

        One that the server has not is seldom asked for: it is as fresh as the server's others.
        """
        reflector = self._reflectors[resource]
        if reflector.absent:
            return max(self._made_ns, *(each.contact_ns for each in self._reflectors.values()))
        return reflector.contact_ns or self._made_ns

    def listed(self, resource: str) -> bool:
        """Return whether it was ever listed to the end, or told to be absent."""
        return self._reflectors[resource].listed

    def unsynced(self, resource: str) -> str:
        """Return why a resource is not known as it is now: ``forbidden``, or ``never synced``;
        "" if it is, or if what was known is only old.
        """
        reflector = self._reflectors[resource]
        if reflector.forbidden:
            return FORBIDDEN
        return "" if reflector.listed else NEVER_SYNCED

    def absent(self, resource: str) -> bool:
        """Return whether the server has no such resource (``Resource.optional``)."""
        return self._reflectors[resource].absent

    def errors(self, resource: str) -> int:
        """Return how many requests and watches have failed."""
        return self._reflectors[resource].errors + self._workers[resource].failures

    def lists(self, resource: str) -> int:
        """Return how many lists were answered: more than one tells of lost watches."""
        return self._reflectors[resource].lists

    def alive(self, resource: str) -> bool:
        """Return whether its thread runs."""
        return self._workers[resource].alive

    def trouble(self, resource: str) -> str:
        """Return what is wrong with its thread; "" if nothing is."""
        return self._workers[resource].trouble
