# SPDX-License-Identifier: Apache-2.0
"""Labels of all namespaces and nodes, for the selectors of policies."""

from collections.abc import Mapping
from dataclasses import dataclass

from podtally.runtimes.model import Labels


@dataclass(frozen=True, eq=False)
class ClusterLabels:
    """The labels at one moment; compare by identity: every change makes another object.

    Without an API no labels are known. With one, a missing entry does not exist, or has not been
    reported yet.
    """

    node_name: str  # this node's; "" without an API
    namespaces: Mapping[str, Labels]
    nodes: Mapping[str, Labels]
    known: bool  # there is an API

    def namespace_labels(self, name: str) -> Labels | None:
        """Return a namespace's labels; None if they are not known."""
        return self.namespaces.get(name)

    def node_labels(self, name: str) -> Labels | None:
        """Return a node's labels; None if they are not known."""
        return self.nodes.get(name)


NO_CLUSTER_LABELS = ClusterLabels("", {}, {}, known=False)
