"""What a cgroup path says of who runs in it: a pod, a container, a machine, a systemd unit."""

import re
from typing import NamedTuple

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
_MACHINE = re.compile(r"machine-(?:(qemu|lxc)-\d+-)?(.+)\.scope")
_NSPAWN = re.compile(r"systemd-nspawn@(.+)\.service")
_LIBVIRT = re.compile(r"(?:(?:qemu|lxc)-\d+-)?(.+)\.libvirt-(qemu|lxc)")  # without systemd

_UNITS = (".service", ".socket", ".mount", ".swap")
_USER = re.compile(r"user-\d+\.slice")


class Found(NamedTuple):
    """``kind`` is pod, a container runtime, lxc, machine or systemd.

    ``name`` is the pod's UID, the short id of a container, else the name as it is;
    ``container`` the whole id, if the path has one.
    """

    kind: str
    name: str
    container: str = ""


def read(path: str) -> Found | None:
    """The most telling part of one cgroup path; None if it says nothing."""
    parts = _parts(path)
    return _pod(parts) or _container(parts) or _machine(parts) or _unit(parts)


def read_file(text: str) -> Found | None:
    """The same for the text of /proc/PID/cgroup, all hierarchies of which are looked at."""
    paths = [line.split(":", 2)[2] for line in text.splitlines() if line.count(":") >= 2]
    found = [who for who in map(read, paths) if who is not None]
    return min(found, key=_rank, default=None)


def _rank(found: Found) -> tuple[int, bool]:
    return {"pod": 0, "lxc": 2, "machine": 2, "systemd": 3}.get(found.kind, 1), not found.container


def _parts(path: str) -> list[str]:
    parts = []
    for escaped in path.split("/"):
        part = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), escaped)
        if match := _COLONS.fullmatch(part):
            parts += [match[1], f"{match[2]}-{match[3]}"]
        elif part:
            parts.append(part)
    return parts


def _pod(parts: list[str]) -> Found | None:
    """The outermost: a pod within a pod has its network, and only the outer one is the node's."""
    for place, part in enumerate(parts):
        if match := _POD.fullmatch(part):
            uid = match[1].replace("_", "-")
            below = parts[place + 1 : place + 2]
            inner = _CONTAINER.fullmatch(below[0]) if below else None
            return Found("pod", uid, inner[2] if inner else "")
    return None


def _container(parts: list[str]) -> Found | None:
    """The innermost: a container in a container has a network of its own."""
    for place in range(len(parts) - 1, -1, -1):
        if match := _CONTAINER.fullmatch(parts[place]):
            runtime = match[1] or (parts[place - 1] if place else "")
            return Found(_RUNTIMES.get(runtime, "container"), match[2][:SHORT], match[2])
    if len(parts) > 1 and parts[0] in _CTR_NAMESPACES:
        return Found("containerd", parts[1])
    return None


def _machine(parts: list[str]) -> Found | None:
    for place in range(len(parts) - 1, -1, -1):
        part, parent = parts[place], parts[place - 1] if place else ""
        if parent in _LXC_PARENTS:
            return Found("lxc", part)
        if match := _LXC.fullmatch(part):
            return Found("lxc", match[1])
        if match := _MACHINE.fullmatch(part):
            return Found("lxc" if match[1] == "lxc" else "machine", match[2])
        if match := _LIBVIRT.fullmatch(part):
            return Found("lxc" if match[2] == "lxc" else "machine", match[1])
        if match := _NSPAWN.fullmatch(part):
            return Found("machine", match[1])
    return None


def _unit(parts: list[str]) -> Found | None:
    """The innermost service; else of whom a login session is; else a scope.

    Sessions, and the scopes that a user's manager makes, have a number for a name: a
    new one each time.
    """
    units = [part for part in parts if part.endswith(_UNITS)]
    users = [part for part in parts if _USER.fullmatch(part)]
    scopes = [part for part in parts if part.endswith(".scope") and part != "init.scope"]
    named = units or (users if scopes else []) or scopes
    return Found("systemd", named[-1]) if named else None
