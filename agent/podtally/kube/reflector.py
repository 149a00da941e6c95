# SPDX-License-Identifier: Apache-2.0
"""Lists a resource, watches it, and lists it anew where the watch cannot go on.

Nothing is missed: a watch goes on from the version of the last line heard, and where the
server no longer has what came after that, a full list tells what is there (and so what has
gone: ``Page.last``). Every list is a consistent read (no resourceVersion), in pages: it can
neither be stale nor go back in time, as one with resourceVersion=0 from the watch cache of
another server can (kubernetes/kubernetes issue 59848), and such a list comes whole, with all
10,000 pods in one answer.
"""

import logging
import random
import threading
import time
import urllib.parse
from collections.abc import Callable
from http import HTTPStatus

import msgspec

from podtally.errors import PodtallyError
from podtally.kube.access import Access
from podtally.kube.backoff import Backoff, ClientTiming
from podtally.kube.http import ApiError, Client, ContactError, SilentError
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
# So many 404 in a row are believed: while a server starts, it may not know its CRDs yet
# (kubernetes/kubernetes issues 71218 and 115241).
_TIMES_ABSENT, _TIMES_REMOVED = 2, 5  # of what was never listed, and of what was


class Reflector:
    """One resource; ``run`` is its thread's, the rest may be read and called by any."""

    def __init__(
        self,
        access: Access,
        resource: WatchedResource,
        put: Callable[[ApiEvent], None],
        outage: OutageLog,
        patience: ClientTiming,
    ) -> None:
        self.resource = resource
        self.contact_ns = 0  # CLOCK_MONOTONIC, when something was last heard; 0: never
        self.listed = False  # wholly, at least once; or absent
        self.absent = False  # an optional resource that the server has not
        self.errors = 0
        self.lists = 0  # of which at least a page came
        self._access = access
        self._put = put
        self._outage = outage
        self._patience = patience
        self._client = Client(access, patience)
        self._backoff = Backoff(patience, random.Random())
        self._stop = threading.Event()
        self._version = ""  # of the last thing heard; "": list first
        self._page_objects = patience.page_objects
        self._stands_since = 0.0  # the watch; 0.0: there is none
        self._failures = 0  # in a row
        self._refused_with = ""  # the last refusal that was logged
        self._refused_since = 0.0  # CLOCK_MONOTONIC; 0.0: it is not
        self._not_found = 0  # in a row

    @property
    def forbidden(self) -> bool:
        """Whether the server has refused it for longer than one that starts does."""
        since = self._refused_since
        return bool(since) and time.monotonic() - since >= self._patience.forbidden_after_seconds

    def run(self) -> None:
        while not self._stop.is_set():
            wait = self._turn()
            if wait:
                self._client.drop()
                self._stop.wait(wait)
        self._client.drop()

    def stop(self) -> None:
        self._stop.set()
        self._client.interrupt()

    def _turn(self) -> float:
        """List if need be, then watch until that ends; return the seconds to wait then."""
        self._stands_since = 0.0
        try:
            if not self._version:
                self._list()
            self._watch()
        except (ApiError, ContactError, PodtallyError, msgspec.MsgspecError, ValueError) as error:
            if self._stood(self._patience.stable_seconds):
                self._backoff.reset()
            return 0.0 if self._stop.is_set() else self._on_error(error)
        if self._stood(self._patience.first_bound_seconds):
            self._backoff.reset()
            return 0.0
        return self._backoff.next("short watch", self._patience.error_max_seconds)

    def _on_error(self, error: Exception) -> float:
        """Take in why the turn ended; return the seconds to wait."""
        patience = self._patience
        if isinstance(error, ApiError):
            return self._on_status(error.status)
        if isinstance(error, SilentError) and self._stands_since:
            # Without bookmarks from a server that restored an older etcd, or has died.
            self._version = ""
        if isinstance(error, ContactError):
            return self._lost("away", str(error), patience.unreachable_max_seconds)
        if isinstance(error, PodtallyError):
            return self._lost("access", str(error), patience.error_max_seconds)
        # What is not understood would come again in a watch; a list has what is there now.
        self._version = ""
        return self._lost("decoding", f"cannot be decoded: {error}", patience.error_max_seconds)

    def _on_status(self, status: ApiStatus) -> float:
        """Take in an error that the server has answered; return the seconds to wait."""
        patience = self._patience
        if status.code == HTTPStatus.GONE or _TOO_LARGE in status.message:
            self._version = ""
            spread = self._backoff.between(0.0, patience.relist_seconds)
            return max(spread, self._backoff.next("gone", patience.error_max_seconds))
        if status.code == HTTPStatus.UNAUTHORIZED:
            self._access.renew(self._client.used)
            self._refused_since = self._refused_since or time.monotonic()
            wait = self._lost(
                "access", "it refuses our credentials", patience.forbidden_max_seconds
            )
            return wait if self._failures > 1 else 0.0
        if status.code == HTTPStatus.NOT_FOUND and self.resource.optional:
            return self._missing()
        if status.code in (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
            return self._refused(status)
        wait = self._lost("error", f"{status.code} {status.message}", patience.error_max_seconds)
        return wait + min(status.retry_after_seconds, patience.retry_after_seconds)

    def _lost(self, kind: str, why: str, last_bound_seconds: float) -> float:
        self.errors += 1
        self._failures += 1
        self._not_found = 0
        self._outage.lost(self.resource.name, why, tell=self._failures > 1)
        return self._backoff.next(kind, last_bound_seconds)

    def _refused(self, status: ApiStatus) -> float:
        """Say which right is missing; not at once: a server that starts may not know them yet."""
        self.errors += 1
        self._failures += 1
        self._not_found = 0
        self._outage.found(self.resource.name)
        self._refused_since = self._refused_since or time.monotonic()
        if self.forbidden and self._refused_with != status.message:
            self._refused_with = status.message
            _log.error("the Kubernetes API refuses %s: %s", self.resource.name, self._mend(status))
        return self._backoff.next("refused", self._patience.forbidden_max_seconds)

    def _missing(self) -> float:
        """Take in that there is no such resource, which is no error, once it is believed."""
        self._version, self._refused_with = "", ""
        self._heard()
        self._not_found += 1
        times = _TIMES_REMOVED if self.listed and not self.absent else _TIMES_ABSENT
        if self._not_found < times:
            return self._backoff.next("not found", self._patience.error_max_seconds)
        if not self.absent:
            self.absent = True
            group, plural = _group_and_plural(self.resource.path)
            _log.info("the Kubernetes API has no %s.%s; it is looked for again", plural, group)
            self._put(ObjectPage(self.resource.name, (), True, True, self.contact_ns))
            self.listed = True
        first, last = self._patience.absent_seconds
        return self._backoff.next("absent", last, first)

    def _found(self) -> None:
        self._not_found = 0
        if self.absent:
            self.absent = False
            _log.info("the Kubernetes API has %s now", self.resource.name)

    def _mend(self, status: ApiStatus) -> str:
        group, plural = _group_and_plural(self.resource.path)
        verb = "watch" if self._version else "list"
        if status.code == HTTPStatus.NOT_FOUND:
            return f"it has no {self.resource.path}; its version may be too old"
        return (
            f"the right to {verb} is missing; give our ClusterRole a rule with "
            f'apiGroups: ["{group}"], resources: ["{plural}"], verbs: ["list", "watch"]'
        )

    def _heard(self) -> None:
        self.contact_ns = time.monotonic_ns()
        self._refused_since = 0.0
        if self._failures:
            self._failures = 0
            self._outage.found(self.resource.name)
        if self._refused_with:
            self._refused_with = ""
            _log.info("the Kubernetes API gives %s now", self.resource.name)

    def _stood(self, seconds: float) -> bool:
        """Whether there was a watch for at least that long."""
        return bool(self._stands_since) and time.monotonic() - self._stands_since >= seconds

    def _list(self) -> None:
        token, first = "", True
        while first or token:
            page = self._page(token)
            token = page.continue_token
            self.lists += first
            self._heard()
            self._found()
            self._put(
                ObjectPage(self.resource.name, page.objects, first, not token, self.contact_ns)
            )
            first = False
        self._version = page.resource_version
        self._page_objects = self._patience.page_objects
        self.listed = True

    def _page(self, token: str) -> ListPage:
        resource = self.resource
        query = {"limit": str(self._page_objects)}
        if token:
            query["continue"] = token
        try:
            body = self._client.get(self._target(query), resource.accept)
        except ApiError as error:
            if token and error.code == HTTPStatus.GONE:
                # The rest could be had as it is now, but then the first pages' changes since
                # would be missed (API concepts, "Retrieving large results sets in chunks").
                self._page_objects *= 4
            raise
        return resource.decode_list(body)

    def _watch(self) -> None:
        low, high = self._patience.watch_seconds
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(max(1, round(self._backoff.between(low, high)))),
        }
        lines = self._client.lines(self._target(query), self.resource.accept)
        self._stands_since = time.monotonic()
        self._heard()
        while not self._stop.is_set():
            try:
                some = lines.read()
            except EOFError:
                return
            for line in some:
                self._take(self.resource.decode_event(line))

    def _take(self, event: WatchEvent) -> None:
        self._heard()
        if event.type == "ERROR":
            raise ApiError(event.status or ApiStatus(0, "", "an ERROR event without a status"))
        if event.type != "BOOKMARK":
            self._put(Changed(self.resource.name, event.type, event.object, self.contact_ns))
        if event.resource_version:
            self._version = event.resource_version

    def _target(self, query: dict[str, str]) -> str:
        if self.resource.field_selector:
            query["fieldSelector"] = self.resource.field_selector
        return f"{self.resource.path}?{urllib.parse.urlencode(query)}"


def _group_and_plural(path: str) -> tuple[str, str]:
    """Return what RBAC calls the resource under ``/api/v1/…`` or ``/apis/GROUP/VERSION/…``."""
    parts = path.strip("/").split("/")
    return (parts[1] if parts[0] == "apis" else ""), parts[-1]
