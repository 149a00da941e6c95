# SPDX-License-Identifier: Apache-2.0
"""What the links room announces, turned into the books' and the names' view of the interfaces.

Lives in the main thread; the events come from the links thread through a queue.
"""

import logging
import queue
import time
from collections.abc import Iterable, Mapping

from podtally.identity.directory import Directory
from podtally.ledger.ledger import Ledger
from podtally.netlink import model
from podtally.runtime.interface_counters import Gaps, InterfaceReader, Last, Watched
from podtally.runtime.journal import InterfaceCounters
from podtally.runtimes.process_finder import ProcessFinder
from podtally.supervision.conditions import Condition

log = logging.getLogger(__name__)


class LinkEventQueue:
    """Where the links thread puts its events; a pod may be gone before the next epoch, so the
    finder is told of it at once.
    """

    def __init__(self, finder: ProcessFinder) -> None:
        self._events: queue.SimpleQueue[model.Event] = queue.SimpleQueue()
        self._finder = finder

    def put(self, event: model.Event) -> None:
        self._events.put(event)
        match event:
            case model.Appeared(link, model.Role.POD):
                self._finder.look(link.ifindex, link.peer_nsid)
            case model.Gone(ifindex):
                self._finder.forget(ifindex)

    def take(self) -> Iterable[model.Event]:
        """All that was put up to now."""
        while True:
            try:
                yield self._events.get_nowait()
            except queue.Empty:
                return


class InterfaceEvents:
    """The interfaces under watch; ``inbox`` is filled by the links thread."""

    def __init__(self, ledger: Ledger, directory: Directory, finder: ProcessFinder) -> None:
        self.inbox = LinkEventQueue(finder)
        self.interfaces: dict[int, Watched] = {}
        self.known_ns = 0  # up to when all that was announced is taken note of
        self._ledger = ledger
        self._directory = directory
        self._unwatched = Condition(log)
        self._gone: dict[int, Last | None] = {}
        self._going: frozenset[int] = frozenset()
        self._reader = InterfaceReader()

    def close(self) -> None:
        self._reader.close()

    def take_events(self) -> None:
        """Take note of all that was announced up to now."""
        self.known_ns = time.monotonic_ns()
        for event in self.inbox.take():
            self._take(event)

    def forget_absent(self) -> None:
        """After the first look at the links: what the checkpoint knows and is not there has
        gone while nobody looked.
        """
        for ifindex in self._ledger.interfaces.watched_ifindexes():
            if ifindex not in self.interfaces:
                self._gone[ifindex] = None
        self._directory.looked(self.interfaces, time.monotonic_ns())

    def take_gone(self) -> dict[int, Last | None]:
        """Interfaces that went since this was last asked, with their last counters."""
        gone, self._gone = self._gone, {}
        self._going = frozenset(gone)
        return gone

    def still_gone(self, gone: Mapping[int, Last | None]) -> dict[int, Last | None]:
        """Those of ``gone`` whose number is no other interface's by now."""
        return {i: last for i, last in gone.items() if i not in self.interfaces}

    def counters(self, gone: Mapping[int, Last | None]) -> InterfaceCounters:
        """Readings of all watched interfaces now, and the last ones of those that went."""
        told = {i: last for i, last in gone.items() if last is not None}
        return self._reader.read(self.interfaces, told, self._gaps())

    def _gaps(self) -> Gaps:
        interfaces = self._ledger.interfaces
        missing = interfaces.ifindex[(interfaces.gap > 0).any(axis=1)]
        return Gaps(missing.tolist(), bool((interfaces.gap < 0).any()))

    def modes(self) -> Iterable[str]:
        return (watched.mode for watched in self.interfaces.values() if watched.mode)

    def _take(self, event: model.Event) -> None:
        match event:
            case model.Appeared():
                self._appeared(event)
            case model.Attached(ifindex, mode, fresh, high):
                self._ledger.interfaces.attached(ifindex, fresh, high)
                self._unwatched.over("interfaces that appear are watched again")
                if ifindex in self.interfaces:
                    self.interfaces[ifindex] = self.interfaces[ifindex]._replace(mode=mode.value)
            case model.Detached(_, name):
                log.error(
                    "somebody has taken podtally's programs off %s; they are attached again, and "
                    "what passed meanwhile is in no book",
                    name,
                )
            case model.AttachFailed(_, name, reason):
                self._unwatched.met("cannot watch %s: %s", name, reason)
            case model.AddressesChanged():
                self._directory.apply_addresses(event)
            case model.Renamed(ifindex, name):
                self._ledger.interfaces.renamed(ifindex, name)
                self._directory.renamed(ifindex, name)
                if ifindex in self.interfaces:
                    self.interfaces[ifindex] = self.interfaces[ifindex]._replace(name=name)
            case model.NetnsNamed(ifindex, netns):
                self._directory.netns_named(ifindex, netns)
            case model.Gone(ifindex, final, at_ns, frames):
                watched, waiting = self.interfaces.pop(ifindex, None), self._reader.forget(ifindex)
                self._gone[ifindex] = None
                if watched is not None and final is not None and frames is not None:
                    self._gone[ifindex] = Last(watched, final, frames, waiting)
                self._directory.gone(ifindex, at_ns)

    def _appeared(self, event: model.Appeared) -> None:
        link = event.link
        host = event.role is model.Role.HOST
        pair = link.kind == "veth"
        self.interfaces[link.ifindex] = Watched(link.name, event.role, "", link.largest, pair)
        opening = (link.name, event.low, host, event.at_ns)
        self._ledger.interfaces.appeared(link.ifindex, *opening)
        if link.ifindex in self._gone.keys() | self._going:
            # One went, and another has its number before the books of the first are closed.
            self._gone.pop(link.ifindex, None)
            self._ledger.interfaces.restarted(link.ifindex)
        self._directory.appeared(link.ifindex, link.name, event.netns, host, event.at_ns)
