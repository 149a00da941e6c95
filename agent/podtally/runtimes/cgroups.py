# SPDX-License-Identifier: Apache-2.0
"""Reads the owner of a cgroup from its path: a pod, a container, a machine, a systemd unit.

A path is read from the root down, and the first part that names an owner decides: below a
user's slice, a container or a unit, names prove nothing, since their owner chose them. So pods
and containers count only where root alone can make cgroups.
"""

import re
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from podtally.netlink.name_bytes import printable
from podtally.runtimes.engines import ENGINES

SHORT = 12  # digits of a container's id that are shown, as by `docker ps`

_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")  # systemd.unit(5): "String Escaping for Inclusion"
_ID = r"([0-9a-f]{64})"
# A UID with dashes; with underscores (the kubelet's systemd driver: dashes separate slices);
# without either (a static pod's is the MD5 of its manifest).
_UID = r"[0-9a-f]{8}([-_]?)[0-9a-f]{4}(?:\2[0-9a-f]{4}){2}\2[0-9a-f]{12}"
# pod<uid>, kubepods-burstable-pod<uid>.slice, kubelet-kubepods-pod<uid>.slice
_POD = re.compile(rf"(?:[a-z-]+-)?pod({_UID})(?:\.slice)?")
# runc given a systemd path under the cgroupfs driver: <slice>:cri-containerd:<id>
_COLONS = re.compile(rf"([^:]+\.slice):([a-z-]+):{_ID}")
# <id>, docker-<id>.scope, crio-conmon-<id>.scope, libpod-<id>, libpod-payload-<id>
_CONTAINER = re.compile(rf"(?:([a-z][a-z-]*)-)?{_ID}(?:\.scope)?")
_RUNTIMES = {
    name: engine.name for engine in ENGINES for name in (*engine.prefixes, *engine.parents)
}
_FREE_NAME_PARENTS = {name: engine.name for engine in ENGINES for name in engine.free_names}

_LXC = re.compile(r"lxc\.(?:payload|monitor)\.(.+)")
_LXC_PARENTS = ("lxc", "lxc.payload", "lxc.monitor")
# systemd-machined's scopes; libvirt calls its machines qemu-<run>-<name>, lxc-<run>-<name>
_MACHINE = re.compile(r"machine-(?:(?P<by>qemu|lxc)-\d+-)?(?P<name>.+)\.scope")
_NSPAWN = re.compile(r"systemd-nspawn@(.+)\.service")
# without systemd
_LIBVIRT = re.compile(r"(?:(?:qemu|lxc)-\d+-)?(?P<name>.+)\.libvirt-(?P<by>qemu|lxc)")

_UNITS = (".service", ".scope", ".socket", ".mount", ".swap")
_USER = re.compile(r"user-\d+\.slice")
_MANAGER = re.compile(r"user@\d+\.service")
# Services that make the cgroups of their containers and machines below their own.
_RUNTIME_UNITS = frozenset(
    (
        *("libvirtd.service", "lxc.service", "lxd.service", "kubelet.service"),
        *(unit for engine in ENGINES for unit in engine.units),
    )
)
# Parents of runtimes' cgroups without systemd; root alone makes them.
_PARENTS = frozenset(
    (
        *("kubepods", "kubelet", "burstable", "besteffort", "guaranteed", "machine"),
        *(parent for engine in ENGINES for parent in engine.parents),
        *_LXC_PARENTS,
    )
)


class CgroupOwner(NamedTuple):
    """The owner of a cgroup; ``kind`` is pod, a container runtime, lxc, machine or systemd.

    ``name`` is the pod's UID, the short id of a container, else the name in the path;
    ``container`` is the full id, if the path has one.
    """

    kind: str
    name: str
    container: str = ""


def _unknown(_: str) -> bool:
    return False


