# SPDX-License-Identifier: Apache-2.0
"""Finds the path of a cgroup (v2) by its id; ``cgroups`` reads the owner from the path."""

import ctypes
import errno
import os
import struct
from pathlib import Path
from typing import NamedTuple

ROOT_ID = 1  # of the hierarchy's root, the first node of its kernfs
_FILEID_KERNFS = 0xFE  # enum fid_type in include/linux/exportfs.h: the handle is the node's id
_FILE_HANDLE = struct.Struct("=IiQ")  # struct file_handle: bytes, type, and here the id

_NO_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

_libc = ctypes.CDLL(None, use_errno=True)


class Mount(NamedTuple):
    """A mounted cgroup2 file system."""

    path: Path
    root: str  # the cgroup at its root, in this process's cgroup namespace


def find_mount(mountinfo: Path = Path("/proc/self/mountinfo")) -> Mount | None:
    """Return the mount with most of the hierarchy; None without cgroup v2 (mountinfo)."""
    mounts = []
    for line in mountinfo.read_text(errors="surrogateescape").splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.split()[0] == "cgroup2":
            root, point = fields.split()[3:5]
            mounts.append(Mount(Path(unescape(point)), unescape(root)))
    return min(mounts, key=_breadth, default=None)


def _breadth(mount: Mount) -> tuple[bool, int]:
    return not _is_whole(mount), len(mount.root)


def _is_whole(mount: Mount) -> bool:
    try:
        return mount.path.stat().st_ino == ROOT_ID
    except OSError:  # hidden by another mount
        return False


def unescape(field: str) -> str:
    """Return a path of proc_pid_mountinfo(5) without its octal escapes."""
    for octal, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(octal, char)
    return field


class CgroupIds:
    """Looks up cgroups under one mount.

    If the mount has only a part of the hierarchy, as in a container with a cgroup namespace
    of its own, cgroups outside that part have no path: ``is_whole`` is False. With
    CAP_DAC_READ_SEARCH a look-up is one system call; without it, a look-up of a cgroup that is
    not known yet walks the tree.
    """

    def __init__(self, mount: Mount | None) -> None:
        self.mount = mount and mount._replace(path=mount.path.resolve())
        self.is_whole = mount is not None and _is_whole(mount)
        self._by_handle = True
        self._walked: dict[int, str] = {}
        self._fd = -1
        if mount is not None:
            self._fd = os.open(mount.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def path_of(self, cgroup: int) -> str | None:
        """Return the path from the root, as in /proc/PID/cgroup; None if gone or not visible.

        OSError while descriptors or memory are exhausted. Ids are not reused: None stays None.
        """
        if self.mount is None or not cgroup:
            return None
        path = self._open(cgroup) if self._by_handle else None
        if not self._by_handle:  # not permitted, now or before
            path = self._walk(cgroup)
        if path is None:
            return None
        above = "" if self.mount.root.startswith("/..") else self.mount.root.rstrip("/")
        return f"{above}/{path}" if path != "." else above or "/"

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self.mount = None

    def _open(self, cgroup: int) -> str | None:
        """Return the path relative to the mount, by open_by_handle_at(2)."""
        handle = _FILE_HANDLE.pack(8, _FILEID_KERNFS, cgroup)
        fd = _libc.open_by_handle_at(self._fd, handle, os.O_PATH | os.O_CLOEXEC)
        if fd < 0:
            failed = ctypes.get_errno()
            if failed in _NO_RESOURCES:
                raise OSError(failed, os.strerror(failed))
            # ESTALE: no such node. Anything else, EPERM above all: handles cannot be used.
            self._by_handle = failed == errno.ESTALE
            return None
        try:
            path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        finally:
            os.close(fd)
        return self._checked(path, cgroup)

    def _checked(self, path: Path, cgroup: int) -> str | None:
        """Return the path if the cgroup is there; outside the mount or just removed, it is not."""
        assert self.mount is not None
        try:
            relative = path.relative_to(self.mount.path)
            return str(relative) if path.stat().st_ino == cgroup else None
        except (ValueError, OSError):
            return None

    def _walk(self, cgroup: int) -> str | None:
        assert self.mount is not None
        if cgroup not in self._walked:
            self._walked = {
                os.stat(fd).st_ino: os.path.relpath(directory, self.mount.path)
                for directory, _, _, fd in os.fwalk(self.mount.path)
            }
        return self._walked.get(cgroup)
