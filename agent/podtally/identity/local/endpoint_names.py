# SPDX-License-Identifier: Apache-2.0
"""Names the endpoint behind an interface or a host socket, from what the sources report.

For an interface the first of these counts: the configuration's ``endpoints``; the pod that a
process in its namespace belongs to, by UID, as named by the API, the container runtime or the
pods' logs; the name of the network namespace; a container; a systemd unit. While a better name
may still come, the endpoint is not final.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from podtally.config import StaticEndpoint
from podtally.identity.cluster.state import ClusterState
from podtally.identity.interface_endpoints import InterfaceEndpoint, static_endpoint
from podtally.identity.model import FOREVER, UNKNOWN, UNKNOWN_ENDPOINT, Endpoint
from podtally.runtimes.cgroups import CgroupOwner

SETTLE_NS = 2_000_000_000  # the first process may be the runtime's, and a name follows soon
# Names that runtimes give to namespaces: cni-UUID (containerd), UUID (CRI-O), netns-UUID (podman).
_GENERATED = re.compile(r"(?:[a-z]+-)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HOST = Endpoint("host", "host", "host", "Host", "host", ports=(), host_network=True)


class HostSocket(NamedTuple):
    """The owner of host sockets under one cgroup."""

    owner: CgroupOwner | None  # None: the host itself
    since_ns: int  # when a name was first expected; 0 if none is


class InterfaceName(NamedTuple):
    endpoint: Endpoint
    keep: bool = False  # the name is a pod's own and outlives its sources


class EndpointNames:
    """Call ``begin`` before a round of look-ups; ``recheck_ns`` is when the next is due."""

    def __init__(
        self,
        static: Iterable[StaticEndpoint],
        node: str,
        cluster: ClusterState | None,
        timeout_ns: int,
    ) -> None:
        self._static = tuple(static)
        self._node = node
        self._host = _HOST._replace(node=node)
        self._cluster = cluster
        self._timeout_ns = timeout_ns
        self._names: dict[str, Endpoint] = {}  # by a pod's UID or a container's id
        self._now_ns = 0
        self.recheck_ns = FOREVER

    def put(self, key: str, endpoint: Endpoint) -> bool:
        """Note the name of a pod, by UID, or of a container, by full id; return if it is new."""
        # Only for a pod may a source still report named ports.
        ports = endpoint.ports if endpoint.uid else ()
        endpoint = endpoint._replace(node=self._node, ports=ports)
        is_new = self._names.get(key) != endpoint
        self._names[key] = endpoint
        return is_new

    def forget(self, owner: CgroupOwner) -> None:
        self._names.pop(owner.name, None)
        self._names.pop(owner.container, None)

    def begin(self, now_ns: int) -> None:
        self._now_ns = now_ns
        self.recheck_ns = FOREVER

    def of_interface(self, interface: InterfaceEndpoint) -> InterfaceName:
        for entry in self._static:
            if (
                entry.interface == interface.interface
                or (entry.netns and entry.netns == interface.netns)
                or (entry.address and interface.has(entry.address))
            ):
                static = static_endpoint(entry, self._node)
                return InterfaceName(static._replace(host_network=interface.host))
        if interface.host:
            return InterfaceName(self._host)
        owner, since_ns = interface.owner, interface.appeared_ns
        if owner is not None and owner.kind == "pod":
            return self._of_pod(owner, interface)
        if interface.netns and not _GENERATED.fullmatch(interface.netns):
            return InterfaceName(self._without_ports("netns", interface.netns))
        endpoint = self._of_owner(owner, since_ns)
        if endpoint is None:
            final = self._is_over(since_ns + self._timeout_ns)
            endpoint = UNKNOWN_ENDPOINT._replace(final=final)
        return InterfaceName(endpoint)

    def of_socket(self, socket: HostSocket) -> Endpoint:
        endpoint = self._of_owner(socket.owner, socket.since_ns) or self._host
        if endpoint.source == "kubernetes":  # which knows the pod's network itself
            return endpoint
        return endpoint._replace(host_network=True)

    def _of_pod(self, owner: CgroupOwner, interface: InterfaceEndpoint) -> InterfaceName:
        """Return a pod by UID; a name once known stays when the sources forget it."""
        endpoint = self._of_owner(owner, interface.appeared_ns) or UNKNOWN_ENDPOINT
        known = interface.pod_name
        if known is not None and (
            endpoint.namespace == UNKNOWN
            or (known.source == "kubernetes" and endpoint.source != "kubernetes")
        ):
            return InterfaceName(known._replace(node=self._node))
        return InterfaceName(endpoint, keep=endpoint.final and endpoint.namespace != UNKNOWN)

    def _of_owner(self, owner: CgroupOwner | None, since_ns: int) -> Endpoint | None:
        if owner is None:
            return None
        if owner.kind != "pod":
            known = self._names.get(owner.container)
            if known is not None:
                return known
            final = self._is_over(since_ns + SETTLE_NS)
            return self._without_ports(owner.kind, owner.name)._replace(final=final)
        if self._cluster is not None:
            endpoint = self._cluster.endpoint(owner.name)
            if endpoint is not None:
                return endpoint
        is_over = self._is_over(since_ns + self._timeout_ns)
        known = self._names.get(owner.name) or self._names.get(owner.container)
        if known is not None:
            final = self._cluster is None or is_over
            return self._without_guessed_workload(known)._replace(final=final)
        return UNKNOWN_ENDPOINT._replace(
            source="pod", uid=owner.name, final=is_over, node=self._node
        )

    def _without_guessed_workload(self, pod: Endpoint) -> Endpoint:
        """Drop a workload that only repeats the pod's name while the API may still report it."""
        if self._cluster is None or self._cluster.synced or pod.workload_kind != "Pod":
            return pod
        return pod._replace(workload=UNKNOWN, workload_kind=UNKNOWN)

    def _without_ports(self, kind: str, name: str) -> Endpoint:
        """Return an endpoint that is no pod and has no named ports."""
        return Endpoint(kind, name, name, kind.capitalize(), kind, node=self._node, ports=())

    def _is_over(self, deadline_ns: int) -> bool:
        """Return whether a wait is over; if not, have the names made again when it is."""
        if self._now_ns >= deadline_ns:
            return True
        self.recheck_ns = min(self.recheck_ns, deadline_ns)
        return False
