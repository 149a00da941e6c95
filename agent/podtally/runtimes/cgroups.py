# SPDX-License-Identifier: Apache-2.0
"""What a cgroup path says of who runs in it: a pod, a container, a machine, a systemd unit.

A path is read from the root down, and the first part that names an owner decides: whatever
is called what below a user's slice, a container or a unit was made by them, and proves nothing.
So pods and containers count only where root alone can make cgroups.
"""

import re
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from podtally.netlink.name_bytes import printable

SHORT = 12  # digits of a container's id that are shown, as `docker ps` does

_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")  # systemd.unit(5): "String Escaping for Inclusion"
_ID = r"([0-9a-f]{64})"
# A UID with dashes; with underscores (the kubelet's systemd driver: a dash parts slices);
# without either (a static pod's is the MD5 of its manifest).
_UID = r"[0-9a-f]{8}([-_]?)[0-9a-f]{4}(?:\2[0-9a-f]{4}){2}\2[0-9a-f]{12}"
# pod<uid>, kubepods-burstable-pod<uid>.slice, kubelet-kubepods-pod<uid>.slice
_POD = re.compile(rf"(?:[a-z-]+-)?pod({_UID})(?:\.slice)?")
# runc given a systemd path under the cgroupfs driver: <slice>:cri-containerd:<id>
_COLONS = re.compile(rf"([^:]+\.slice):([a-z-]+):{_ID}")
# <id>, docker-<id>.scope, crio-conmon-<id>.scope, libpod-<id>, libpod-payload-<id>
_CONTAINER = re.compile(rf"(?:([a-z][a-z-]*)-)?{_ID}(?:\.scope)?")
_RUNTIMES = {
    "docker": "docker",
    "moby": "docker",  # docker's namespace in containerd
    "containerd": "containerd",
    "cri-containerd": "containerd",
    "nerdctl": "containerd",
    "k8s.io": "containerd",  # the CRI's namespace in containerd
    "default": "containerd",  # the namespace of `ctr` and `nerdctl`
    "crio": "cri-o",
    "crio-conmon": "cri-o",
    "libpod": "podman",
    "libpod-conmon": "podman",
    "libpod-payload": "podman",  # --cgroups=split, as Quadlet does
    "libpod_parent": "podman",
}
_CTR_NAMESPACES = ("default", "k8s.io")  # `ctr run` takes any name as an id

_LXC = re.compile(r"lxc\.(?:payload|monitor)\.(.+)")
_LXC_PARENTS = ("lxc", "lxc.payload", "lxc.monitor")
# systemd-machined's scopes; libvirt calls its machines qemu-<run>-<name>, lxc-<run>-<name>
_MACHINE = re.compile(r"machine-(?:(?P<by>qemu|lxc)-\d+-)?(?P<name>.+)\.scope")
_NSPAWN = re.compile(r"systemd-nspawn@(.+)\.service")
# without systemd
_LIBVIRT = re.compile(
    r"(?:(?:qemu|lxc)-\d+-)?(?P<name>.+)\.libvirt-(?P<by>qemu|lxc)"
)  # without systemd

_UNITS = (".service", ".scope", ".socket", ".mount", ".swap")
_USER = re.compile(r"user-\d+\.slice")
_MANAGER = re.compile(r"user@\d+\.service")
# The services of runtimes, below which these make the cgroups of their containers.
_RUNTIME_UNITS = frozenset(
    (
        *("docker.service", "containerd.service", "crio.service", "cri-o.service"),
        *("podman.service", "libvirtd.service", "lxc.service", "lxd.service", "kubelet.service"),
        *("k3s.service", "k3s-agent.service", "rke2-server.service", "rke2-agent.service"),
        *("k0scontroller.service", "k0sworker.service"),
    )
)
# Where runtimes put what is theirs without systemd; root alone makes them.
_PARENTS = frozenset(
    (
        *("kubepods", "kubelet", "burstable", "besteffort", "guaranteed", "machine"),
        *("docker", "moby", "default", "k8s.io", "libpod_parent", *_LXC_PARENTS),
    )
)


