# SPDX-License-Identifier: Apache-2.0
"""Pods that reuse an address with almost no gap, and the API's late events about them."""

import random
from typing import NamedTuple

from podtally.identity.cluster.state import Clocks
from tests.unit.kube_json import Json, Run, pod, stamp, status

SECOND = 1_000_000_000
WALL = 1_800_000_000  # Unix time when CLOCK_MONOTONIC is BOOT
BOOT = 5000
ADDRESS = "198.18.0.7"


class Truth(NamedTuple):
    """Unix seconds. The pod had the address from ``sandbox`` to ``gone``."""

    uid: str
    run: Run

    @property
    def span(self) -> tuple[float, float]:
        sandbox, gone = self.run.sandbox, self.run.gone
        assert sandbox is not None
        assert gone is not None
        return sandbox, gone


def clocks(at: float) -> Clocks:
    return Clocks(round(at * SECOND), monotonic(at))


def monotonic(at: float) -> int:
    return round((at - WALL + BOOT) * SECOND)


def pod_at(truth: Truth, until: float) -> Json:
    """Return the pod's status at a moment, as the kubelet knows it."""
    past = (m if m is not None and m <= until else None for m in truth.run[:5])
    seen = Run._make([*past, 0])
    has = ADDRESS if seen.sandbox is not None else None
    phase = "Pending" if seen.started is None else "Running"
    if seen.gone is not None:
        phase = "Failed"
    deleted = {"metadata__deletionTimestamp": stamp(seen.finished)}
    return pod(truth.uid, truth.uid, status=status(has, seen, phase), **deleted)


def succession(random_: random.Random, pods: int) -> list[Truth]:
    """Make pods that have one address in turn, sometimes with almost no gap."""
    at, made = WALL + random_.random() + 10, []
    for number in range(pods):
        admitted = at - random_.choice((0.0, 0.3, 4.0))  # waits for a volume meanwhile
        sandbox = at + random_.uniform(0.01, 0.2)
        started = sandbox + random_.uniform(0.01, 0.4)
        finished = started + random_.choice((0.2, 0.8, 3.0, 9.0)) * random_.uniform(0.9, 1.1)
        gone = finished + random_.uniform(0.01, 0.5)
        run = Run(admitted, sandbox, started, finished, gone)
        made.append(Truth(f"uid-{number}", run))
        at = gone + random_.choice((0.0, 0.1, 2.0))
    return made


def heard(
    random_: random.Random, truths: list[Truth], late: float
) -> list[tuple[float, str, Json]]:
    """Watch events, in the order that each happened to be written, each up to ``late`` late."""
    events = []
    for truth in truths:
        for moment in truth.run[:5]:
            assert moment is not None
            written = moment + random_.uniform(0.0, late / 2)
            kind = "ADDED" if moment == truth.run.admitted else "MODIFIED"
            events.append((written, kind, pod_at(truth, moment)))
        events.append((written + 0.01, "DELETED", pod_at(truth, written)))
    per_pod: dict[str, float] = {}
    ordered = []
    for written, kind, item in events:  # one pod's events keep their order
        uid = item["metadata"]["uid"]
        per_pod[uid] = max(written, per_pod.get(uid, 0.0) + 1e-4)
        ordered.append((per_pod[uid], kind, item))
    ordered.sort(key=lambda event: event[0])
    latest = 0.0
    for place, (written, kind, item) in enumerate(ordered):  # and so does the stream
        latest = max(latest, written + random_.uniform(0.0, late / 2))
        ordered[place] = (latest, kind, item)
    return ordered
