# SPDX-License-Identifier: Apache-2.0
"""The kinds and API groups of policies: by name only, so that broken texts can be told apart."""

NETWORKING = "networking.k8s.io/v1"
OLDER = "policy.networking.k8s.io/v1alpha1"
NEWER = "policy.networking.k8s.io/v1alpha2"
NEWEST = "policy.networking.k8s.io/v1beta1"
OWN = "podtally.io/v1alpha1"

API_VERSIONS = {
    "NetworkPolicy": (NETWORKING,),
    "Ingress": (NETWORKING,),
    "HostPolicy": (OWN,),
    "AdminNetworkPolicy": (OLDER,),
    "BaselineAdminNetworkPolicy": (OLDER,),
    "ClusterNetworkPolicy": (NEWER, NEWEST),
}
ADMIN_GROUP = "policy.networking.k8s.io"
GROUPS = frozenset({"networking.k8s.io", ADMIN_GROUP, "podtally.io"})
_ONCE_GROUPS = frozenset({"", "extensions"})  # where our kinds are, or were looked for
_NO_POLICIES = frozenset({"IngressClass", "IPAddress", "ServiceCIDR"})  # in these groups


def group_of(api_version: str) -> str:
    return api_version.rpartition("/")[0]


def is_policy(api_version: str, kind: str) -> bool:
    """Return whether it is a kind that is read, or a slip in the name of one.

    Other groups have kinds of these names too (projectcalico.org has a NetworkPolicy).
    """
    group = group_of(api_version)
    if group in GROUPS:
        return kind not in _NO_POLICIES
    return group in _ONCE_GROUPS and kind in API_VERSIONS
