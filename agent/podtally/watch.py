"""What the links room announces, turned into the books' and the names' view of the interfaces.

Lives in the main thread; the events come from the links thread through a queue.
"""

import logging
import queue
import time
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from podtally.epoch import Counters
from podtally.identity import processes
from podtally.identity.directory import Directory
from podtally.ledger.interfaces import UNBOUNDED
from podtally.ledger.ledger import Ledger
from podtally.links import model
from podtally.links.counters import CounterReader
from podtally.links.namespaces import Namespaces

log = logging.getLogger(__name__)

# When to look again for a process in a namespace that has none yet, in seconds.
_LOOK_AFTER = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Watched(NamedTuple):
    name: str
    role: model.Role
    nsid: int
    mode: str  # "" until attached


class Watch:
    """The interfaces under watch; ``events`` is filled by the links thread."""

    def __init__(self, ledger: Ledger, directory: Directory) -> None:
        self.events: queue.SimpleQueue[model.Event] = queue.SimpleQueue()
        self.interfaces: dict[int, Watched] = {}
        self._ledger = ledger
        self._directory = directory
        self._gone: dict[int, model.Counters | None] = {}
        self._look_at: dict[int, list[float]] = {}
        self._reader = CounterReader()
        self._namespaces = Namespaces()

    def close(self) -> None:
        self._reader.close()
        self._namespaces.close()

    def take_events(self) -> None:
        """Take note of all that was announced up to now."""
        while True:
            try:
                event = self.events.get_nowait()
            except queue.Empty:
                return
            self._take(event)

    def forget_absent(self) -> None:
        """After the first look at the links: what the checkpoint knows and is not there has
        gone while nobody looked.
        """
        for ifindex in self._ledger.interfaces.watched_ones():
            if ifindex not in self.interfaces:
                self._gone[ifindex] = None
                self._directory.gone(ifindex, time.monotonic_ns())

    def take_gone(self) -> dict[int, model.Counters | None]:
        """Interfaces that went since this was last asked, with their last counters."""
        gone, self._gone = self._gone, {}
        return gone

    def refresh_names(self) -> None:
        """Bring the table of names up to date, and tell the ledger whose have changed."""
        before = self._directory.names.endpoints
        if not self._directory.refresh(time.monotonic_ns()):
            return
        after = self._directory.names.endpoints
        self._ledger.rename(
            i for i, endpoint in after.items() if i in before and before[i] != endpoint
        )
        self._ledger.rename(i for i in after.keys() - before.keys())

    def look_for_processes(self) -> None:
        """Ask the processes who lives behind the interfaces that have no name yet."""
        now = time.monotonic()
        due = [i for i, times in self._look_at.items() if times and times[0] <= now]
        if not due:
            return
        unnamed = set(self._directory.unnamed())
        for ifindex in due:
            later = [at for at in self._look_at[ifindex] if at > now]
            if ifindex in unnamed and later:
                self._look_at[ifindex] = later
            else:
                del self._look_at[ifindex]
        wanted = {self.interfaces[i].nsid: i for i in unnamed if i in self.interfaces}
        if wanted:
            self._look_into_namespaces(wanted)

    def counters(self, gone: dict[int, model.Counters | None]) -> Counters:
        """Readings of all watched interfaces now, and the last ones of those that went."""
        ifindex, rx, tx = self._reader.read()
        host = {i for i, w in self.interfaces.items() if w.role is model.Role.HOST}
        own = np.isin(ifindex, np.fromiter(self.interfaces, np.int64, len(self.interfaces)))
        ifindex, bytes_ = ifindex[own], np.stack([rx[own], tx[own]], axis=1)
        if host:
            turned = np.isin(ifindex, np.fromiter(host, np.int64, len(host)))
            bytes_[turned] = bytes_[turned][:, ::-1]
        last = [
            (i, [UNBOUNDED if c == model.UNKNOWN else c for c in final])
            for i, final in gone.items()
            if final is not None
        ]
        if not last:
            return Counters(ifindex, bytes_)
        return Counters(
            np.concatenate([ifindex, [i for i, _ in last]]).astype(np.int64),
            np.concatenate([bytes_, [pair for _, pair in last]]).astype(np.int64),
        )

    def modes(self) -> Iterable[str]:
        return (watched.mode for watched in self.interfaces.values() if watched.mode)

    def _look_into_namespaces(self, wanted: dict[int, int]) -> None:
        for inhabitant in processes.one_process_a_namespace():
            nsid = self._namespaces.nsid_of_fd(inhabitant.netns_fd)
            found = processes.who_is(inhabitant.pid) if nsid in wanted else None
            if found is not None:
                self._directory.process_found(wanted[nsid], found)

    def _take(self, event: model.Event) -> None:
        match event:
            case model.Appeared():
                self._appeared(event)
            case model.Attached(ifindex, mode, fresh, high):
                self._ledger.interfaces.attached(ifindex, fresh, high)
                if ifindex in self.interfaces:
                    self.interfaces[ifindex] = self.interfaces[ifindex]._replace(mode=mode.value)
            case model.AttachFailed(_, name, reason):
                log.error("cannot watch %s: %s", name, reason)
            case model.AddressesChanged(ifindex, addresses):
                self._directory.addresses_changed(ifindex, addresses)
            case model.Renamed(ifindex, name):
                self._ledger.interfaces.renamed(ifindex, name)
                self._directory.renamed(ifindex, name)
                if ifindex in self.interfaces:
                    self.interfaces[ifindex] = self.interfaces[ifindex]._replace(name=name)
            case model.NetnsNamed(ifindex, netns):
                self._directory.netns_named(ifindex, netns)
            case model.Gone(ifindex, final):
                self._gone[ifindex] = final
                self.interfaces.pop(ifindex, None)
                self._look_at.pop(ifindex, None)
                self._directory.gone(ifindex, time.monotonic_ns())

    def _appeared(self, event: model.Appeared) -> None:
        link = event.link
        self._gone.pop(link.ifindex, None)
        host = event.role is model.Role.HOST
        self.interfaces[link.ifindex] = Watched(link.name, event.role, link.peer_nsid, "")
        self._ledger.interfaces.appeared(link.ifindex, link.name, event.low)
        self._directory.appeared(link.ifindex, link.name, event.netns, host)
        if host:
            self._directory.host_addresses(processes.host_addresses())
        else:
            now = time.monotonic()
            self._look_at[link.ifindex] = [now + delay for delay in _LOOK_AFTER]
