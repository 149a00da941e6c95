# SPDX-License-Identifier: Apache-2.0
"""The cluster's objects as names and claims: takes the API's events, returns claims to addresses.

Belongs to the main thread. ``kube`` reads the API; ``addresses`` decides between claims.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

from podtally.identity.cluster.fixed_addresses import FixedAddresses, FixedAddressTable
from podtally.identity.cluster.pod_names import PodNames
from podtally.identity.cluster.pods import PodTable
from podtally.identity.cluster.removed_links import PodLinks
from podtally.identity.cluster.topology import Topology
from podtally.identity.cluster_labels import ClusterLabels
from podtally.identity.model import Claim, Endpoint, Owner, host_owner
from podtally.identity.services import Services, ServiceTable, service_owner
from podtally.kube.model import ApiEvent, Changed, ObjectPage
from podtally.kube.objects import (
    EndpointSlice,
    KubeJob,
    KubeNamespace,
    KubeNode,
    KubePod,
    KubeService,
)
from podtally.runtimes.model import Labels

SERVICE_STRENGTH = 10
NODE_STRENGTH = 5
STEP_NS = 50_000_000  # a larger change of the wall clock is a step, not drift

ClaimKey = tuple[str, str]  # kind and UID of an object


class Clocks(NamedTuple):
    """The same moment by CLOCK_REALTIME and by CLOCK_MONOTONIC."""

    wall_ns: int
    monotonic_ns: int


class ObjectCounts(NamedTuple):
    pods: int
    services: int
    nodes: int
    namespaces: int


class ClusterState:
    """All objects of the cluster, seen from the node ``node_name``."""

    def __init__(self, node_name: str) -> None:
        self._node_name = node_name
        self._topology = Topology(node_name)
        self._pods = PodTable(node_name)
        self._pod_names = PodNames(self._pods, self._topology)
        self._fixed = FixedAddressTable()
        self._service_table = ServiceTable()
        self._listed: dict[str, set[Hashable]] = {}  # so far, by lists in progress
        self._synced: set[str] = set()  # resources that were listed completely
        self._unknown_before_ns = 0  # start of the last list of pods: earlier pods may be missing
        self._offset_ns: int | None = None
        self._now_ns = 0

    def apply(self, event: ApiEvent, clocks: Clocks) -> None:
        """Apply a change or a page of a list."""
        self._set_clock(clocks)
        if isinstance(event, Changed):
            self._put(event.object, event.at_ns)
            if event.kind == "DELETED":
                self._drop(event.resource, _key_of(event.object), event.at_ns)
        else:
            self._apply_page(event)

    @property
    def synced(self) -> bool:
        """Return whether the holders of addresses are known: pods, Services and nodes."""
        return self._synced >= {"pods", "services", "nodes"}

    @property
    def labels_version(self) -> int:
        """Return a number that grows with every change of a namespace's or node's labels."""
        return self._topology.labels_version

    def settle(self, clocks: Clocks) -> None:
        """Let time pass: forget objects removed long ago, stop waiting for missing ones."""
        self._set_clock(clocks)
        self._pods.settle(self._now_ns)
        self._fixed.settle(self._now_ns)
        self._pod_names.settle()

    def apply_links(self, links: Mapping[str, PodLinks]) -> None:
        """Take what the interfaces of this node's pods, by UID, prove about their addresses."""
        for uid, of_pod in links.items():
            self._pods.apply_links(uid, of_pod, self._now_ns)

    def endpoint(self, uid: str) -> Endpoint | None:
        """Return a pod of this node by its UID, the API's or, for static pods, the kubelet's."""
        known = self._pods.find(uid)
        if known is None or known.pod.node != self._node_name:
            return None
        return self._pod_names.endpoint(known, self._now_ns)

    def addresses_of_pod(self, uid: str) -> frozenset[int]:
        """Return the present addresses of a pod, by the API's or the kubelet's UID."""
        return self._pods.addresses(uid)

    def host_network_pods(self) -> Iterator[Endpoint]:
        """Yield the pods of all nodes that use their node's network; any thread may call this."""
        for uid in self._pods.on_host_networks():
            known = self._pods.find(uid)
            if known is not None:
                yield self._pod_names.endpoint(known, self._now_ns)

    def addresses_of_node(self, name: str) -> tuple[str, ...]:
        """Return a node's addresses from its status; any thread may call this."""
        return self._topology.node_addresses(name)

    def changed_claims(self) -> Iterator[tuple[ClaimKey, Sequence[Claim]]]:
        """Yield all claims of each object with claims that changed since the last call."""
        changed, self._pods.changed = self._pods.changed, set()
        for uid in changed:
            pod = self._pods.find(uid)
            if pod and pod.leases:
                owner = self._pod_names.owner(pod, self._now_ns)
                yield ("pod", uid), self._pods.claims(pod, owner, self._now_ns)
        changed, self._fixed.changed = self._fixed.changed, set()
        for uid in changed:
            holder = self._fixed.find(uid)
            if holder:
                kind = "node" if isinstance(holder.object, KubeNode) else "service"
                yield (kind, uid), self._fixed_claims(holder)

    def services(self) -> Services:
        """Return the Services; the same object until a Service or its backends change."""
        return self._service_table.view(self._now_ns)

    def node_addresses(self) -> list[str]:
        """Return the addresses of all nodes, from their status."""
        nodes = map(self._fixed.find, self._fixed.uids(KubeNode))
        return [address for node in nodes if node for address in node.object.addresses]

    def pod_networks(self) -> frozenset[str]:
        """Return the prefixes from which the nodes' pods get their addresses."""
        return self._topology.pod_networks()

    def namespace_labels(self, name: str) -> Labels | None:
        """Return a namespace's labels; None if it is not known."""
        return self._topology.namespace_labels(name)

    def node_labels(self, name: str) -> Labels | None:
        """Return a node's labels; None if it is not known."""
        return self._topology.node_labels(name)

    def cluster_labels(self) -> ClusterLabels:
        """Return all labels; the same object until ``labels_version`` grows."""
        return self._topology.labels()

    def counts(self) -> ObjectCounts:
        nodes, namespaces = self._topology.counts()
        return ObjectCounts(len(self._pods), len(self._service_table), nodes, namespaces)

    def _set_clock(self, clocks: Clocks) -> None:
        """Keep one offset between the clocks, so that equal seconds stay equal moments."""
        self._now_ns = clocks.monotonic_ns
        offset_ns = clocks.monotonic_ns - clocks.wall_ns
        if self._offset_ns is None or abs(offset_ns - self._offset_ns) > STEP_NS:
            self._offset_ns = offset_ns

    def _apply_page(self, page: ObjectPage) -> None:
        if page.first:
            self._listed[page.resource] = set()
            if page.resource == "pods":
                self._unknown_before_ns = page.at_ns
        listed = self._listed.setdefault(page.resource, set())
        for item in page.objects:
            self._put(item, page.at_ns)
            listed.add(_key_of(item))
        if page.last:
            for key in self._keys(page.resource) - listed:
                self._drop(page.resource, key, page.at_ns)
            del self._listed[page.resource]
            self._synced.add(page.resource)

    def _put(self, item: Any, at_ns: int) -> None:
        offset_ns = self._offset_ns or 0
        if isinstance(item, KubePod):
            self._pods.put(item, at_ns, offset_ns, self._unknown_before_ns)
        elif isinstance(item, EndpointSlice):
            self._service_table.put_slice(item)
        elif isinstance(item, KubeService):
            self._service_table.put_service(item)
            self._fixed.put(item, at_ns, offset_ns)
        elif isinstance(item, KubeNode):
            self._fixed.put(item, at_ns, offset_ns)
            self._put_node(item)
        elif isinstance(item, KubeJob):
            self._pod_names.put_job(item)
        elif isinstance(item, KubeNamespace):
            self._topology.put_namespace(item)

    def _put_node(self, node: KubeNode) -> None:
        if not self._topology.put_node(node):
            return
        if node.name == self._node_name:  # the scope of everything has changed
            self._pods.changed |= self._pods.uids()
            self._fixed.changed |= self._fixed.uids(KubeNode)
        else:
            self._pods.changed.update(self._pods.on_node(node.name))

    def _drop(self, resource: str, key: Any, at_ns: int) -> None:
        if resource == "pods":
            self._pods.drop(key, at_ns)
        elif resource == "endpointslices":
            self._service_table.drop_slice(key)
        elif resource in ("services", "nodes"):
            self._drop_fixed(key, at_ns)
        elif resource == "jobs":
            self._pod_names.drop_job(key)
        elif resource == "namespaces":
            self._topology.drop_namespace(key)

    def _drop_fixed(self, uid: str, at_ns: int) -> None:
        holder = self._fixed.find(uid)
        self._fixed.drop(uid, at_ns)
        if holder is None:
            return
        if isinstance(holder.object, KubeService):
            self._service_table.drop_service(holder.object)
        else:
            self._topology.drop_node(holder.object)

    def _keys(self, resource: str) -> Set[Hashable]:
        known: dict[str, Set[Hashable]] = {
            "pods": self._pods.uids(),
            "endpointslices": self._service_table.slices().keys(),
            "services": self._fixed.uids(KubeService),
            "nodes": self._fixed.uids(KubeNode),
            "jobs": self._pod_names.jobs(),
            "namespaces": self._topology.namespaces(),
        }
        return known[resource]

    def _fixed_claims(self, holder: FixedAddresses) -> list[Claim]:
        item = holder.object
        if isinstance(item, KubeService):
            owner, strength = service_owner(item), SERVICE_STRENGTH
        elif item.name == self._node_name:
            owner, strength = host_owner(item.name), NODE_STRENGTH
        else:
            name, scope = item.name, self._topology.scope(item.name)
            owner = Owner("node", "", name, name, scope, node=name, uid=item.uid, ports=())
            strength = NODE_STRENGTH
        return [Claim(s.address, owner, s.from_ns, s.until_ns, strength) for s in holder.spans]


def _key_of(item: Any) -> Hashable:
    """Return what identifies an object among all of its resource, past and present."""
    if isinstance(item, EndpointSlice):
        return item.namespace, item.name
    if isinstance(item, KubeNamespace):
        return item.name
    uid: str = item.uid
    return uid
