# SPDX-License-Identifier: Apache-2.0
"""Names of policies, as settings and flags give them."""

from typing import NamedTuple

NAMESPACED = ("NetworkPolicy",)
CLUSTER_SCOPED = (
    "ClusterNetworkPolicy",
    "AdminNetworkPolicy",
    "BaselineAdminNetworkPolicy",
    "HostPolicy",
)


class PolicyName(NamedTuple):
    """The name of a policy: KIND/NAMESPACE/NAME, or KIND/NAME if cluster-scoped."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return "/".join(filter(None, self))


def parse_name(text: str) -> PolicyName | None:
    """Parse a policy name; None if it is invalid."""
    kind, *rest = text.split("/")
    if kind in NAMESPACED and len(rest) == 2 and all(rest):
        return PolicyName(kind, *rest)
    if kind in CLUSTER_SCOPED and len(rest) == 1 and rest[0]:
        return PolicyName(kind, "", rest[0])
    return None