class CgroupOwner(NamedTuple):
    """``kind`` is pod, a container runtime, lxc, machine or systemd.

    ``name`` is the pod's UID, the short id of a container, else the name as it is;
    ``container`` the whole id, if the path has one.
    """

    kind: str
    name: str
    container: str = ""


def _not_known(_: str) -> bool:
    return False


def read(
    path: str, made_by_root: Callable[[str], bool] = _not_known, base: str = ""
) -> CgroupOwner | None:
    """Return the outermost owner that a path names; None if it names none.

    ``made_by_root`` is asked whether root alone can make cgroups in one that no runtime is
    known to use, or in a unit. ``base`` is the container that this host itself is, if it is one.
    """
    above = base if base and f"{path}/".startswith(f"{base}/") else ""
    names = [name for name in path[len(above) :].split("/") if name]
    owner: CgroupOwner | None = None  # of a user's slice or a unit that we are in
    roots = True  # no user makes cgroups here
    parent = ""
    for place, name in enumerate(names):
        above = f"{above}/{name}"
        if name == "..":  # from another namespace: what follows is beside one of our ancestors
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
            owner, roots = CgroupOwner("systemd", parent), False
            continue  # made by the system's manager, as what is right below it
        if parent.endswith(_UNITS) and parent != "init.scope":
            owner = owner or CgroupOwner("systemd", parent)
            roots = roots and parent in _RUNTIME_UNITS
        elif not (parent.endswith(".slice") or parent in _PARENTS or _CONTAINER.fullmatch(parent)):
            roots = False
        if not roots and not made_by_root(above):
            return owner
    return owner


def read_file(
    text: str,
    made_by_root: Callable[[str, str], bool] = lambda controllers, path: False,
    bases: dict[str, str] | None = None,
) -> CgroupOwner | None:
    """The same for the text of /proc/PID/cgroup, all hierarchies of which are looked at.

    ``made_by_root`` and ``bases`` are told the hierarchy by its controllers.
    """
    found = []
    for line in text.splitlines():
        if line.count(":") < 2:
            continue
        _, controllers, path = line.split(":", 2)
        trusted = partial(made_by_root, controllers)
        who = read(path, trusted, (bases or {}).get(controllers, ""))
        if who is not None:
            found.append(who)
    return min(found, key=_rank, default=None)


def base_of(path: str) -> str:
    """The part of a path that is the container or machine in which a whole host runs, or ""."""
    names = path.split("/")
    for place in range(2, len(names) + 1):
        prefix = "/".join(names[:place])
        found = read(prefix)
        if found is not None:
            return "" if found.kind in ("pod", "systemd") else prefix
    return ""


def _rank(found: CgroupOwner) -> tuple[int, bool]:
    return {"pod": 0, "lxc": 2, "machine": 2, "systemd": 3}.get(found.kind, 1), not found.container


def _parts(name: str) -> list[str]:
    """One name of a path; several where a runtime has written a systemd path as a name."""
    part = printable(_ESCAPE.sub(lambda match: chr(int(match[1], 16)), name))
    if match := _COLONS.fullmatch(part):
        return [match[1], f"{match[2]}-{match[3]}"]
    return [part]


def _named(part: str, parent: str, below: str) -> CgroupOwner | None:
    """What a runtime has called so, in a parent that is its own."""
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
    if parent in _CTR_NAMESPACES:
        return CgroupOwner("containerd", part)
    if parent in _LXC_PARENTS:
        return CgroupOwner("lxc", part)
    if match := _LXC.fullmatch(part):
        return CgroupOwner("lxc", match[1])
    if match := _MACHINE.fullmatch(part) or _LIBVIRT.fullmatch(part):
        return CgroupOwner("lxc" if match["by"] == "lxc" else "machine", match["name"])
    if match := _NSPAWN.fullmatch(part):
        return CgroupOwner("machine", match[1])
    return None
