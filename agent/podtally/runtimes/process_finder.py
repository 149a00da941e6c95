# SPDX-License-Identifier: Apache-2.0
"""The thread that finds the owner of an interface, by a process in its network namespace.

Reports the owner that the process's cgroup names, and requests its name from ``name_resolver``.
A pod may live for only 200 ms, and its first process may start after its interface appears:
hence many tries, most of which look at few processes.
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
# was made long before its first process.
_TRIES_S = (0.0, 0.01, 0.02, 0.04, 0.08, 0.15, 0.25, 0.4, 0.7, 1.0, 2.0, 5.0, 10.0, 30.0)
_LATE_S = 1.0  # from this try on, walk all processes, not only new ones
_FULL_EVERY_S = 1.0
# Limits of the CPU time of walks, in cores and in seconds at once; walks wait for their budget.
_SHARE = 0.1
_BURST_S = 0.25


class ProcessFound(NamedTuple):
    """The owner of an interface; a later one for the same interface is more specific."""

    ifindex: int
    owner: CgroupOwner
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
    owner: CgroupOwner | None = None

    def due(self) -> float:
        return self.since + _TRIES_S[self.tries]


class ProcessFinder:
    """Any thread may call ``look`` and ``forget``; ``put`` is called in the finder's thread."""

    def __init__(self, put: Callable[[NamingEvent], None], resolver: NameResolver) -> None:
        self._put = put
        self._resolver = resolver
        self._queue: queue.SimpleQueue[_LookRequest | _ForgetRequest | None] = queue.SimpleQueue()
        self._pending: dict[int, _PendingLook] = {}
        self._requests = Requests()
        self._namespaces = Namespaces(self._requests)
        self._own_owner = processes.owner_of_process(os.getpid())
        self._processes = processes.ProcessNamespaces()
        # By the inode of a namespace, with a process in it: once that has ended, the inode may
        # be another namespace's.
        self._nsids: dict[int, _KnownProcess] = {}
        self._last_full = 0.0
        self._budget = _WalkBudget()
        self.walks = 0
        self._errors = 0  # of requests to the kernel
        self._worker = Worker("finder", self._run, log)

    @property
    def errors(self) -> int:
        """Return the number of requests that the kernel or the runtime did not answer."""
        return self._errors + self._worker.failures + self._resolver.errors

    @property
    def alive(self) -> bool:
        return self._worker.alive and self._resolver.alive

    @property
    def trouble(self) -> str:
        return self._worker.trouble or self._resolver.trouble

    def start(self) -> None:
        self._resolver.start()
        self._worker.start()

    def stop(self) -> None:
        self._queue.put(None)
        self._worker.join()
        self._resolver.stop()
        self._requests.close()

    def look(self, ifindex: int, nsid: int) -> None:
        """Find the owner of an interface that has appeared, with its peer in this namespace."""
        if nsid != NOT_ASSIGNED:
            self._queue.put(_LookRequest(ifindex, nsid, time.monotonic()))

    def forget(self, ifindex: int) -> None:
        self._queue.put(_ForgetRequest(ifindex))

    def request_name(self, owner: CgroupOwner) -> None:
        """Look up the name of a pod or container that was found in another way."""
        self._resolver.request(owner)

    def _run(self) -> None:
        while True:
            try:
                request = self._queue.get(timeout=self._pause())
            except queue.Empty:
                self._try()
                continue
            match request:
                case None:
                    return
                case _LookRequest(ifindex, nsid, at):
                    self._pending[ifindex] = _PendingLook(nsid, at)
                case _ForgetRequest(ifindex):
                    self._pending.pop(ifindex, None)

    def _pause(self) -> float | None:
        """Return the seconds until the next walk; None while no interface is pending."""
        if not self._pending:
            return None
        due = min(pending.due() for pending in self._pending.values())
        return max(0.0, due - time.monotonic(), self._budget.wait())

    def _try(self) -> None:
        """Walk once, for all pending interfaces."""
        now = time.monotonic()
        due = [w for w in self._pending.values() if w.due() <= now]
        first_or_late = any(not w.tries or now - w.since >= _LATE_S for w in due)
        full = first_or_late and now - self._last_full >= _FULL_EVERY_S
        self._last_full = now if full else self._last_full
        with self._budget:
            self._processes.walk(full)
            self._look_into_namespaces()
        self.walks += 1
        for ifindex, pending in list(self._pending.items()):
            while pending.tries < len(_TRIES_S) and pending.due() <= now:
                pending.tries += 1
            if pending.tries == len(_TRIES_S) or _is_specific(pending.owner):
                del self._pending[ifindex]

    def _look_into_namespaces(self) -> None:
        wanted: dict[int, list[int]] = {}
        for ifindex, pending in self._pending.items():
            wanted.setdefault(pending.nsid, []).append(ifindex)
        by_inode = self._processes.namespaces()
        self._nsids = {
            inode: known
            for inode, known in self._nsids.items()
            if known.witness in by_inode.get(inode, ())
        }
        for inode, pids in by_inode.items():
            if inode not in self._nsids or self._nsids[inode].nsid in wanted:
                self._look_into(inode, pids, wanted)

    def _look_into(self, inode: int, pids: list[int], wanted: dict[int, list[int]]) -> None:
        """Read the cgroups of a namespace's processes, if an interface leads to it."""
        for pid in pids:
            with processes.open_process(pid) as process:
                if process is None or process.netns != inode:
                    continue
                try:
                    nsid = self._nsid_of(process)
                    for ifindex in wanted.get(nsid, ()):
                        self._compare(ifindex, process)
                except OSError as error:
                    self._errors += 1
                    log.debug("cannot get the id of namespace %d: %s", inode, error)
                    return
                if nsid not in wanted:
                    return

    def _nsid_of(self, process: processes.OpenProcess) -> int:
        """Return the id of a process's namespace; it has none while no interface leads there."""
        known = self._nsids.get(process.netns)
        nsid = known.nsid if known is not None else NOT_ASSIGNED
        if nsid == NOT_ASSIGNED:
            nsid = self._namespaces.nsid_of_fd(process.netns_fd)
            if nsid != NOT_ASSIGNED:
                self._nsids[process.netns] = _KnownProcess(nsid, process.pid)
        return nsid

    def _compare(self, ifindex: int, process: processes.OpenProcess) -> None:
        """Keep and report the more specific of two owners; ignore our own cgroup."""
        pending = self._pending[ifindex]
        owner = process.owner
        known = _weight(pending.owner)
        if owner is None or owner == self._own_owner or _weight(owner) <= known:
            return
        # The id of a namespace that is being removed may be another's already (unhash_nsids() in
        # cleanup_net()); its interfaces have no id by then (peernet2id_alloc()).
        link = get_link(self._requests, ifindex)
        if link is None or link.peer_nsid != pending.nsid:
            return
        pending.owner = owner
        self._put(ProcessFound(ifindex, owner, process.pid, time.monotonic_ns()))
        self._resolver.request(owner)


class _WalkBudget:
    """The CPU time that walks may take: a share of wall time, and a burst."""

    def __init__(self) -> None:
        self._left = _BURST_S
        self._at = time.monotonic()
        self._began = 0.0

    def wait(self) -> float:
        """Return the seconds until the budget is positive."""
        self._refill()
        return max(0.0, -self._left / _SHARE)

    def __enter__(self) -> None:
        self._began = time.thread_time()

    def __exit__(self, *_: object) -> None:
        self._refill()
        self._left -= time.thread_time() - self._began

    def _refill(self) -> None:
        now = time.monotonic()
        self._left = min(_BURST_S, self._left + (now - self._at) * _SHARE)
        self._at = now


def _weight(owner: CgroupOwner | None) -> int:
    """Return how specific an owner is: pod, container, machine, unit, none."""
    if owner is None:
        return 0
    if owner.kind == "pod":
        return 4
    if owner.container:
        return 3
    return 1 if owner.kind == "systemd" else 2


def _is_specific(owner: CgroupOwner | None) -> bool:
    """Return whether no better owner is to be expected; a unit may be the runtime's."""
    return _weight(owner) > 1
