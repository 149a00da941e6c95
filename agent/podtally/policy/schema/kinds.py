# SPDX-License-Identifier: Apache-2.0
"""Kinds and API groups of policies, by name: enough to recognise a policy in broken text."""

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
_FORMER_GROUPS = frozenset({"", "extensions"})  # where these kinds once were, or are expected
_OTHER_KINDS = frozenset({"IngressClass", "IPAddress", "ServiceCIDR"})  # not policies


def group_of(api_version: str) -> str:
    return api_version.rpartition("/")[0]


def is_policy(api_version: str, kind: str) -> bool:
    """Return whether it is a supported kind, or a misspelt one.

    Other groups use the same kind names (projectcalico.org has a NetworkPolicy).
    """
    group = group_of(api_version)
    if group in GROUPS:
        return kind not in _OTHER_KINDS
    return group in _FORMER_GROUPS and kind in API_VERSIONS
