# SPDX-License-Identifier: Apache-2.0
"""Carries what the links thread sees to the main thread, and at once to the process finder."""

import queue
from collections.abc import Iterable
from typing import Protocol

from podtally.netlink import model


class Finder(Protocol):
    """Finds the processes behind an interface (``runtimes/process_finder``)."""

    def look(self, ifindex: int, nsid: int) -> None: ...

    def forget(self, ifindex: int) -> None: ...


class LinkEventQueue:
    """The queue of the links thread. A pod may be gone before the next epoch, so ``put`` starts
    the process finder at once; before there is one, ``forward_to`` does.
    """

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[model.Event] = queue.SimpleQueue()
        self._finder: Finder | None = None

    def forward_to(self, finder: Finder) -> None:
        """Begin with what is in the queue. Call before the links thread is started."""
        self._finder = finder
        for event in list(self.take()):
            self.put(event)

    def put(self, event: model.Event) -> None:
        self._events.put(event)
        if self._finder is None:
            return
        match event:
            case model.Appeared(link, model.Role.POD):
                self._finder.look(link.ifindex, link.peer_nsid)
            case model.Gone(ifindex):
                self._finder.forget(ifindex)

    def take(self) -> Iterable[model.Event]:
        """Yield the events put up to now."""
        while True:
            try:
                yield self._events.get_nowait()
            except queue.Empty:
                return
