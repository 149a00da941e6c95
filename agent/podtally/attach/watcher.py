# SPDX-License-Identifier: Apache-2.0
"""The thread that follows the kernel's announcements, so that a busy main loop delays nothing.

It only listens and sleeps; what a change means is decided in ``follower``.
"""

import logging
import os
import select
import time
from collections.abc import Callable

from podtally.attach.attacher import Attacher
from podtally.attach.reconciler import Reconciler
from podtally.attach.selection import Wanted
from podtally.netlink.inotify import NewFiles
from podtally.netlink.links import (
    DELADDR,
    DELLINK,
    GROUP_IPV4_ADDRESS,
    GROUP_IPV6_ADDRESS,
    GROUP_LINK,
    NEWADDR,
    NEWLINK,
    all_links,
    parse_link,
)
from podtally.netlink.model import Link, Sink
from podtally.netlink.namespaces import NAME_DIRS, NOT_ASSIGNED
from podtally.netlink.netlink import NetlinkMessage, OverrunError, Requests, Subscription
from podtally.supervision.worker import Worker

log = logging.getLogger(__name__)

_GROUPS = (GROUP_LINK, GROUP_IPV4_ADDRESS, GROUP_IPV6_ADDRESS)
_RECEIVE_BUFFER = 4 << 20  # about 1,000 link announcements, each charged as 4 KiB
# A name is made as an empty file and the namespace mounted on it a moment later, which
# is not announced: look again after these times.
_NAME_DELAYS_S = (0.005, 0.05, 0.5)
# Nor are routes followed, of which a host may have a million: after an address has come, they
# are looked up after these times, and all of them now and then.
_ROUTE_DELAYS_S = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_ROUTES_EVERY_S = 30.0
_COLLECT_S = 0.002


class LinkWatcher:
    """Keeps our programs on all wanted interfaces; what happens is put into ``events``.

    ``wanted`` chooses; ``prepare`` is called with the ifindex before attaching. Both, and
    every attachment, happen in the thread once it runs, so they must be quick.
    """

    def __init__(
        self,
        attacher: Attacher,
        wanted: Wanted,
        prepare: Callable[[int], None],
        events: Sink,
        receive_buffer: int = _RECEIVE_BUFFER,
    ) -> None:
        self._follower = Reconciler(attacher, wanted, prepare, events)
        self._requests = Requests()
        self._announced = Subscription(_GROUPS, receive_buffer)
        self._names = NewFiles(NAME_DIRS)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._look_at: list[float] = []  # times, by time.monotonic()
        now = time.monotonic()
        self._check_at = [now + delay for delay in _ROUTE_DELAYS_S]
        self._check_all_at = now + _ROUTES_EVERY_S
        self._worker = Worker("links", self._run, log)
        self._lost = False  # announcements, by an error
        self._stopping = False
        self.resyncs = 0

    @property
    def attach_errors(self) -> int:
        return self._follower.attach_errors

    @property
    def alive(self) -> bool:
        """False when the thread has died; then new interfaces go unwatched."""
        return self._worker.alive

    def start(self) -> None:
        """Watch what is there, in the calling thread; then follow changes in one of our own."""
        self.watch_present()
        self.follow()

    def watch_present(self) -> None:
        """Attach to all that is there. What an earlier run watched is left as it is."""
        self._follower.all_there(all_links(self._requests))

    def links(self) -> list[Link]:
        """Return all links as they are now."""
        return all_links(self._requests)

    def detach_unwanted(self) -> None:
        """Only before ``follow``: links are the thread's from then on."""
        self._follower.detach_unwanted()

    def follow(self) -> None:
        self.detach_unwanted()
        self._worker.start()

    def check(self) -> None:
        """Have the thread see whether all programs are still where they were put."""
        os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """End the thread. Attachments stay: the kernel keeps counting."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        self._worker.join()
        for resource in (self._announced, self._names, self._requests, self._follower):
            resource.close()
        os.close(self._wake)

    @property
    def trouble(self) -> str:
        return self._worker.trouble

    def _run(self) -> None:
        if self._lost:
            self.resyncs += 1
            self._follower.all_there(all_links(self._requests))
        self._lost = True
        poll = select.poll()
        for source in (self._wake, self._announced, self._names):
            poll.register(source, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(self._patience_ms())}
            if self._wake in ready:
                os.eventfd_read(self._wake)
                if self._stopping:
                    return
                self._follower.attach_lost()
            if self._follower.due() is not None:
                time.sleep(_COLLECT_S)  # a flood of messages is read in batches
            if self._announced.fileno() in ready:
                self._take_announcements()
            if self._names.fileno() in ready:
                self._names.clear()
                now = time.monotonic()
                self._look_at = [now, *(now + delay for delay in _NAME_DELAYS_S)]
            self._look_for_names()
            self._check_routes()

    def _patience_ms(self) -> int:
        waits = self._follower.due()
        due = min([*self._look_at[:1], *self._check_at[:1], self._check_all_at])
        due = due if waits is None else min(due, waits)
        return max(0, int((due - time.monotonic()) * 1000) + 1)

    def _check_routes(self) -> None:
        now = time.monotonic()
        every = self._check_all_at <= now
        if every:
            self._check_all_at = now + _ROUTES_EVERY_S
        if every or (self._check_at and self._check_at[0] <= now):
            self._check_at = [due for due in self._check_at if due > now]
            self._follower.check_routes(every)
        self._follower.look_again()

    def _look_for_names(self) -> None:
        now = time.monotonic()
        if self._look_at and self._look_at[0] <= now:
            self._look_at = [due for due in self._look_at if due > now]
            self._follower.look_for_names()

    def _take_announcements(self) -> None:
        """Handle all that waits.

        After an overrun what is left is still in order, so it goes first; a full list
        then makes good what was lost.
        """
        overrun = False
        readdressed: set[int] = set()
        own: dict[int, bool] = {}
        while True:
            try:
                received = self._announced.receive()
            except OverrunError:
                overrun = True
                continue
            if received is None:
                break
            nsid, messages = received
            if nsid not in own:
                own[nsid] = self._follower.namespaces.is_own(nsid)
            if own[nsid]:
                nsid = NOT_ASSIGNED
            for message in messages:
                if message.kind in (NEWADDR, DELADDR):
                    readdressed.add(nsid)
                else:
                    self._take_link(nsid, message)
        if overrun:
            self.resyncs += 1
            self._follower.all_there(all_links(self._requests))
        self._follower.addresses_changed(readdressed)
        now = time.monotonic()
        self._check_at = self._check_at[:1] + [now + delay for delay in _ROUTE_DELAYS_S]

    def _take_link(self, nsid: int, message: NetlinkMessage) -> None:
        link = parse_link(message.body) if message.kind in (NEWLINK, DELLINK) else None
        if link is None:
            return
        if nsid >= 0:
            self._follower.peer_seen(nsid, link)
        elif message.kind == NEWLINK:
            self._follower.seen(link)
        else:
            self._follower.gone(link)
