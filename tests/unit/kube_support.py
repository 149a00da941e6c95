# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of the Kubernetes client: plain decoders, a consumer, short waits."""

import json
import queue
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from podtally.kube.access import Access, ApiServerAddress
from podtally.kube.backoff import ClientTiming
from podtally.kube.credentials import FileCredentials
from podtally.kube.model import (
    ApiEvent,
    ApiStatus,
    Changed,
    ListPage,
    ObjectPage,
    WatchedResource,
    WatchEvent,
)
from podtally.kube.source import KubeSource
from tests.apiserver.server import ApiServer
from tests.apiserver.store import KINDS, Key, Object, key_of

QUICK = ClientTiming(
    connect_seconds=1.0,
    response_seconds=0.5,
    quiet_seconds=0.6,
    watch_seconds=(1.0, 2.0),
    first_bound_seconds=0.02,
    unreachable_max_seconds=0.1,
    error_max_seconds=0.1,
    forbidden_max_seconds=0.2,
    forbidden_after_seconds=0.3,
    stable_seconds=0.5,
    relist_seconds=0.02,
    page_objects=3,
)
BOUND_SECONDS = 60.0  # for what comes about at once, on the busiest machine
# Not disturbed by a machine that is busy: what is silent is waited for.
PATIENT = replace(QUICK, quiet_seconds=60.0, response_seconds=60.0, connect_seconds=60.0)


def decode_list(body: bytes) -> ListPage:
    decoded = json.loads(body)
    metadata = decoded["metadata"]
    return ListPage(decoded["items"], metadata["resourceVersion"], metadata.get("continue", ""))


def decode_event(line: bytes) -> WatchEvent:
    event = json.loads(line)
    item = event["object"]
    if event["type"] == "ERROR":
        status = ApiStatus(item.get("code", 0), item.get("reason", ""), item.get("message", ""))
        return WatchEvent("ERROR", None, "", status)
    version = item["metadata"]["resourceVersion"]
    return WatchEvent(event["type"], None if event["type"] == "BOOKMARK" else item, version)


def resource(name: str, field_selector: str = "") -> WatchedResource:
    return WatchedResource(name, KINDS[name].path, decode_list, decode_event, field_selector)


def access_to(api: ApiServer, token: str = "") -> Access:
    authorization = f"Bearer {token}" if token else ""
    return Access(
        ApiServerAddress("127.0.0.1", api.port, tls=False), FileCredentials(authorization)
    )


def pod(name: str, **labels: str) -> Object:
    return {
        "metadata": {"namespace": "shop", "name": name, "labels": labels},
        "spec": {"nodeName": "node1"},
    }


class Table:
    """A consumer like the agent: the present objects, by events alone."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[ApiEvent] = queue.SimpleQueue()
        self.there: dict[str, dict[Key, Object]] = {}
        self.heard: list[ApiEvent] = []
        self._listing: dict[str, set[Key]] = {}

    def take(self) -> None:
        while not self.queue.empty():
            event = self.queue.get()
            self.heard.append(event)
            there = self.there.setdefault(event.resource, {})
            if isinstance(event, ObjectPage):
                self._page(there, event)
            elif event.kind == "DELETED":
                del there[key_of(event.object)]  # KeyError: it was reported twice, or never
            else:
                there[key_of(event.object)] = event.object

    def _page(self, there: dict[Key, Object], page: ObjectPage) -> None:
        if page.first:
            self._listing[page.resource] = set()
        listing = self._listing[page.resource]
        for item in page.objects:
            there[key_of(item)] = item
            listing.add(key_of(item))
        if page.last:
            for key in there.keys() - listing:
                del there[key]

    def versions(self, name: str) -> dict[Key, str]:
        self.take()
        there = self.there.get(name, {})
        return {key: item["metadata"]["resourceVersion"] for key, item in there.items()}

    def pages(self, name: str) -> list[ObjectPage]:
        self.take()
        return [e for e in self.heard if isinstance(e, ObjectPage) and e.resource == name]

    def changes(self, name: str) -> list[Changed]:
        self.take()
        return [e for e in self.heard if isinstance(e, Changed) and e.resource == name]


class Watching:
    """A source and its consumer, on a test server."""

    def __init__(
        self,
        api: ApiServer,
        resources: Iterable[WatchedResource] = (),
        timing: ClientTiming = PATIENT,
        access: Access | None = None,
    ) -> None:
        self.api = api
        self.table = Table()
        watched = tuple(resources) or (resource("pods"),)
        access = access or access_to(api)
        self.source = KubeSource(access, watched, self.table.queue.put, timing)
        self.source.start()

    def __enter__(self) -> "Watching":
        return self

    def __exit__(self, *_: Any) -> None:
        self.source.stop()

    def agrees(self, name: str = "pods", seconds: float = BOUND_SECONDS) -> None:
        """Wait until the consumer has the server's objects."""

        def same() -> bool:
            truth = self.api.store.objects(name)
            versions = {k: item["metadata"]["resourceVersion"] for k, item in truth.items()}
            return self.source.listed(name) and self.table.versions(name) == versions

        wait_for(same, seconds)


def wait_for(condition: Callable[[], bool], seconds: float = BOUND_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.005)
