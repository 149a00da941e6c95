# SPDX-License-Identifier: Apache-2.0
"""Who may make cgroups where, on this host: ownership decides what the name of a cgroup proves."""

import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

from podtally.runtimes import cgroups
from podtally.runtimes.cgroup_ids import unescaped

_OTHERS_WRITE = 0o022  # group and others; an ACL shows in the bits of the group

# cgroup1_show_options() in kernel/cgroup/cgroup-v1.c, and what every file system has.
_OPTIONS = frozenset(
    (
        *("rw", "ro", "seclabel", "noprefix", "xattr", "cpuset_v2_mode", "favordynmods"),
        "clone_children",
    )
)


class Hierarchies(NamedTuple):
    """By controllers, as /proc/PID/cgroup writes them; "" is cgroup v2."""

    mounts: dict[str, str]  # where a whole hierarchy is mounted
    bases: dict[str, str]  # the container that this host is, if it is one

    def made_by_root(self, controllers: str, path: str) -> bool:
        """Return whether root alone can make cgroups in one; False if that cannot be seen."""
        mount = self.mounts.get(controllers)
        if mount is None or ".." in path.split("/"):
            return False
        try:
            found = os.stat(mount + path)
        except OSError:
            return False
        return found.st_uid == 0 and not found.st_mode & _OTHERS_WRITE

    def read_file(self, text: str) -> cgroups.CgroupOwner | None:
        """Return whose the text of a /proc/PID/cgroup is."""
        return cgroups.read_file(text, self.made_by_root, self.bases)

    def read(self, path: str) -> cgroups.CgroupOwner | None:
        """The same for a path of cgroup v2."""
        return cgroups.read(path, lambda each: self.made_by_root("", each), self.bases.get("", ""))


def find_hierarchies(proc: Path = Path("/proc")) -> Hierarchies:
    """Read which hierarchies are mounted whole, and in which container process 1 runs."""
    mounts = {}
    for line in _lines(proc / "self/mountinfo"):
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        root, point = map(unescaped, fields.split()[3:5])
        if kind in ("cgroup", "cgroup2") and root == "/":
            mounts["" if kind == "cgroup2" else _controllers(options)] = point
    bases = {}
    for line in _lines(proc / "1/cgroup"):
        if line.count(":") >= 2:
            _, controllers, path = line.split(":", 2)
            bases[controllers] = cgroups.base_of(path)
    return Hierarchies(mounts, {name: base for name, base in bases.items() if base})


@cache
def hierarchies() -> Hierarchies:
    """Return those of this host, which stay as they are while it is up."""
    return find_hierarchies()


def _controllers(options: str) -> str:
    """Of a mount of cgroup v1, in the order in which /proc/PID/cgroup has them."""
    names = (each for each in options.split(",") if each not in _OPTIONS)
    return ",".join(each for each in names if not each.startswith("release_agent="))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="surrogateescape").splitlines()
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return []
