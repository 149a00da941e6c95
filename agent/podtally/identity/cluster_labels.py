# SPDX-License-Identifier: Apache-2.0
"""Labels of all namespaces and nodes: a value that policies' selectors are asked by."""

from collections.abc import Mapping
from dataclasses import dataclass

from podtally.runtimes.model import Labels


@dataclass(frozen=True, eq=False)
class ClusterLabels:
    """As of one moment; another object once a label is another, so compare by identity.

    Without an API nothing is known of any. With one, what is not in the mappings is not there,
    or has not been heard of yet.
    """

    node_name: str  # this node's; "" without an API
    namespaces: Mapping[str, Labels]
    nodes: Mapping[str, Labels]
    known: bool  # there is an API to tell

    def namespace_labels(self, name: str) -> Labels | None:
        """None: not known."""
        return self.namespaces.get(name)

    def node_labels(self, name: str) -> Labels | None:
        """None: not known."""
        return self.nodes.get(name)


NO_CLUSTER_LABELS = ClusterLabels("", {}, {}, known=False)
