# SPDX-License-Identifier: Apache-2.0
"""Network namespaces by the id this one knows them by: their names and addresses.

No ``setns``: the kernel answers for another namespace when asked with its id.
"""

import errno
import os
import socket
import struct
from pathlib import Path

from podtally.netlink.links import (
    GETADDR,
    LOOPBACK_IFINDEX,
    AddressMessage,
    address_request,
    parse_address,
)
from podtally.netlink.name_bytes import printable
from podtally.netlink.netlink import Requests, attribute, attributes

NAME_DIRS = (Path("/run/netns"), Path("/var/run/netns"))

_GETNSID = 90
_NETNSA_NSID = 1
_NETNSA_FD = 3
_RTGEN = bytes([socket.AF_UNSPEC, 0, 0, 0])  # struct rtgenmsg, padded
NOT_ASSIGNED = -1
_LOOPBACK_IPV6 = bytes(15) + b"\x01"
_LOOPBACK_IPV4 = bytes(10) + b"\xff\xff\x7f"  # ::ffff:127.0.0.0/104


class Namespaces:
    """Looks namespaces up; a cached name is checked before it is given out: ids are reused."""

    def __init__(self, requests: Requests | None = None) -> None:
        self._requests = requests or Requests()
        self._ids: dict[Path, int] = {}

    def close(self) -> None:
        self._requests.close()

    def nsid_of_fd(self, fd: int) -> int:
        """Return the id of the namespace behind ``fd`` (/proc/PID/ns/net); -1: none here."""
        answer = self._requests.get(_GETNSID, _RTGEN + attribute(_NETNSA_FD, struct.pack("=i", fd)))
        payload = attributes(answer, len(_RTGEN)).get(_NETNSA_NSID)
        return NOT_ASSIGNED if payload is None else int(struct.unpack("=i", payload)[0])

    def is_own(self, nsid: int) -> bool:
        """Return whether an announcement's nsid means this namespace, which may have an id."""
        if nsid < 0:
            return True
        fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return self.nsid_of_fd(fd) == nsid
        finally:
            os.close(fd)

    def name_of(self, nsid: int) -> str:
        """Find the namespace's name under /run/netns, "" if it has none."""
        if nsid < 0:
            return ""
        for path in [path for path, known in self._ids.items() if known == nsid]:
            if self._look(path) == nsid:
                return printable(path.name)
        files = _files()
        self._ids = {path: known for path, known in self._ids.items() if path in files}
        # an id does not change while its namespace lives, so files without one come first;
        # a file may have been created again under its old name, so the others come after
        for path in sorted(files, key=lambda path: self._ids.get(path, NOT_ASSIGNED)):
            if self._look(path) == nsid:
                return printable(path.name)
        return ""

    def addresses(self, nsid: int) -> list[AddressMessage] | None:
        """Addresses of a namespace (-1: this one) except loopback's; None when it is gone."""
        target = struct.pack("=i", nsid) if nsid >= 0 else b""
        try:
            answers = self._requests.dump(GETADDR, address_request(target))
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT, errno.ENONET):
                return None
            raise
        parsed = [parse_address(answer.body) for answer in answers]
        return [a for a in parsed if a is not None and a.ifindex != LOOPBACK_IFINDEX]

    def own_addresses(self) -> set[bytes]:
        """Addresses of this namespace, 16 bytes each, also those that were given to loopback."""
        answers = self._requests.dump(GETADDR, address_request(b""))
        parsed = [parse_address(answer.body) for answer in answers]
        return {a.address for a in parsed if a is not None and not _is_loopback(a.address)}

    def _look(self, path: Path) -> int:
        self._ids[path] = self._read(path)
        return self._ids[path]

    def _read(self, path: Path) -> int:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # removed meanwhile: no name, and nothing broken
            return NOT_ASSIGNED
        try:
            return self.nsid_of_fd(fd)
        except OSError as error:
            # a name is made as an empty file, the namespace is mounted on it afterwards
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return NOT_ASSIGNED
            raise
        finally:
            os.close(fd)


def _is_loopback(address: bytes) -> bool:
    return address == _LOOPBACK_IPV6 or address[:13] == _LOOPBACK_IPV4


def _files() -> set[Path]:
    files: set[Path] = set()
    for directory in {path.resolve() for path in NAME_DIRS if path.is_dir()}:
        files.update(directory.iterdir())
    return files
