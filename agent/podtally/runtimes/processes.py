# SPDX-License-Identifier: Apache-2.0
"""Maps processes to network namespaces and cgroup owners; the only importer of psutil.

Walks all processes on events only, not every second: a host has thousands.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import psutil

from podtally.runtimes import cgroups
from podtally.runtimes.cgroup_hierarchies import hierarchies

# A runtime's first process starts in the host's namespace and enters its own a moment later;
# an older process that is still in the host's stays running.
YOUNG_SECONDS = 2.0

_OPEN = os.O_RDONLY | os.O_CLOEXEC
_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
_START_FIELD = 22 - 3  # starttime of proc_pid_stat(5), counted after the name


class OpenProcess(NamedTuple):
    """One process of a namespace, with open descriptors of its /proc files."""

    pid: int
    netns_fd: int
    netns: int  # the inode, which a new namespace may get once this one is gone
    owner: cgroups.CgroupOwner | None


class ProcessNamespaces:
    """The processes in other network namespaces than the creator of this object."""

    def __init__(self) -> None:
        self._own_netns = os.stat("/proc/thread-self/ns/net").st_ino
        self._netns: dict[int, int] = {}  # inode by pid
        self._young: dict[int, float] = {}  # until when, on CLOCK_BOOTTIME

    def walk(self, full: bool) -> None:
        """Look at processes that are new or young; with ``full`` at all of them again."""
        running = set(psutil.pids())
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        for pid in self._netns.keys() - running:
            del self._netns[pid]
        new = running - self._netns.keys()
        self._young = {p: end for p, end in self._young.items() if end > now and p in running}
        for pid in running if full else new | self._young.keys():
            try:
                netns = os.stat(f"/proc/{pid}/ns/net").st_ino
            except OSError:  # it has ended, or is ending
                netns = self._own_netns
            self._netns[pid] = netns
            if netns == self._own_netns and pid in new:
                end = _started(pid) + YOUNG_SECONDS
                if end > now:
                    self._young[pid] = end

    def namespaces(self) -> dict[int, list[int]]:
        """Return the pids by the inode of their namespace."""
        found: dict[int, list[int]] = {}
        for pid, netns in self._netns.items():
            if netns != self._own_netns:
                found.setdefault(netns, []).append(pid)
        return found


@contextmanager
def open_process(pid: int) -> Iterator[OpenProcess | None]:
    """Open a process; None if it has ended. All is read from one process, even if its pid is
    reused meanwhile.
    """
    fds: list[int] = []
    try:
        fds.append(os.open(f"/proc/{pid}", _OPEN | os.O_DIRECTORY))
        fds.append(os.open("ns/net", _OPEN, dir_fd=fds[0]))
        fds.append(os.open("cgroup", _OPEN, dir_fd=fds[0]))
        owner = hierarchies().owner_of_file(_text(fds[2]))
        process = OpenProcess(pid, fds[1], os.fstat(fds[1]).st_ino, owner)
    except OSError:
        process = None
    try:
        yield process
    finally:
        for fd in fds:
            os.close(fd)


def owner_of_process(pid: int) -> cgroups.CgroupOwner | None:
    """Return the owner that a process's cgroup names; None if none, or the process has ended."""
    with open_process(pid) as process:
        return process.owner if process is not None else None


def _started(pid: int) -> float:
    """Return when a process started, in seconds on CLOCK_BOOTTIME; 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            behind_name = file.read().rpartition(b")")[2]
    except OSError:
        return 0.0
    return int(behind_name.split()[_START_FIELD]) * _TICK_SECONDS


def _text(fd: int) -> str:
    """Read a file of /proc in one call."""
    return os.read(fd, 1 << 16).decode(errors="surrogateescape")
