# SPDX-License-Identifier: Apache-2.0
"""The thread that finds who lives behind an interface: a process in its namespace, by its cgroup.

It tells what it finds, and asks ``namer`` for the name; it knows nothing of addresses.
A pod may live for 200 ms, and its first process come after its interface: so there are
many tries, and most look at few processes.
"""

import logging
import os
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from podtally.netlink.links import get_link
from podtally.netlink.namespaces import NOT_ASSIGNED, Namespaces
from podtally.netlink.netlink import Requests
from podtally.runtimes import processes
from podtally.runtimes.cgroups import CgroupOwner
from podtally.runtimes.name_resolver import NameFound, NameResolver
from podtally.supervision.worker import Worker

log = logging.getLogger(__name__)

# When to look, in seconds after an interface has appeared; the last for a namespace that
# was made long before who is to live in it.
_TRIES_S = (0.0, 0.01, 0.02, 0.04, 0.08, 0.15, 0.25, 0.4, 0.7, 1.0, 2.0, 5.0, 10.0, 30.0)
_LATE_S = 1.0  # from this try on all processes are looked at, not only new ones
_FULL_EVERY_S = 1.0
# Of a core, over time and at once: where pods come all the time, walks wait for each other.
_SHARE = 0.1
_BURST_S = 0.25


class ProcessFound(NamedTuple):
    """Who lives behind an interface; a later one for the same interface is more telling."""

    ifindex: int
    found: CgroupOwner
    pid: int
    at_ns: int  # CLOCK_MONOTONIC


NamingEvent = ProcessFound | NameFound


class _LookRequest(NamedTuple):
    ifindex: int
    nsid: int
    at: float  # CLOCK_MONOTONIC, seconds


class _ForgetRequest(NamedTuple):
    ifindex: int


class _KnownProcess(NamedTuple):
    nsid: int
    witness: int  # pid


@dataclass(slots=True)
class _PendingLook:
    nsid: int
    since: float
    tries: int = 0
    found: CgroupOwner | None = None

    def due(self) -> float:
        return self.since + _TRIES_S[self.tries]


