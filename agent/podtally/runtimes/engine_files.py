# SPDX-License-Identifier: Apache-2.0
"""Reads container names from the files of Docker and podman; queries no daemon.

podman keeps labels in a database, which is not read. Neither is the storage of users: their
containers count as the user's (see ``cgroups``).
"""

import os
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from podtally.runtimes.model import Labels

_MAX_BYTES = 16 << 20  # a list of thousands of containers; a longer file is something else

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


def docker_name(storage: Path, container: str) -> ContainerName | None:
    """Return a container's name by its full id, from CONTAINER/config.v2.json in ``storage``."""
    config = _decode(storage / container / "config.v2.json", _DockerContainer)
    name = config.name.removeprefix("/") if config is not None else ""
    if config is None or not name:
        return None
    labels = config.config.labels if config.config is not None else None
    return ContainerName(name, tuple(sorted((labels or {}).items())))


def podman_name(storage: Path, container: str) -> ContainerName | None:
    """Return a container's name by its full id, from the lists of each storage driver:
    containers.json and volatile-containers.json.
    """
    for path in sorted(storage.glob("*-containers/*containers.json")):
        for listed in _decode(path, list[_PodmanContainer]) or ():
            if listed.id == container and listed.names:
                return ContainerName(listed.names[0])
    return None


def _decode(path: Path, kind: type[T]) -> T | None:
    """Decode a file; None if there is none, or if it is only partly written."""
    try:
        with open(path, "rb", opener=_open) as file:
            return msgspec.json.decode(file.read(_MAX_BYTES), type=kind)
    except (OSError, msgspec.DecodeError):
        return None


def _open(path: str, flags: int) -> int:
    """Neither follow a link nor wait for a writer."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
