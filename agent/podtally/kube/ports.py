# SPDX-License-Identifier: Apache-2.0
"""Named container ports, which policies can refer to."""

from collections.abc import Iterable
from functools import lru_cache
from sys import intern

from podtally.kube.schema import KubeStruct, Ports

PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}  # IANA; the API knows no others
_TEMPLATES = 4096  # pod templates; the ports of each are kept once for all their pods


class ContainerPort(KubeStruct, frozen=True):
    container_port: int
    name: str = ""
    protocol: str = "TCP"


class ContainerPorts(KubeStruct, frozen=True):
    ports: list[ContainerPort] | None = None
    restart_policy: str | None = None


def named_ports(
    containers: Iterable[ContainerPorts] | None, init_containers: Iterable[ContainerPorts] | None
) -> Ports:
    """Return the named ports of containers and of sidecars (KEP-753).

    Sidecars' ports count as in ``FindPort()`` (pkg/api/v1/pod/util.go); other init containers
    serve no traffic.
    """
    sidecars = (each for each in init_containers or () if each.restart_policy == "Always")
    found = {
        (intern(port.name), PROTOCOLS[port.protocol], port.container_port): None
        for container in (*(containers or ()), *sidecars)
        for port in container.ports or ()
        if port.name and port.protocol in PROTOCOLS
    }
    return _kept_once(tuple(found)) if found else ()


@lru_cache(_TEMPLATES)
def _kept_once(ports: Ports) -> Ports:
    return ports
