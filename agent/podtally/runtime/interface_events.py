# SPDX-License-Identifier: Apache-2.0
"""Applies the links thread's events to the books and to the names of interfaces.

Belongs to the main thread; the events arrive through a queue.
"""

import logging
import time
from collections.abc import Iterable, Mapping

from podtally.identity.local.directory import Directory
from podtally.ledger.interfaces.interfaces import UnexplainedBytes
from podtally.ledger.ledger import Ledger
from podtally.netlink import model
from podtally.runtime.epoch_inputs import InterfaceCounters
from podtally.runtime.interface_counters import InterfaceReader, LastReading, WatchedInterface
from podtally.runtime.link_events import LinkEventQueue
from podtally.supervision.conditions import Condition

log = logging.getLogger(__name__)

# Kinds that may count frames without their Ethernet header: what a program redirected to a pair;
# what is received (vlan_do_receive() in net/8021q/vlan_core.c, internal_dev_recv() in
# net/openvswitch/vport-internal_dev.c).
_BARE = ("veth", "netkit", "vlan", "openvswitch")


class InterfaceEvents:
    """The watched interfaces by ifindex; the links thread fills ``queue``."""

    def __init__(self, ledger: Ledger, directory: Directory, events: LinkEventQueue) -> None:
        self.queue = events
        self.watched: dict[int, WatchedInterface] = {}
        self.known_ns = 0  # all events up to then are applied, CLOCK_MONOTONIC
        self._ledger = ledger
        self._directory = directory
        self._unwatched = Condition(log)
        self._gone: dict[int, LastReading | None] = {}
        self._going: frozenset[int] = frozenset()
        self._reader = InterfaceReader()

    def close(self) -> None:
        self._reader.close()

    def take_events(self) -> None:
        """Apply the events put up to now."""
        self.known_ns = time.monotonic_ns()
        for event in self.queue.take():
            self._take(event)

    def forget_absent(self) -> None:
        """After the first listing of links: treat interfaces of the checkpoint that are not
        there as removed while no agent ran.
        """
        for ifindex in self._ledger.interfaces.watched_ifindexes():
            if ifindex not in self.watched:
                self._gone[ifindex] = None
        self._directory.interfaces_listed(self.watched, time.monotonic_ns())

    def take_gone(self) -> dict[int, LastReading | None]:
        """Return interfaces removed since the last call, with their last readings."""
        gone, self._gone = self._gone, {}
        self._going = frozenset(gone)
        return gone

    def still_gone(self, gone: Mapping[int, LastReading | None]) -> dict[int, LastReading | None]:
        """Return those of ``gone`` with an ifindex that no other interface has by now."""
        return {i: last for i, last in gone.items() if i not in self.watched}

    def counters(
        self, gone: Mapping[int, LastReading | None], unexplained: UnexplainedBytes
    ) -> InterfaceCounters:
        """Read all watched interfaces now; add the last readings of removed ones.

        ``unexplained`` says where drops by XDP and qdiscs have to be read, too.
        """
        last = {i: reading for i, reading in gone.items() if reading is not None}
        return self._reader.read(self.watched, last, unexplained)

    def modes(self) -> Iterable[str]:
        return (each.mode for each in self.watched.values() if each.mode)

    def _take(self, event: model.Event) -> None:
        match event:
            case model.Appeared():
                self._appeared(event)
            case model.Attached(ifindex, mode, fresh, high):
                self._ledger.interfaces.attached(ifindex, fresh, high)
                self._unwatched.over("interfaces that appear are watched again")
                if ifindex in self.watched:
                    self.watched[ifindex] = self.watched[ifindex]._replace(mode=mode.value)
            case model.Detached(_, name):
                log.error(
                    "podtally's programs were removed from %s from outside; they are attached "
                    "again, and what passed meanwhile is not counted",
                    name,
                )
            case model.AttachFailed(_, name, reason):
                self._unwatched.met("cannot watch %s: %s", name, reason)
            case model.AddressesChanged():
                self._directory.apply_addresses(event)
            case model.Renamed(ifindex, name):
                self._ledger.interfaces.renamed(ifindex, name)
                self._directory.renamed(ifindex, name)
                if ifindex in self.watched:
                    self.watched[ifindex] = self.watched[ifindex]._replace(name=name)
            case model.NetnsNamed(ifindex, netns):
                self._directory.netns_named(ifindex, netns)
            case model.Gone(ifindex, final, at_ns, frames, moved):
                watched, waiting = self.watched.pop(ifindex, None), self._reader.forget(ifindex)
                self._gone[ifindex] = None
                if watched is not None and final is not None and frames is not None:
                    self._gone[ifindex] = LastReading(watched, final, frames, waiting)
                self._directory.gone(ifindex, at_ns, removed=not moved)

    def _appeared(self, event: model.Appeared) -> None:
        link = event.link
        host = event.role is model.Role.HOST
        bare = link.kind in _BARE
        self.watched[link.ifindex] = WatchedInterface(link.name, event.role, "", link.largest, bare)
        opening = (link.name, event.low, host, event.at_ns)
        self._ledger.interfaces.appeared(link.ifindex, *opening)
        if link.ifindex in self._gone.keys() | self._going:
            # Another interface has the ifindex before the books of the removed one are closed.
            self._gone.pop(link.ifindex, None)
            self._ledger.interfaces.restarted(link.ifindex)
        self._directory.appeared(link.ifindex, link.name, event.netns, host, event.at_ns)
