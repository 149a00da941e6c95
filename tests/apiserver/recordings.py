# SPDX-License-Identifier: Apache-2.0
"""Replays the recordings of a two-node cluster (``../shared/k8s-recordings``)."""

import json
import threading
import time
from pathlib import Path
from typing import NamedTuple

from tests.apiserver.store import KINDS, Object, Store

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "k8s-recordings"
PLAYED = (
    "pods",
    "namespaces",
    "nodes",
    "services",
    "endpointslices",
    "networkpolicies",
    "ingresses",
)


class Recorded(NamedTuple):
    version: int
    at_seconds: float  # on the recordings' clock
    resource: str
    type: str
    object: Object


def listed(resource: str, when: str = "list") -> list[Object]:
    """Return a recorded list's items, with their kinds; ``when`` is list or list.end."""
    kind = KINDS[resource]
    with_kind = {"kind": kind.kind, "apiVersion": kind.api_version}
    body = json.loads((RECORDINGS / "api" / f"{resource}.{when}.json").read_bytes())
    return [with_kind | item for item in body["items"]]


def watched(stream: str) -> list[Recorded]:
    """Return the events of a recorded watch, without its bookmarks."""
    folder = RECORDINGS / "watch"
    lines = (folder / f"{stream}.jsonl").read_bytes().splitlines()
    times = (folder / f"{stream}.recv-seconds.txt").read_text().split()
    assert len(lines) == len(times)
    events = []
    for line, at in zip(lines, times, strict=True):
        event = json.loads(line)
        if event["type"] != "BOOKMARK":
            version = int(event["object"]["metadata"]["resourceVersion"])
            resource = stream.split(".", maxsplit=1)[0]
            events.append(Recorded(version, float(at), resource, event["type"], event["object"]))
    return events


class Player:
    """Writes the recorded events into a store, in the order of their versions."""

    def __init__(self, store: Store, resources: tuple[str, ...] = PLAYED) -> None:
        self._store = store
        for resource in resources:
            body = json.loads((RECORDINGS / "api" / f"{resource}.list.json").read_bytes())
            version = int(body["metadata"]["resourceVersion"])
            store.begin_with(resource, listed(resource), version)
        self.events = sorted(event for resource in resources for event in watched(resource))
        self._next = 0

    def play_until(self, at_seconds: float) -> None:
        """Write at once all events up to a time of the recordings."""
        while self._next < len(self.events):
            event = self.events[self._next]
            if event.at_seconds > at_seconds:
                return
            self._store.replay(event.type, event.resource, event.object)
            self._next += 1

    def play(self, factor: float, stop: threading.Event | None = None) -> None:
        """Write each event when its time has come, ``factor`` times as fast as recorded."""
        stop = stop or threading.Event()
        began = time.monotonic()
        for event in self.events[self._next :]:
            wait = began + event.at_seconds / factor - time.monotonic()
            if stop.wait(max(0.0, wait)):
                return
            self._store.replay(event.type, event.resource, event.object)
            self._next += 1