class ProcessFinder:
    """``look`` and ``forget`` may be called by any thread; ``tell`` is called in the finder's."""

    def __init__(self, tell: Callable[[NamingEvent], None], namer: NameResolver) -> None:
        self._tell = tell
        self._namer = namer
        self._asked: queue.SimpleQueue[_LookRequest | _ForgetRequest | None] = queue.SimpleQueue()
        self._waiting: dict[int, _PendingLook] = {}
        self._requests = Requests()
        self._namespaces = Namespaces(self._requests)
        self._own = processes.owner_of_process(os.getpid())
        self._population = processes.ProcessNamespaces()
        # By the inode of a namespace, with a process in it: when that is gone, the inode may
        # be another's.
        self._nsids: dict[int, _KnownProcess] = {}
        self._last_full = 0.0
        self._budget = _WalkBudget()
        self.walks = 0
        self._errors = 0  # of questions to the kernel
        self._worker = Worker("finder", self._run, log)

    @property
    def errors(self) -> int:
        """Questions that the kernel or the runtime did not answer."""
        return self._errors + self._worker.failures + self._namer.errors

    @property
    def alive(self) -> bool:
        return self._worker.alive and self._namer.alive

    @property
    def trouble(self) -> str:
        return self._worker.trouble or self._namer.trouble

    def start(self) -> None:
        self._namer.start()
        self._worker.start()

    def stop(self) -> None:
        self._asked.put(None)
        self._worker.join()
        self._namer.stop()
        self._requests.close()

    def look(self, ifindex: int, nsid: int) -> None:
        """An interface has appeared whose other end is in this namespace."""
        if nsid != NOT_ASSIGNED:
            self._asked.put(_LookRequest(ifindex, nsid, time.monotonic()))

    def forget(self, ifindex: int) -> None:
        self._asked.put(_ForgetRequest(ifindex))

    def name(self, found: CgroupOwner) -> None:
        """Ask for the name of a pod or container that was found in another way."""
        self._namer.name(found)

    def _run(self) -> None:
        while True:
            try:
                asked = self._asked.get(timeout=self._pause())
            except queue.Empty:
                self._try()
                continue
            match asked:
                case None:
                    return
                case _LookRequest(ifindex, nsid, at):
                    self._waiting[ifindex] = _PendingLook(nsid, at)
                case _ForgetRequest(ifindex):
                    self._waiting.pop(ifindex, None)

    def _pause(self) -> float | None:
        """Seconds until the next walk; None while nobody waits."""
        if not self._waiting:
            return None
        due = min(waiting.due() for waiting in self._waiting.values())
        return max(0.0, due - time.monotonic(), self._budget.wait())

    def _try(self) -> None:
        """One walk, for all that wait."""
        now = time.monotonic()
        due = [w for w in self._waiting.values() if w.due() <= now]
        first_or_late = any(not w.tries or now - w.since >= _LATE_S for w in due)
        full = first_or_late and now - self._last_full >= _FULL_EVERY_S
        self._last_full = now if full else self._last_full
        with self._budget:
            self._population.walk(full)
            self._look_into_namespaces()
        self.walks += 1
        for ifindex, waiting in list(self._waiting.items()):
            while waiting.tries < len(_TRIES_S) and waiting.due() <= now:
                waiting.tries += 1
            if waiting.tries == len(_TRIES_S) or _tells(waiting.found):
                del self._waiting[ifindex]

    def _look_into_namespaces(self) -> None:
        wanted: dict[int, list[int]] = {}
        for ifindex, waiting in self._waiting.items():
            wanted.setdefault(waiting.nsid, []).append(ifindex)
        inhabited = self._population.namespaces()
        self._nsids = {
            inode: known
            for inode, known in self._nsids.items()
            if known.witness in inhabited.get(inode, ())
        }
        for inode, pids in inhabited.items():
            if inode not in self._nsids or self._nsids[inode].nsid in wanted:
                self._look_into(inode, pids, wanted)

    def _look_into(self, inode: int, pids: list[int], wanted: dict[int, list[int]]) -> None:
        """Read the cgroups of a namespace's processes, if it is wanted."""
        for pid in pids:
            with processes.open_process(pid) as inhabitant:
                if inhabitant is None or inhabitant.netns != inode:
                    continue
                try:
                    nsid = self._nsid_of(inhabitant)
                    for ifindex in wanted.get(nsid, ()):
                        self._compare(ifindex, inhabitant)
                except OSError as error:
                    self._errors += 1
                    log.debug("the kernel does not tell of namespace %d: %s", inode, error)
                    return
                if nsid not in wanted:
                    return

    def _nsid_of(self, inhabitant: processes.OpenProcess) -> int:
        """The id of a process's namespace; it has none, while no interface leads there."""
        known = self._nsids.get(inhabitant.netns)
        nsid = known.nsid if known is not None else NOT_ASSIGNED
        if nsid == NOT_ASSIGNED:
            nsid = self._namespaces.nsid_of_fd(inhabitant.netns_fd)
            if nsid != NOT_ASSIGNED:
                self._nsids[inhabitant.netns] = _KnownProcess(nsid, inhabitant.pid)
        return nsid

    def _compare(self, ifindex: int, inhabitant: processes.OpenProcess) -> None:
        """Keep and tell the more telling of two processes; of our own cgroup, none."""
        waiting = self._waiting[ifindex]
        found = inhabitant.found
        if found is None or found == self._own or _weight(found) <= _weight(waiting.found):
            return
        # The id of a namespace that is ending may be another's already (unhash_nsids() in
        # cleanup_net()); its interfaces have none by then (peernet2id_alloc()).
        link = get_link(self._requests, ifindex)
        if link is None or link.peer_nsid != waiting.nsid:
            return
        waiting.found = found
        self._tell(ProcessFound(ifindex, found, inhabitant.pid, time.monotonic_ns()))
        self._namer.name(found)


class _WalkBudget:
    """How much walks may cost, in CPU seconds: a share of the time, and some in advance."""

    def __init__(self) -> None:
        self._left = _BURST_S
        self._at = time.monotonic()
        self._began = 0.0

    def wait(self) -> float:
        """Seconds until there is something left to spend."""
        self._earn()
        return max(0.0, -self._left / _SHARE)

    def __enter__(self) -> None:
        self._began = time.thread_time()

    def __exit__(self, *_: object) -> None:
        self._earn()
        self._left -= time.thread_time() - self._began

    def _earn(self) -> None:
        now = time.monotonic()
        self._left = min(_BURST_S, self._left + (now - self._at) * _SHARE)
        self._at = now


def _weight(found: CgroupOwner | None) -> int:
    """How telling a process is: a pod's, a container's, a machine's, a unit's, nobody's."""
    if found is None:
        return 0
    if found.kind == "pod":
        return 4
    if found.container:
        return 3
    return 1 if found.kind == "systemd" else 2


def _tells(found: CgroupOwner | None) -> bool:
    """Whether nothing better is to be expected: a unit may be its runtime's."""
    return _weight(found) > 1