def owner_of_path(
    path: str, made_by_root: Callable[[str], bool] = _unknown, base: str = ""
) -> CgroupOwner | None:
    """Return the outermost owner that a path names; None if it names none.

    ``made_by_root`` returns whether root alone can make cgroups in a unit's cgroup, or in one
    that no known runtime uses. ``base`` is the cgroup of the container that this host runs in.
    """
    above = base if base and f"{path}/".startswith(f"{base}/") else ""
    names = [name for name in path[len(above) :].split("/") if name]
    owner: CgroupOwner | None = None  # the user's slice or the unit around
    root_only = True  # users make no cgroups here
    parent = ""
    for place, name in enumerate(names):
        above = f"{above}/{name}"
        if name == "..":  # from another cgroup namespace: a sibling of one of our ancestors
            continue
        following = _parts(names[place + 1])[0] if place + 1 < len(names) else ""
        for part, below in pairwise([*_parts(name), following]):
            found = _named(part, parent, below)
            if found is not None:
                return found
            parent = part
        if _MANAGER.fullmatch(parent):
            return CgroupOwner("systemd", parent)
        if _USER.fullmatch(parent):
            owner, root_only = CgroupOwner("systemd", parent), False
            continue  # systemd makes it and its children
        if parent.endswith(_UNITS) and parent != "init.scope":
            owner = owner or CgroupOwner("systemd", parent)
            root_only = root_only and parent in _RUNTIME_UNITS
        elif not (parent.endswith(".slice") or parent in _PARENTS or _CONTAINER.fullmatch(parent)):
            root_only = False
        if not root_only and not made_by_root(above):
            return owner
    return owner


def owner_of_file(
    text: str,
    made_by_root: Callable[[str, str], bool] = lambda controllers, path: False,
    bases: dict[str, str] | None = None,
) -> CgroupOwner | None:
    """Return the owner by the text of /proc/PID/cgroup, considering all hierarchies.

    ``made_by_root`` takes the hierarchy's controllers and the path; ``bases`` has the base of
    each hierarchy, by controllers.
    """
    found = []
    for line in text.splitlines():
        if line.count(":") < 2:
            continue
        _, controllers, path = line.split(":", 2)
        trusted = partial(made_by_root, controllers)
        owner = owner_of_path(path, trusted, (bases or {}).get(controllers, ""))
        if owner is not None:
            found.append(owner)
    return min(found, key=_rank, default=None)


def base_of(path: str) -> str:
    """Return the part of a path up to the container or machine that a host runs in, or ""."""
    names = path.split("/")
    for place in range(2, len(names) + 1):
        prefix = "/".join(names[:place])
        found = owner_of_path(prefix)
        if found is not None:
            return "" if found.kind in ("pod", "systemd") else prefix
    return ""


def _rank(found: CgroupOwner) -> tuple[int, bool]:
    return {"pod": 0, "lxc": 2, "machine": 2, "systemd": 3}.get(found.kind, 1), not found.container


def _parts(name: str) -> list[str]:
    """Return the parts of one name: several where a runtime wrote a systemd path as a name."""
    part = printable(_ESCAPE.sub(lambda match: chr(int(match[1], 16)), name))
    if match := _COLONS.fullmatch(part):
        return [match[1], f"{match[2]}-{match[3]}"]
    return [part]


def _named(part: str, parent: str, below: str) -> CgroupOwner | None:
    """Return the owner that a runtime named this way, in a cgroup of its own."""
    if match := _POD.fullmatch(part):
        inner = _CONTAINER.fullmatch(below)
        return CgroupOwner("pod", match[1].replace("_", "-"), inner[2] if inner else "")
    if parent == "libpod_parent" and _CONTAINER.fullmatch(below):
        return None  # podman's pod, and a container of it
    if match := _CONTAINER.fullmatch(part):
        runtime = match[1] or parent
        return CgroupOwner(_RUNTIMES.get(runtime, "container"), match[2][:SHORT], match[2])
    return _machine(part, parent)


def _machine(part: str, parent: str) -> CgroupOwner | None:
    if parent in _FREE_NAME_PARENTS:
        return CgroupOwner(_FREE_NAME_PARENTS[parent], part)
    if parent in _LXC_PARENTS:
        return CgroupOwner("lxc", part)
    if match := _LXC.fullmatch(part):
        return CgroupOwner("lxc", match[1])
    if match := _MACHINE.fullmatch(part) or _LIBVIRT.fullmatch(part):
        return CgroupOwner("lxc" if match["by"] == "lxc" else "machine", match["name"])
    if match := _NSPAWN.fullmatch(part):
        return CgroupOwner("machine", match[1])
    return None
