# SPDX-License-Identifier: Apache-2.0
"""What a cluster's objects say of names and addresses; the API's events in, claims out.

Belongs to the main thread. Reading the API is ``kube``'s, deciding between claims
``addresses``'s job.
"""

from collections.abc import Hashable, Iterator, Sequence, Set
from typing import Any, NamedTuple

from podtally.identity.cluster.address_leases import LATE_NS
from podtally.identity.cluster.fixed_addresses import FixedAddresses, FixedAddressTable
from podtally.identity.cluster.pods import KnownPod, PodTable
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
from podtally.kube.schema import Controller
from podtally.kube.workloads import of_pod
from podtally.runtimes.model import Labels

SERVICE_STRENGTH = 10
NODE_STRENGTH = 5
STEP_NS = 50_000_000  # a change of the wall clock that is no drift any more

Key = tuple[str, str]


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
    def __init__(self, node_name: str) -> None:
        self.labels_version = 0  # grows with each label of a namespace or node that is another
        self._node_name = node_name
        self._pods = PodTable(node_name)
        self._standing = FixedAddressTable()
        self._service_table = ServiceTable()
        self._namespaces: dict[str, KubeNamespace] = {}
        self._jobs: dict[str, Controller | None] = {}
        self._gone_jobs: set[str] = set()  # kept while pods of theirs are
        self._nodes: dict[str, KubeNode] = {}  # by name
        self._places: ClusterLabels | None = None
        self._pod_networks: set[str] = set()  # a node that went leaves its pods' for a while
        self._listed: dict[str, set[Hashable]] = {}  # so far, by lists that are under way
        self._synced: set[str] = set()  # resources that were listed to the end
        self._dark_ns = 0  # what was before is known only as far as it is still there
        self._offset_ns: int | None = None
        self._now_ns = 0

    def apply(self, event: ApiEvent, clocks: Clocks) -> None:
        """Take in what the API told."""
        self._set_clock(clocks)
        if isinstance(event, Changed):
            if event.kind == "DELETED":
                self._put(event.object, event.at_ns)
                self._drop(event.resource, _key_of(event.object), event.at_ns)
            else:
                self._put(event.object, event.at_ns)
        else:
            self._take_page(event)

    @property
    def synced(self) -> bool:
        """Whether it is known who has addresses: pods, Services and nodes were listed."""
        return self._synced >= {"pods", "services", "nodes"}

    def settle(self, clocks: Clocks) -> None:
        """Let time pass: forget what is long gone, wait no more for what did not come."""
        self._set_clock(clocks)
        self._pods.settle(self._now_ns)
        self._standing.settle(self._now_ns)
        for uid in [uid for uid in self._gone_jobs if not self._pods.of_job(uid)]:
            self._gone_jobs.discard(uid)
            self._jobs.pop(uid, None)

    def endpoint(self, uid: str) -> Endpoint | None:
        """A pod of this node by its UID (a static pod: by the kubelet's as well)."""
        known = self._pods.find(uid)
        if known is None or known.pod.node != self._node_name:
            return None
        return self._endpoint(known)

    def addresses_of_pod(self, uid: str) -> frozenset[int]:
        """Those that a pod has now (a static pod: by the kubelet's UID as well)."""
        return self._pods.addresses(uid)

    def host_network_pods(self) -> Iterator[Endpoint]:
        """Pods of all nodes that share their node's addresses; any thread may ask."""
        for uid in self._pods.on_host_networks():
            known = self._pods.find(uid)
            if known is not None:
                yield self._endpoint(known)

    def addresses_of_node(self, name: str) -> tuple[str, ...]:
        """As its status has them; any thread may ask."""
        node = self._nodes.get(name)
        return node.addresses if node else ()

    def _endpoint(self, known: KnownPod) -> Endpoint:
        pod = known.pod
        work, final = of_pod(pod, self._jobs), self._final(known)
        return Endpoint(
            pod.namespace,
            pod.name,
            *work,
            "kubernetes",
            pod.labels,
            pod.uid,
            final,
            pod.node,
            pod.ports,
            pod.host_network,
        )

    def changed_claims(self) -> Iterator[tuple[Key, Sequence[Claim]]]:
        """All claims of each object whose claims have changed since last asked."""
        changed, self._pods.changed = self._pods.changed, set()
        for uid in changed:
            pod = self._pods.find(uid)
            if pod and pod.holds:
                yield ("pod", uid), self._pods.claims(pod, self._pod_owner(pod), self._now_ns)
        changed, self._standing.changed = self._standing.changed, set()
        for uid in changed:
            thing = self._standing.find(uid)
            if thing:
                kind = "node" if isinstance(thing.object, KubeNode) else "service"
                yield (kind, uid), self._standing_claims(thing)

    def services(self) -> Services:
        """The same object until a Service or its backends change."""
        return self._service_table.view(self._now_ns)

    def node_addresses(self) -> list[str]:
        """As the nodes' status has them: of all nodes that are there."""
        nodes = map(self._standing.find, self._standing.uids(KubeNode))
        return [address for node in nodes if node for address in node.object.addresses]

    def pod_networks(self) -> frozenset[str]:
        """Prefixes out of which the nodes' pods get their addresses."""
        return frozenset(self._pod_networks)

    def namespace_labels(self, name: str) -> Labels | None:
        namespace = self._namespaces.get(name)
        return namespace.labels if namespace else None

    def node_labels(self, name: str) -> Labels | None:
        node = self._nodes.get(name)
        return node.labels if node else None

    def places(self) -> ClusterLabels:
        """The same object until ``labels_version`` grows."""
        if self._places is None:
            namespaces = {each.name: each.labels for each in self._namespaces.values()}
            nodes = {each.name: each.labels for each in self._nodes.values()}
            self._places = ClusterLabels(self._node_name, namespaces, nodes, known=True)
        return self._places

    def counts(self) -> ObjectCounts:
        services, nodes = len(self._service_table), len(self._nodes)
        return ObjectCounts(len(self._pods), services, nodes, len(self._namespaces))

    def _set_clock(self, clocks: Clocks) -> None:
        """Keep to one relation of the clocks, so that the same second stays the same moment."""
        self._now_ns = clocks.monotonic_ns
        offset_ns = clocks.monotonic_ns - clocks.wall_ns
        if self._offset_ns is None or abs(offset_ns - self._offset_ns) > STEP_NS:
            self._offset_ns = offset_ns

    def _take_page(self, page: ObjectPage) -> None:
        if page.first:
            self._listed[page.resource] = set()
            if page.resource == "pods":
                self._dark_ns = page.at_ns
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
            self._pods.put(item, at_ns, offset_ns, self._dark_ns)
        elif isinstance(item, EndpointSlice):
            self._service_table.put_slice(item)
        elif isinstance(item, KubeService):
            self._service_table.put_service(item)
            self._standing.put(item, at_ns, offset_ns)
        elif isinstance(item, KubeNode):
            self._standing.put(item, at_ns, offset_ns)
            self._set_node(item)
            self._pod_networks.update(item.pod_networks)
        elif isinstance(item, KubeJob):
            self._set_job(item)
        elif isinstance(item, KubeNamespace):
            self._labels_seen(self._namespaces.get(item.name), item)
            self._namespaces[item.name] = item

    def _drop(self, resource: str, key: Any, at_ns: int) -> None:
        if resource == "pods":
            self._pods.drop(key, at_ns)
        elif resource == "endpointslices":
            self._service_table.drop_slice(key)
        elif resource in ("services", "nodes"):
            self._drop_standing(key, at_ns)
        elif resource == "jobs":
            self._gone_jobs.add(key)
        elif resource == "namespaces":
            self._labels_seen(self._namespaces.pop(key, None), None)

    def _keys(self, resource: str) -> Set[Hashable]:
        known: dict[str, Set[Hashable]] = {
            "pods": self._pods.uids(),
            "endpointslices": self._service_table.slices().keys(),
            "services": self._standing.uids(KubeService),
            "nodes": self._standing.uids(KubeNode),
            "jobs": self._jobs.keys(),
            "namespaces": self._namespaces.keys(),
        }
        return known[resource]

    def _drop_standing(self, uid: str, at_ns: int) -> None:
        known = self._standing.find(uid)
        self._standing.drop(uid, at_ns)
        if known and isinstance(known.object, KubeService):
            self._service_table.drop_service(known.object)
        elif known:
            here = self._nodes.get(known.object.name)
            if here and here.uid == uid:  # not one that was made anew under its name
                del self._nodes[here.name]
                self._labels_seen(here, None)

    def _set_node(self, node: KubeNode) -> None:
        before = self._nodes.get(node.name)
        self._nodes[node.name] = node
        self._labels_seen(before, node)
        if (before.zone if before else "") == node.zone:
            return
        if node.name == self._node_name:  # how far it is to everything has changed
            self._pods.changed |= self._pods.uids()
            self._standing.changed |= self._standing.uids(KubeNode)
        else:
            self._pods.changed.update(self._pods.on_node(node.name))

    def _labels_seen(
        self, before: KubeNamespace | KubeNode | None, after: KubeNamespace | KubeNode | None
    ) -> None:
        if (before.labels if before else None) != (after.labels if after else None):
            self.labels_version += 1
            self._places = None

    def _set_job(self, job: KubeJob) -> None:
        self._gone_jobs.discard(job.uid)
        if job.uid not in self._jobs:
            self._jobs[job.uid] = job.controller
            self._pods.changed |= self._pods.of_job(job.uid)

    def _pod_owner(self, known: KnownPod) -> Owner:
        pod = known.pod
        work = of_pod(pod, self._jobs)
        return Owner(
            "pod",
            pod.namespace,
            pod.name,
            work.name,
            self._scope(pod.node),
            work.kind,
            pod.node,
            pod.uid,
            pod.labels,
            self._final(known),
            pod.ports,
        )

    def _final(self, known: KnownPod) -> bool:
        """Not while its Job may still be heard of, which may be a CronJob's."""
        maker = known.pod.controller
        if maker is None or maker.kind != "Job" or maker.uid in self._jobs:
            return True
        return self._now_ns >= known.heard_ns + LATE_NS

    def _scope(self, node: str) -> str:
        if node == self._node_name:
            return "node"
        here, there = self._nodes.get(self._node_name), self._nodes.get(node)
        if not here or not there or not here.zone or not there.zone:
            return "cluster"
        return "zone" if here.zone == there.zone else "cross_zone"

    def _standing_claims(self, known: FixedAddresses) -> list[Claim]:
        item = known.object
        if isinstance(item, KubeService):
            owner, strength = service_owner(item), SERVICE_STRENGTH
        elif item.name == self._node_name:
            owner, strength = host_owner(item.name), NODE_STRENGTH
        else:
            name, scope = item.name, self._scope(item.name)
            owner = Owner("node", "", name, name, scope, node=name, uid=item.uid, ports=())
            strength = NODE_STRENGTH
        return [Claim(s.address, owner, s.from_ns, s.until_ns, strength) for s in known.spans]


def _key_of(item: Any) -> Hashable:
    """What tells an object from others of its resource that ever were."""
    if isinstance(item, EndpointSlice):
        return item.namespace, item.name
    if isinstance(item, KubeNamespace):
        return item.name
    uid: str = item.uid
    return uid
