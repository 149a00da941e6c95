# SPDX-License-Identifier: Apache-2.0
"""Lists a resource, watches it, and lists it again when the watch cannot continue.

No change is missed: a watch continues from the version of the last line received; where the
server no longer has the changes since, a full list replaces what was known
(``ObjectPage.last``). Every list is a consistent read (no resourceVersion), in pages. A list
with resourceVersion=0, from the watch cache of another server, can be stale and go back in
time (kubernetes/kubernetes issue 59848), and has all 10,000 pods in one response.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from http import HTTPStatus

import msgspec

from podtally.errors import PodtallyError
from podtally.kube.access import Access
from podtally.kube.backoff import Backoff, ClientTiming
from podtally.kube.http import ApiError, Client, ContactError, SilentError
from podtally.kube.lister import PagedLister
from podtally.kube.model import (
    ApiEvent,
    ApiStatus,
    Changed,
    ListPage,
    ObjectPage,
    WatchedResource,
    WatchEvent,
)
from podtally.kube.outage_log import OutageLog

_log = logging.getLogger(__name__)
_TOO_LARGE = "Too large resource version"  # apiserver, storage/errors.go; code 504
# 404s in a row after which a resource counts as absent: a starting server may not know its CRDs
# yet (kubernetes/kubernetes issues 71218 and 115241).
_TIMES_ABSENT, _TIMES_REMOVED = 2, 5  # if it was never listed, and if it was


class Reflector:
    """Follows one resource; ``run`` is its thread, any thread may use the rest."""

    def __init__(
        self,
        access: Access,
        resource: WatchedResource,
        put: Callable[[ApiEvent], None],
        outage: OutageLog,
        timing: ClientTiming,
    ) -> None:
        self.resource = resource
        self.contact_ns = 0  # CLOCK_MONOTONIC, of the last response; 0: never
        self.listed = False  # completely, at least once; or absent
        self.absent = False  # an optional resource that the server does not have
        self.errors = 0
        self.lists = 0  # of which at least one page came
        self._access = access
        self._put = put
        self._outage = outage
        self._timing = timing
        self._client = Client(access, timing)
        self._lister = PagedLister(
            resource.path, self._fetch_page, timing.page_objects, resource.field_selector
        )
        self._backoff = Backoff(timing, random.Random())
        self._stop = threading.Event()
        self._version = ""  # of the last object or event; "": list first
        self._watching_since = 0.0  # CLOCK_MONOTONIC; 0.0: there is no watch
        self._failures = 0  # in a row
        self._refused_with = ""  # the last refusal that was logged
        self._refused_since = 0.0  # CLOCK_MONOTONIC; 0.0: it is not refused
        self._not_found = 0  # in a row

    @property
    def forbidden(self) -> bool:
        """Return whether the server has refused it for longer than a starting server does."""
        since = self._refused_since
        return bool(since) and time.monotonic() - since >= self._timing.forbidden_after_seconds

    def run(self) -> None:
        while not self._stop.is_set():
            wait = self._run_once()
            if wait:
                self._client.drop()
                self._stop.wait(wait)
        self._client.drop()

    def stop(self) -> None:
        self._stop.set()
        self._client.interrupt()

    def _run_once(self) -> float:
        """List if necessary, watch until that ends; return the seconds to wait then."""
        self._watching_since = 0.0
        try:
            if not self._version:
                self._list()
            self._watch()
        except (ApiError, ContactError, PodtallyError, msgspec.MsgspecError, ValueError) as error:
            if self._watched_for(self._timing.stable_seconds):
                self._backoff.reset()
            return 0.0 if self._stop.is_set() else self._on_error(error)
        if self._watched_for(self._timing.first_bound_seconds):
            self._backoff.reset()
            return 0.0
        return self._backoff.next("short watch", self._timing.error_max_seconds)

    def _on_error(self, error: Exception) -> float:
        """Handle the end of list or watch; return the seconds to wait."""
        timing = self._timing
        if isinstance(error, ApiError):
            return self._on_status(error.status)
        if isinstance(error, SilentError) and self._watching_since:
            # No bookmarks: the server has died, or has restored an older etcd.
            self._version = ""
        if isinstance(error, ContactError):
            return self._on_failure("away", str(error), timing.unreachable_max_seconds)
        if isinstance(error, PodtallyError):
            return self._on_failure("access", str(error), timing.error_max_seconds)
        # A watch would send the undecodable line again; a list has the present objects.
        self._version = ""
        return self._on_failure("decoding", f"cannot be decoded: {error}", timing.error_max_seconds)

    def _on_status(self, status: ApiStatus) -> float:
        """Handle an error response; return the seconds to wait."""
        timing = self._timing
        if status.code == HTTPStatus.GONE or _TOO_LARGE in status.message:
            self._version = ""
            spread = self._backoff.between(0.0, timing.relist_seconds)
            return max(spread, self._backoff.next("gone", timing.error_max_seconds))
        if status.code == HTTPStatus.UNAUTHORIZED:
            self._access.renew(self._client.used)
            self._refused_since = self._refused_since or time.monotonic()
            wait = self._on_failure(
                "access", "it refuses our credentials", timing.forbidden_max_seconds
            )
            return wait if self._failures > 1 else 0.0
        if status.code == HTTPStatus.NOT_FOUND and self.resource.optional:
            return self._on_not_found()
        if status.code in (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
            return self._on_refusal(status)
        wait = self._on_failure(
            "error", f"{status.code} {status.message}", timing.error_max_seconds
        )
        return wait + min(status.retry_after_seconds, timing.retry_after_seconds)

    def _on_failure(self, kind: str, why: str, last_bound_seconds: float) -> float:
        self.errors += 1
        self._failures += 1
        self._not_found = 0
        self._outage.lost(self.resource.name, why, repeated=self._failures > 1)
        return self._backoff.next(kind, last_bound_seconds)

    def _on_refusal(self, status: ApiStatus) -> float:
        """Log the missing right, after a while: a starting server may not know its rights yet."""
        self.errors += 1
        self._failures += 1
        self._not_found = 0
        self._outage.found(self.resource.name)
        self._refused_since = self._refused_since or time.monotonic()
        if self.forbidden and self._refused_with != status.message:
            self._refused_with = status.message
            _log.error("the Kubernetes API refuses %s: %s", self.resource.name, self._fix(status))
        return self._backoff.next("refused", self._timing.forbidden_max_seconds)

    def _on_not_found(self) -> float:
        """Handle a 404 of an optional resource: after several the resource is absent, no error."""
        self._version, self._refused_with = "", ""
        self._on_contact()
        self._not_found += 1
        times = _TIMES_REMOVED if self.listed and not self.absent else _TIMES_ABSENT
        if self._not_found < times:
            return self._backoff.next("not found", self._timing.error_max_seconds)
        if not self.absent:
            self.absent = True
            group, plural = _group_and_plural(self.resource.path)
            _log.info(
                "the Kubernetes API has no %s.%s; checking again from time to time", plural, group
            )
            self._put(ObjectPage(self.resource.name, (), True, True, self.contact_ns))
            self.listed = True
        first, last = self._timing.absent_seconds
        return self._backoff.next("absent", last, first)

    def _on_present(self) -> None:
        self._not_found = 0
        if self.absent:
            self.absent = False
            _log.info("the Kubernetes API has %s now", self.resource.name)

    def _fix(self, status: ApiStatus) -> str:
        group, plural = _group_and_plural(self.resource.path)
        verb = "watch" if self._version else "list"
        if status.code == HTTPStatus.NOT_FOUND:
            return f"it has no {self.resource.path}; its version may be too old"
        return (
            f"the right to {verb} is missing; give our ClusterRole a rule with "
            f'apiGroups: ["{group}"], resources: ["{plural}"], verbs: ["list", "watch"]'
        )

    def _on_contact(self) -> None:
        self.contact_ns = time.monotonic_ns()
        self._refused_since = 0.0
        if self._failures:
            self._failures = 0
            self._outage.found(self.resource.name)
        if self._refused_with:
            self._refused_with = ""
            _log.info("the Kubernetes API allows %s now", self.resource.name)

    def _watched_for(self, seconds: float) -> bool:
        """Return whether the watch lasted at least that long."""
        return bool(self._watching_since) and time.monotonic() - self._watching_since >= seconds

    def _list(self) -> None:
        first, version = True, ""
        for page in self._lister.pages():
            self.lists += first
            self._on_contact()
            self._on_present()
            last = not page.continue_token
            self._put(ObjectPage(self.resource.name, page.objects, first, last, self.contact_ns))
            first, version = False, page.resource_version
        self._version = version
        self.listed = True

    def _fetch_page(self, target: str) -> ListPage:
        return self.resource.decode_list(self._client.get(target, self.resource.accept))

    def _watch(self) -> None:
        low, high = self._timing.watch_seconds
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(max(1, round(self._backoff.between(low, high)))),
        }
        lines = self._client.lines(self._lister.target(query), self.resource.accept)
        self._watching_since = time.monotonic()
        self._on_contact()
        while not self._stop.is_set():
            try:
                received = lines.read()
            except EOFError:
                return
            for line in received:
                self._on_event(self.resource.decode_event(line))

    def _on_event(self, event: WatchEvent) -> None:
        self._on_contact()
        if event.type == "ERROR":
            raise ApiError(event.status or ApiStatus(0, "", "an ERROR event without a status"))
        if event.type != "BOOKMARK":
            self._put(Changed(self.resource.name, event.type, event.object, self.contact_ns))
        if event.resource_version:
            self._version = event.resource_version


def _group_and_plural(path: str) -> tuple[str, str]:
    """Return the RBAC names for ``/api/v1/…`` or ``/apis/GROUP/VERSION/…``."""
    parts = path.strip("/").split("/")
    return (parts[1] if parts[0] == "apis" else ""), parts[-1]
