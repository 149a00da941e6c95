# SPDX-License-Identifier: Apache-2.0
"""A cluster at one moment: its pods, nodes, namespaces and Services, by name and by address."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from podtally.policy.model import (
    ADDRESS,
    NODE,
    POD,
    UNIDENTIFIED,
    PolicyEndpoint,
    Question,
    Selector,
)
from podtally.runtimes.model import Labels

_MAPPED = 0xFFFF  # ::ffff:0:0/96, RFC 4291 2.5.5.2

IPV4, IPV6 = "IPv4", "IPv6"
FAMILIES = (IPV4, IPV6)


class ClusterPod(NamedTuple):
    """A pod, with what policies do not select by."""

    endpoint: PolicyEndpoint
    workload: str = ""  # "": unknown
    over: bool = False  # Succeeded or Failed: its addresses may be reassigned


class NamespaceModel(NamedTuple):
    name: str
    labels: Labels


class ClusterModel:
    """A cluster at one moment. What it does not contain is unknown, never guessed."""

    def __init__(
        self,
        members: Iterable[ClusterPod],
        nodes: Iterable[PolicyEndpoint],
        namespaces: Iterable[NamespaceModel],
        services: Mapping[str, tuple[int, ...]] | None = None,
        selectors: Mapping[tuple[str, str], Selector] | None = None,
    ) -> None:
        self.selectors = selectors or {}  # workloads' own, by namespace and name
        self.services = services or {}  # cluster addresses, by "namespace/name"
        self._namespaces: dict[str, Labels | None] = {n.name: n.labels for n in namespaces}
        self._nodes = {node.name: node for node in nodes}
        self._members: dict[tuple[str, str], ClusterPod] = {}
        for member in members:
            endpoint = self._placed(member.endpoint)
            self._members[endpoint.namespace, endpoint.name] = member._replace(endpoint=endpoint)
        self._holders = self._by_address()

    @property
    def members(self) -> tuple[ClusterPod, ...]:
        return tuple(self._members.values())

    @property
    def nodes(self) -> tuple[PolicyEndpoint, ...]:
        return tuple(self._nodes.values())

    @property
    def namespaces(self) -> Mapping[str, Labels | None]:
        """Namespace labels by name; None (unknown) for those seen only in a pod."""
        return self._namespaces

    def pod(self, namespace: str, name: str) -> PolicyEndpoint | None:
        member = self._members.get((namespace, name))
        return member.endpoint if member else None

    def workload(self, namespace: str, name: str) -> PolicyEndpoint | None:
        """Return a pod of the workload: the first by name that has not finished."""
        pods = [
            member
            for member in self._members.values()
            if member.endpoint.namespace == namespace and member.workload == name
        ]
        first = min(pods, key=lambda m: (m.over, m.endpoint.name), default=None)
        return first.endpoint if first else None

    def at(self, address: int) -> PolicyEndpoint:
        """Return the owner of the address; a node, not the host-network pods on it."""
        return self._holders.get(address) or PolicyEndpoint(ADDRESS, ips=(address,))

    def _placed(self, pod: PolicyEndpoint) -> PolicyEndpoint:
        labels = self._namespaces.setdefault(pod.namespace, None)
        node = self._nodes.get(pod.node) if pod.node else None
        return pod._replace(namespace_labels=labels, node_labels=node.node_labels if node else None)

    def _by_address(self) -> dict[int, PolicyEndpoint]:
        holders: dict[int, PolicyEndpoint] = {}
        for pod in (member.endpoint for member in self._members.values() if not member.over):
            for address in pod.ips:
                if pod.host_network:
                    holders[address] = _node_of(pod)
                elif address in holders:  # two running pods have it: ambiguous
                    holders[address] = PolicyEndpoint(UNIDENTIFIED, ips=(address,))
                else:
                    holders[address] = pod
        for node in self._nodes.values():
            holders.update(dict.fromkeys(node.ips, node))
        return holders


class ConnectionEnds(NamedTuple):
    """Source and destination of a connection, and the addresses they use; 0: unknown."""

    source: PolicyEndpoint
    destination: PolicyEndpoint
    source_ip: int
    destination_ip: int

    def question(self, protocol: int, port: int) -> Question:
        source, destination, source_ip, destination_ip = self
        return Question(source, destination, protocol, port, source_ip, destination_ip)


def connection_ends(
    source: PolicyEndpoint, destination: PolicyEndpoint, family: str = ""
) -> ConnectionEnds:
    """Choose addresses of the family, by default of the first that both endpoints have.

    Without a common family, an endpoint's only address is used.
    """
    families = (family,) if family else tuple(dict.fromkeys(map(family_of, source.ips)))
    for one in families:
        ours = next((ip for ip in source.ips if family_of(ip) == one), 0)
        theirs = next((ip for ip in destination.ips if family_of(ip) == one), 0)
        if (ours and theirs) or family:
            return ConnectionEnds(source, destination, ours, theirs)
    return ConnectionEnds(source, destination, _only(source), _only(destination))


def family_of(address: int) -> str:
    return IPV4 if address >> 32 == _MAPPED else IPV6


def selectable_pods(model: ClusterModel) -> tuple[PolicyEndpoint, ...]:
    """Return the pods that policies can select: not host-network, not finished."""
    return tuple(
        member.endpoint
        for member in model.members
        if not member.over and member.endpoint.kind == POD and not member.endpoint.host_network
    )


def _node_of(pod: PolicyEndpoint) -> PolicyEndpoint:
    """Return the node of a host-network pod, as far as the pod describes it."""
    return PolicyEndpoint(
        NODE, name=pod.node, ips=pod.ips, node=pod.node, node_labels=pod.node_labels
    )


def _only(endpoint: PolicyEndpoint) -> int:
    return endpoint.ips[0] if len(endpoint.ips) == 1 else 0
