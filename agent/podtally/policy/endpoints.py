# SPDX-License-Identifier: Apache-2.0
"""Conversion of identified endpoints and address owners to the endpoints that policies select.

Pods, of a cluster or of the configuration, are judged by the policies of their namespace;
other endpoints of this host by HostPolicies.
"""

from podtally.identity.cluster_labels import ClusterLabels
from podtally.identity.model import UNKNOWN, Endpoint, Owner
from podtally.policy.model import ADDRESS, HOST, NODE, POD, UNIDENTIFIED, NamedPort, PolicyEndpoint
from podtally.runtimes.engines import ENGINE_NAMES

ADDRESS_ONLY = PolicyEndpoint(ADDRESS)  # known by its address only
UNIDENTIFIED_ENDPOINT = PolicyEndpoint(UNIDENTIFIED)

_THIS_NODE = "this node"  # if its name is unknown
_HOST_NAME = "host"
_UNIT = "systemd"
_STATIC = "static"  # namespace of configured endpoints that name none
NON_POD_NAMESPACES = frozenset(
    (
        *(_HOST_NAME, _UNIT, _STATIC, "netns", "lxc", "machine"),
        *ENGINE_NAMES,
    )
)


def of_endpoint(endpoint: Endpoint, places: ClusterLabels) -> PolicyEndpoint:
    """Convert a local endpoint."""
    if not endpoint.final or endpoint.namespace == UNKNOWN:
        return UNIDENTIFIED_ENDPOINT
    node = endpoint.node or _here(places)
    if not endpoint.uid and endpoint.namespace in NON_POD_NAMESPACES:
        return _of_host(endpoint, endpoint.namespace, node, endpoint.host_network)
    return _pod(endpoint, node, places)._replace(host_network=endpoint.host_network)


def of_owner(owner: Owner, places: ClusterLabels) -> PolicyEndpoint:
    """Convert the owner of a peer address. A Service is unidentified: its backend is the peer."""
    if owner.kind == "external":
        return ADDRESS_ONLY
    if not owner.final or owner.kind in (UNKNOWN, "service") or owner.namespace == UNKNOWN:
        return UNIDENTIFIED_ENDPOINT
    if owner.kind == "node":
        return PolicyEndpoint(
            NODE, name=owner.name, node=owner.name, node_labels=places.node_labels(owner.name)
        )
    if owner.kind == _HOST_NAME:
        node = owner.node or _here(places)
        host = _of_host(owner, _HOST_NAME, node, shares=True)
        return host._replace(node_labels=places.node_labels(node))
    node = owner.node or (_here(places) if owner.scope == "node" else "")
    if not owner.uid and owner.namespace in NON_POD_NAMESPACES:
        return _of_host(owner, owner.namespace, node, shares=False)
    return _pod(owner, node, places)


def _here(places: ClusterLabels) -> str:
    return places.node_name or _THIS_NODE


def _pod(who: Endpoint | Owner, node: str, places: ClusterLabels) -> PolicyEndpoint:
    # Ports come from the API only, which always has labels; without both, the name is from logs.
    labels = None if who.ports is None and not who.labels else who.labels
    ports = None if who.ports is None else tuple(NamedPort(*port) for port in who.ports)
    return PolicyEndpoint(
        POD,
        who.namespace,
        who.name,
        labels,
        places.namespace_labels(who.namespace),
        ports=ports,
        node=node,
        node_labels=places.node_labels(node),
    )


def _of_host(who: Endpoint | Owner, namespace: str, node: str, shares: bool) -> PolicyEndpoint:
    is_container = namespace not in (_HOST_NAME, _UNIT, _STATIC, "netns")
    return PolicyEndpoint(
        HOST,
        name=node if namespace == _HOST_NAME else who.name,
        labels=who.labels,
        node=node,
        host_network=shares,
        unit=who.name if namespace == _UNIT else "",
        container=who.name if is_container else "",
    )


def no_pods_in(namespace: str) -> str:
    return (
        f"selects nothing: podtally uses namespace {namespace} for endpoints that are not pods, "
        "and a NetworkPolicy selects only pods; use a HostPolicy"
    )
