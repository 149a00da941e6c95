# SPDX-License-Identifier: Apache-2.0
"""Names of Docker's and podman's containers, from the files that these keep of them.

No daemon is asked. podman's labels lie in a database of its own and are not read; nor is the
storage of users: whatever runs there is the user's (see ``cgroups``).
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from podtally.runtimes.model import Labels

DOCKER = Path("/var/lib/docker/containers")
PODMAN = Path("/var/lib/containers/storage")
_MOST_BYTES = 16 << 20  # a list of thousands of containers; what is longer is no such list

T = TypeVar("T")


class ContainerName(NamedTuple):
    name: str
    labels: Labels = ()


class _DockerConfig(msgspec.Struct, rename="pascal"):
    labels: dict[str, str] | None = None


class _DockerContainer(msgspec.Struct, rename="pascal"):
    name: str = ""
    config: _DockerConfig | None = None


class _PodmanContainer(msgspec.Struct):
    id: str
    names: list[str] = []


class ContainerEngines:
    """Finds containers by their full id."""

    def __init__(self, docker: Path = DOCKER, podman: Path = PODMAN) -> None:
        self._docker = docker
        self._podman = podman

    def find(self, container: str) -> ContainerName | None:
        return self._in_docker(container) or self._in_podman(container)

    def _in_docker(self, container: str) -> ContainerName | None:
        read = _read(self._docker / container / "config.v2.json", _DockerContainer)
        name = read.name.removeprefix("/") if read is not None else ""
        if read is None or not name:
            return None
        labels = read.config.labels if read.config is not None else None
        return ContainerName(name, tuple(sorted((labels or {}).items())))

    def _in_podman(self, container: str) -> ContainerName | None:
        for path in self._podman_lists():
            for listed in _read(path, list[_PodmanContainer]) or ():
                if listed.id == container and listed.names:
                    return ContainerName(listed.names[0])
        return None

    def _podman_lists(self) -> Iterator[Path]:
        """containers.json and its sister for those not meant to last, of each storage driver."""
        yield from sorted(self._podman.glob("*-containers/*containers.json"))


def _read(path: Path, kind: type[T]) -> T | None:
    """Decode a file; None where it is not there, or is being written by somebody else."""
    try:
        with open(path, "rb", opener=_open) as file:
            return msgspec.json.decode(file.read(_MOST_BYTES), type=kind)
    except (OSError, msgspec.DecodeError):
        return None


def _open(path: str, flags: int) -> int:
    """Neither follow a link nor wait for a writer."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
