# SPDX-License-Identifier: Apache-2.0
"""Follows what qdiscs drop and queue behind our programs; reads only where that can be."""

import time
from collections.abc import Collection
from typing import NamedTuple

from podtally.netlink import tc
from podtally.netlink.netlink import Requests

LOOK_EVERY_S = 10.0  # a qdisc may come to an interface that had none


class Waiting(NamedTuple):
    """Of one interface."""

    dropped: int  # frames since this reader began; what the qdisc had dropped before counts, too
    queued: int  # bytes


class QueueReader:
    """Reads root qdiscs. A host of pods without any pays one dump in ``LOOK_EVERY_S``."""

    def __init__(self) -> None:
        self._requests = Requests()
        self._last: dict[int, tc.Queue] = {}
        self._dropped: dict[int, int] = {}
        self._next = 0.0

    def close(self) -> None:
        self._requests.close()

    def read(self, ifindexes: Collection[int], needed: bool) -> dict[int, Waiting]:
        """Return what there is for ``ifindexes``; ``needed``: do not wait for the next look.

        Call it before the counters are read: what leaves a queue in between is in both, which
        does no harm.
        """
        now = time.monotonic()
        if needed or self._last or now >= self._next:
            self._next = now + LOOK_EVERY_S
            self._take(tc.root_queues(self._requests, ifindexes))
        return {
            i: Waiting(dropped, self._last[i].backlog if i in self._last else 0)
            for i, dropped in self._dropped.items()
            if i in ifindexes
        }

    def forget(self, ifindex: int) -> Waiting:
        """Return the last of an interface that is gone."""
        queue = self._last.pop(ifindex, None)
        return Waiting(self._dropped.pop(ifindex, 0), queue.backlog if queue else 0)

    def _take(self, queues: dict[int, tc.Queue]) -> None:
        for ifindex in self._last.keys() | queues.keys():
            more = _dropped_since(self._last.get(ifindex), queues.get(ifindex))
            self._dropped[ifindex] = self._dropped.get(ifindex, 0) + more
        self._last = queues


def _dropped_since(last: tc.Queue | None, now: tc.Queue | None) -> int:
    if last is not None and now is not None and (last.kind, last.handle) == (now.kind, now.handle):
        return (now.drops - last.drops) % (1 << 32)
    # A qdisc that is removed drops what is queued in it, uncounted.
    return (last.waiting if last is not None else 0) + (now.drops if now is not None else 0)
