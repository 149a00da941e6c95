# SPDX-License-Identifier: Apache-2.0
"""The cgroup hierarchies of this host, and whether root alone can make cgroups in one.

Ownership decides whether a cgroup's name proves anything.
"""

import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

from podtally.runtimes import cgroups
from podtally.runtimes.cgroup_ids import unescape

_OTHERS_WRITE = 0o022  # group and others; the group bits show an ACL

# From cgroup1_show_options() in kernel/cgroup/cgroup-v1.c, and options of any file system.
_OPTIONS = frozenset(
    (
        *("rw", "ro", "seclabel", "noprefix", "xattr", "cpuset_v2_mode", "favordynmods"),
        "clone_children",
    )
)


class Hierarchies(NamedTuple):
    """The hierarchies, by controllers as in /proc/PID/cgroup; "" is cgroup v2."""

    mounts: dict[str, str]  # mount points of complete hierarchies
    bases: dict[str, str]  # cgroup of the container that this host runs in, if any

    def made_by_root(self, controllers: str, path: str) -> bool:
        """Return whether root alone can make cgroups in a cgroup; False if that is unknown."""
        mount = self.mounts.get(controllers)
        if mount is None or ".." in path.split("/"):
            return False
        try:
            found = os.stat(mount + path)
        except OSError:
            return False
        return found.st_uid == 0 and not found.st_mode & _OTHERS_WRITE

    def owner_of_file(self, text: str) -> cgroups.CgroupOwner | None:
        """Return the owner by the text of a /proc/PID/cgroup."""
        return cgroups.owner_of_file(text, self.made_by_root, self.bases)

    def owner_of_path(self, path: str) -> cgroups.CgroupOwner | None:
        """Return the owner by a path of cgroup v2."""
        return cgroups.owner_of_path(
            path, lambda each: self.made_by_root("", each), self.bases.get("", "")
        )


def find_hierarchies(proc: Path = Path("/proc")) -> Hierarchies:
    """Read which hierarchies are mounted completely, and which container process 1 is in."""
    mounts = {}
    for line in _lines(proc / "self/mountinfo"):
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        root, point = map(unescape, fields.split()[3:5])
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
    """Return this host's hierarchies, which do not change while it is up."""
    return find_hierarchies()


def _controllers(options: str) -> str:
    """Return the controllers of a cgroup v1 mount, in the order of /proc/PID/cgroup."""
    names = (each for each in options.split(",") if each not in _OPTIONS)
    return ",".join(each for each in names if not each.startswith("release_agent="))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="surrogateescape").splitlines()
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return []
