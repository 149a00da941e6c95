# SPDX-License-Identifier: Apache-2.0
"""Nodes and namespaces of the cluster: their labels, the nodes' zones and pod networks."""

from collections.abc import Set

from podtally.identity.cluster_labels import ClusterLabels
from podtally.kube.objects import KubeNamespace, KubeNode
from podtally.runtimes.model import Labels


class Topology:
    """Nodes and namespaces by name; seen from the node ``node_name``."""

    def __init__(self, node_name: str) -> None:
        self.node_name = node_name
        self.labels_version = 0  # grows with every change of a namespace's or node's labels
        self._nodes: dict[str, KubeNode] = {}
        self._namespaces: dict[str, KubeNamespace] = {}
        self._pod_networks: set[str] = set()  # those of removed nodes stay: their pods may run on
        self._labels: ClusterLabels | None = None

    def put_node(self, node: KubeNode) -> bool:
        """Add or replace a node; return whether its zone has changed."""
        before = self._nodes.get(node.name)
        self._nodes[node.name] = node
        self._pod_networks.update(node.pod_networks)
        self._note_labels(before, node)
        return (before.zone if before else "") != node.zone

    def drop_node(self, node: KubeNode) -> None:
        """Remove a node, unless another one has its name by now."""
        known = self._nodes.get(node.name)
        if known and known.uid == node.uid:
            del self._nodes[node.name]
            self._note_labels(known, None)

    def put_namespace(self, namespace: KubeNamespace) -> None:
        self._note_labels(self._namespaces.get(namespace.name), namespace)
        self._namespaces[namespace.name] = namespace

    def drop_namespace(self, name: str) -> None:
        self._note_labels(self._namespaces.pop(name, None), None)

    def namespaces(self) -> Set[str]:
        return self._namespaces.keys()

    def scope(self, node: str) -> str:
        """Return how far a node is: node, zone, cross_zone, or cluster if a zone is unknown."""
        if node == self.node_name:
            return "node"
        ours, other = self._nodes.get(self.node_name), self._nodes.get(node)
        if not ours or not other or not ours.zone or not other.zone:
            return "cluster"
        return "zone" if ours.zone == other.zone else "cross_zone"

    def node_addresses(self, name: str) -> tuple[str, ...]:
        """Return a node's addresses from its status; any thread may call this."""
        node = self._nodes.get(name)
        return node.addresses if node else ()

    def pod_networks(self) -> frozenset[str]:
        """Return the prefixes from which the nodes' pods get their addresses."""
        return frozenset(self._pod_networks)

    def namespace_labels(self, name: str) -> Labels | None:
        """Return a namespace's labels; None if it is not known."""
        namespace = self._namespaces.get(name)
        return namespace.labels if namespace else None

    def node_labels(self, name: str) -> Labels | None:
        """Return a node's labels; None if it is not known."""
        node = self._nodes.get(name)
        return node.labels if node else None

    def labels(self) -> ClusterLabels:
        """Return all labels; the same object until ``labels_version`` grows."""
        if self._labels is None:
            namespaces = {each.name: each.labels for each in self._namespaces.values()}
            nodes = {each.name: each.labels for each in self._nodes.values()}
            self._labels = ClusterLabels(self.node_name, namespaces, nodes, known=True)
        return self._labels

    def counts(self) -> tuple[int, int]:
        """Return the numbers of nodes and of namespaces."""
        return len(self._nodes), len(self._namespaces)

    def _note_labels(
        self, before: KubeNamespace | KubeNode | None, after: KubeNamespace | KubeNode | None
    ) -> None:
        if (before.labels if before else None) != (after.labels if after else None):
            self.labels_version += 1
            self._labels = None
