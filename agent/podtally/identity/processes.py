"""Which processes live in which network namespace, and the host's own addresses.

The only importer of psutil. A walk over all processes is for events, not for every
second: a host has thousands.
"""

import ipaddress
import os
from collections.abc import Iterator
from typing import NamedTuple

import psutil

from podtally.identity import cgroups


class Inhabitant(NamedTuple):
    """One process of a namespace, open while it is looked at."""

    pid: int
    netns_fd: int


def one_process_a_namespace() -> Iterator[Inhabitant]:
    """A process of every network namespace but our own; each fd is closed behind the caller."""
    seen = {os.stat("/proc/self/ns/net").st_ino}
    for pid in psutil.pids():
        try:
            inode = os.stat(f"/proc/{pid}/ns/net").st_ino
            if inode in seen:
                continue
            fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # it has ended
            continue
        seen.add(inode)
        try:
            yield Inhabitant(pid, fd)
        finally:
            os.close(fd)


def who_is(pid: int) -> cgroups.Found | None:
    """What the cgroup of a process says; None if it says nothing, or the process has ended."""
    try:
        with open(f"/proc/{pid}/cgroup") as file:
            return cgroups.read_file(file.read())
    except OSError:
        return None


def host_addresses() -> set[str]:
    """The addresses of this network namespace's interfaces, without zone or loopback."""
    addresses = set()
    for listed in psutil.net_if_addrs().values():
        for entry in listed:
            text = entry.address.partition("%")[0]
            try:
                address = ipaddress.ip_address(text)
            except ValueError:  # a MAC address
                continue
            if not address.is_loopback:
                addresses.add(str(address))
    return addresses
