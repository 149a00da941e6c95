# SPDX-License-Identifier: Apache-2.0
"""The supported container runtimes, one declaration each: cgroups, units, sockets and files.

To support another one, declare it here; ``cgroups``, ``cri`` and ``name_resolver`` use the
declarations. A new file format is a function in ``engine_files``.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from podtally.runtimes.engine_files import ContainerName, docker_name, podman_name


class ContainerEngine(NamedTuple):
    """A container runtime; in a cgroup path, ID are the 64 digits of a container's id.

    Root alone makes the cgroups in ``parents`` and in ``units``.
    """

    name: str  # an endpoint's source, and the namespace of a container without a pod
    prefixes: tuple[str, ...] = ()  # of cgroups called PREFIX-ID or PREFIX-ID.scope
    parents: tuple[str, ...] = ()  # cgroups with children called ID
    free_names: tuple[str, ...] = ()  # those of ``parents`` with children of any name
    units: tuple[str, ...] = ()  # systemd services that make cgroups for containers
    sockets: tuple[Path, ...] = ()  # with the CRI, the kubelet's interface
    in_cri: bool = False  # the CRI lists its containers, and knows the pod of each
    # Returns the name of a container by its full id, from files in ``storage``.
    read_name: Callable[[Path, str], ContainerName | None] | None = None
    storage: Path = Path()


# The first CRI socket that serves pods is used: the order decides.
ENGINES = (
    ContainerEngine(
        name="containerd",
        prefixes=("containerd", "cri-containerd", "nerdctl"),
        parents=("default", "k8s.io"),  # namespaces: of `ctr` and `nerdctl`, and of the CRI
        free_names=("default", "k8s.io"),  # `ctr run` takes any name as an id
        units=("containerd.service",),
        sockets=(Path("/run/containerd/containerd.sock"),),
        in_cri=True,
    ),
    ContainerEngine(
        name="cri-o",
        prefixes=("crio", "crio-conmon"),
        units=("crio.service", "cri-o.service"),
        sockets=(Path("/run/crio/crio.sock"),),
        in_cri=True,
    ),
    ContainerEngine(
        name="docker",
        prefixes=("docker",),
        parents=("docker", "moby"),  # moby: Docker's namespace in containerd
        units=("docker.service",),
        sockets=(Path("/run/cri-dockerd.sock"), Path("/var/run/dockershim.sock")),
        read_name=docker_name,
        storage=Path("/var/lib/docker/containers"),
    ),
    ContainerEngine(
        name="podman",
        prefixes=("libpod", "libpod-conmon", "libpod-payload"),  # payload: --cgroups=split, Quadlet
        parents=("libpod_parent",),
        units=("podman.service",),
        read_name=podman_name,
        storage=Path("/var/lib/containers/storage"),
    ),
    # Kubernetes distributions that start a containerd of their own.
    ContainerEngine(
        name="containerd",
        units=("k3s.service", "k3s-agent.service", "rke2-server.service", "rke2-agent.service"),
        sockets=(Path("/run/k3s/containerd/containerd.sock"),),
        in_cri=True,
    ),
    ContainerEngine(
        name="containerd",
        units=("k0scontroller.service", "k0sworker.service"),
        sockets=(Path("/run/k0s/containerd.sock"),),
        in_cri=True,
    ),
)

ENGINE_NAMES = tuple(dict.fromkeys(engine.name for engine in ENGINES))


class ContainerNames:
    """Finds container names in the files of all engines; ``storage`` replaces their paths."""

    def __init__(self, storage: Mapping[str, Path] | None = None) -> None:
        self._readers = [
            (engine.read_name, (storage or {}).get(engine.name, engine.storage))
            for engine in ENGINES
            if engine.read_name is not None
        ]

    def find(self, container: str) -> ContainerName | None:
        """Return the name of a container by its full id."""
        for read_name, storage in self._readers:
            name = read_name(storage, container)
            if name is not None:
                return name
        return None
