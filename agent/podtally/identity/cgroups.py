"""What a cgroup path says of who runs in it: a pod's UID, a container, a systemd unit."""

import re
from typing import NamedTuple

# pod<uid>; the systemd driver of the kubelet writes the UID with underscores.
_POD = re.compile(r"pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})")
# docker/<id>, docker-<id>.scope, cri-containerd-<id>.scope, crio-<id>.scope, libpod-<id>.scope
_CONTAINER = re.compile(r"(?:^|/)(?:([a-z][a-z-]*?)[-/])?([0-9a-f]{64})(?:\.scope)?(?:/|$)")
_LXC = re.compile(r"/lxc(?:\.payload)?[./]([^/]+)")
_UNIT = re.compile(r"/([^/]+\.service)(?:/|$)")
_RUNTIMES = {"libpod": "podman", "cri-containerd": "containerd", "crio": "cri-o"}


class Found(NamedTuple):
    """``kind`` is pod, systemd, lxc, or the container runtime; ``name`` its UID, unit or id."""

    kind: str
    name: str


def read(path: str) -> Found | None:
    """The most telling part of one cgroup path; None if it says nothing."""
    if match := _POD.search(path):
        return Found("pod", match[1].replace("_", "-"))
    if match := _CONTAINER.search(path):
        runtime = match[1] or "container"
        return Found(_RUNTIMES.get(runtime, runtime), match[2][:12])
    if match := _LXC.search(path):
        return Found("lxc", match[1])
    if match := _UNIT.search(path):
        return Found("systemd", match[1])
    return None


def read_file(text: str) -> Found | None:
    """The same for the text of /proc/PID/cgroup, all hierarchies of which are looked at."""
    paths = [line.split(":", 2)[2] for line in text.splitlines() if line.count(":") >= 2]
    found = [who for who in map(read, paths) if who is not None]
    return min(found, key=lambda who: (who.kind != "pod", who.kind == "systemd"), default=None)
