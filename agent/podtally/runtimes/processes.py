# SPDX-License-Identifier: Apache-2.0
"""Which processes live in which network namespace.

The only importer of psutil. A walk over all processes is for events, not for every
second: a host has thousands.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import psutil

from podtally.runtimes import cgroups
from podtally.runtimes.cgroup_hierarchies import hierarchies

# A runtime's first process is cloned in the host's namespace and enters its own a moment
# later; one that is older and still in the host's stays there.
YOUNG_SECONDS = 2.0

_OPEN = os.O_RDONLY | os.O_CLOEXEC
_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
_START_FIELD = 22 - 3  # starttime of proc_pid_stat(5), counted behind the name


class OpenProcess(NamedTuple):
    """One process of a namespace, open while it is looked at."""

    pid: int
    netns_fd: int
    netns: int  # the inode: another namespace's, once this one is gone
    found: cgroups.CgroupOwner | None


class ProcessNamespaces:
    """The processes that live in another network namespace than the maker of this object."""

    def __init__(self) -> None:
        self._own = os.stat("/proc/thread-self/ns/net").st_ino
        self._netns: dict[int, int] = {}  # of every process that was looked at
        self._young: dict[int, float] = {}  # until when, on CLOCK_BOOTTIME

    def walk(self, full: bool) -> None:
        """Look at the processes that are new or young; with ``full`` at all of them anew."""
        there = set(psutil.pids())
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        for pid in self._netns.keys() - there:
            del self._netns[pid]
        new = there - self._netns.keys()
        self._young = {p: end for p, end in self._young.items() if end > now and p in there}
        for pid in there if full else new | self._young.keys():
            try:
                netns = os.stat(f"/proc/{pid}/ns/net").st_ino
            except OSError:  # it has ended, or its memory is gone already
                netns = self._own
            self._netns[pid] = netns
            if netns == self._own and pid in new:
                end = _started(pid) + YOUNG_SECONDS
                if end > now:
                    self._young[pid] = end

    def namespaces(self) -> dict[int, list[int]]:
        """Processes by the inode of their namespace."""
        found: dict[int, list[int]] = {}
        for pid, netns in self._netns.items():
            if netns != self._own:
                found.setdefault(netns, []).append(pid)
        return found


@contextmanager
def open_process(pid: int) -> Iterator[OpenProcess | None]:
    """Open a process; None if it has ended. All that is read is of one process, whoever gets
    its number next.
    """
    fds: list[int] = []
    try:
        fds.append(os.open(f"/proc/{pid}", _OPEN | os.O_DIRECTORY))
        fds.append(os.open("ns/net", _OPEN, dir_fd=fds[0]))
        fds.append(os.open("cgroup", _OPEN, dir_fd=fds[0]))
        found = hierarchies().read_file(_text(fds[2]))
        inhabitant = OpenProcess(pid, fds[1], os.fstat(fds[1]).st_ino, found)
    except OSError:
        inhabitant = None
    try:
        yield inhabitant
    finally:
        for fd in fds:
            os.close(fd)


def owner_of_process(pid: int) -> cgroups.CgroupOwner | None:
    """What the cgroup of a process says; None if it says nothing, or the process has ended."""
    with open_process(pid) as inhabitant:
        return inhabitant.found if inhabitant is not None else None


def _started(pid: int) -> float:
    """When a process began, in seconds on CLOCK_BOOTTIME; 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            behind_name = file.read().rpartition(b")")[2]
    except OSError:
        return 0.0
    return int(behind_name.split()[_START_FIELD]) * _TICK_SECONDS


def _text(fd: int) -> str:
    """A file of /proc, which is read in one piece."""
    return os.read(fd, 1 << 16).decode(errors="surrogateescape")
