# SPDX-License-Identifier: Apache-2.0
"""The watched resources, and the fields kept of each object; pods are in ``pods``.

ReplicaSets are not watched: a big cluster keeps ten old ones per Deployment, and a pod's
``pod-template-hash`` is enough (``workloads``). Jobs are watched, since nothing in a pod of a
CronJob names the CronJob.
"""

from collections.abc import Callable
from ipaddress import ip_network
from sys import intern

import msgspec

from podtally.kube.model import WatchedResource
from podtally.kube.pods import KubePod, WirePod, pod_of
from podtally.kube.schema import (
    Controller,
    KubeStruct,
    Labels,
    Metadata,
    W,
    controller_of,
    event_decoder,
    labels_of,
    list_decoder,
    seconds,
)

__all__ = [
    "RESOURCES",
    "EndpointSlice",
    "KubeJob",
    "KubeNamespace",
    "KubeNode",
    "KubePod",
    "KubeService",
]

ZONE_LABELS = ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone")
SERVICE_LABEL = "kubernetes.io/service-name"


class KeptObject(msgspec.Struct, frozen=True, gc=False):
    """The fields kept of an object."""


class KubeNamespace(KeptObject, frozen=True):
    name: str
    labels: Labels


class KubeJob(KeptObject, frozen=True):
    namespace: str
    name: str
    uid: str
    controller: Controller | None


class KubeNode(KeptObject, frozen=True):
    name: str
    uid: str
    zone: str  # "" without a zone label
    addresses: tuple[str, ...]  # internal and external; and host names, which may be addresses
    created_seconds: int
    pod_networks: tuple[str, ...] = ()  # podCIDRs; not every network plugin uses them
    labels: Labels = ()


class KubeServicePort(KeptObject, frozen=True):
    name: str
    protocol: str
    port: int
    node_port: int  # 0: none


class KubeService(KeptObject, frozen=True):
    namespace: str
    name: str
    uid: str
    addresses: tuple[str, ...]  # cluster, external and load balancer addresses
    ports: tuple[KubeServicePort, ...]
    created_seconds: int
    type: str = "ClusterIP"  # or NodePort, LoadBalancer, ExternalName
    # Reachable from outside: external IPs, then the load balancer's addresses and names.
    outside_addresses: tuple[str, ...] = ()


class SlicePort(KeptObject, frozen=True):
    name: str
    protocol: str
    port: int


class EndpointSlice(KeptObject, frozen=True):
    """Addresses that a Service's traffic may go to: ready ones, and terminating ones that serve.

    kube-proxy falls back to the latter when no endpoint is ready (KEP-1669).
    """

    namespace: str
    name: str
    service: str  # "" if it belongs to none
    addresses: tuple[str, ...]
    ports: tuple[SlicePort, ...]


class _WireMetadataOnly(KubeStruct, frozen=True):
    metadata: Metadata


class _NodeAddress(KubeStruct, frozen=True):
    address: str = ""


class _NodeStatus(KubeStruct, frozen=True):
    addresses: list[_NodeAddress] | None = None


class _NodeSpec(KubeStruct, frozen=True):
    pod_cidrs: list[str] | None = msgspec.field(name="podCIDRs", default=None)


class _WireNode(KubeStruct, frozen=True):
    metadata: Metadata
    spec: _NodeSpec = _NodeSpec()
    status: _NodeStatus = _NodeStatus()


class _LoadBalancerIngress(KubeStruct, frozen=True):
    ip: str = ""
    hostname: str = ""


class _LoadBalancer(KubeStruct, frozen=True):
    ingress: list[_LoadBalancerIngress] | None = None


class _WireServicePort(KubeStruct, frozen=True):
    port: int
    name: str = ""
    protocol: str = "TCP"
    node_port: int = 0


class _KubeServiceSpec(KubeStruct, frozen=True):
    type: str = "ClusterIP"
    cluster_ip: str = msgspec.field(name="clusterIP", default="")
    cluster_ips: list[str] | None = msgspec.field(name="clusterIPs", default=None)
    external_ips: list[str] | None = msgspec.field(name="externalIPs", default=None)
    ports: list[_WireServicePort] | None = None


class _ServiceStatus(KubeStruct, frozen=True):
    load_balancer: _LoadBalancer | None = None


class _WireService(KubeStruct, frozen=True):
    metadata: Metadata
    spec: _KubeServiceSpec
    status: _ServiceStatus = _ServiceStatus()


class _SliceConditions(KubeStruct, frozen=True):
    ready: bool | None = None
    serving: bool | None = None


class _SliceEndpoint(KubeStruct, frozen=True):
    addresses: list[str]
    conditions: _SliceConditions = _SliceConditions()


class _WireSlicePort(KubeStruct, frozen=True):
    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class _WireSlice(KubeStruct, frozen=True):
    metadata: Metadata
    address_type: str = ""
    endpoints: list[_SliceEndpoint] | None = None
    ports: list[_WireSlicePort] | None = None


def _namespace(item: _WireMetadataOnly) -> KubeNamespace:
    return KubeNamespace(intern(item.metadata.name), labels_of(item.metadata))


def _job(item: _WireMetadataOnly) -> KubeJob:
    meta = item.metadata
    return KubeJob(intern(meta.namespace), meta.name, meta.uid, controller_of(meta))


def _node(item: _WireNode) -> KubeNode:
    meta = item.metadata
    labels = meta.labels or {}
    zone = next((labels[key] for key in ZONE_LABELS if labels.get(key)), "")
    addresses = tuple(entry.address for entry in item.status.addresses or ())
    created = seconds(meta.creation_timestamp)
    networks = tuple(filter(_is_network, item.spec.pod_cidrs or ()))
    return KubeNode(
        intern(meta.name), meta.uid, intern(zone), addresses, created, networks, labels_of(meta)
    )


def _is_network(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True


def _service(item: _WireService) -> KubeService:
    meta, spec, balancer = item.metadata, item.spec, item.status.load_balancer
    balanced = (balancer.ingress if balancer else None) or ()
    external = spec.external_ips or ()
    addresses = [*(spec.cluster_ips or [spec.cluster_ip]), *external]
    addresses += [entry.ip for entry in balanced]
    outside = [*external, *(text for entry in balanced for text in (entry.ip, entry.hostname))]
    return KubeService(
        namespace=intern(meta.namespace),
        name=meta.name,
        uid=meta.uid,
        addresses=tuple(dict.fromkeys(a for a in addresses if a not in ("", "None"))),
        ports=tuple(
            KubeServicePort(intern(port.name), intern(port.protocol), port.port, port.node_port)
            for port in spec.ports or ()
        ),
        created_seconds=seconds(meta.creation_timestamp),
        type=intern(spec.type),
        outside_addresses=tuple(dict.fromkeys(filter(None, outside))),
    )


def _slice(item: _WireSlice) -> EndpointSlice:
    meta = item.metadata
    usable = [] if item.address_type == "FQDN" else item.endpoints or []
    return EndpointSlice(
        namespace=intern(meta.namespace),
        name=meta.name,
        service=intern((meta.labels or {}).get(SERVICE_LABEL, "")),
        # All addresses of one endpoint are the same backend; consumers use the first.
        addresses=tuple(e.addresses[0] for e in usable if e.addresses and _serves(e.conditions)),
        ports=tuple(
            SlicePort(intern(port.name or ""), intern(port.protocol or "TCP"), port.port)
            for port in item.ports or ()
            if port.port
        ),
    )


def _serves(conditions: _SliceConditions) -> bool:
    """Return whether an endpoint serves; unset means ready (API reference, EndpointConditions)."""
    return conditions.ready is not False or conditions.serving is True


def _resource(path: str, wire: type[W], compact: Callable[[W], object]) -> WatchedResource:
    name = path.rpartition("/")[2]
    return WatchedResource(name, path, list_decoder(wire, compact), event_decoder(wire, compact))


RESOURCES: tuple[WatchedResource, ...] = (
    _resource("/api/v1/nodes", _WireNode, _node),
    _resource("/api/v1/namespaces", _WireMetadataOnly, _namespace),
    _resource("/apis/batch/v1/jobs", _WireMetadataOnly, _job),
    _resource("/api/v1/pods", WirePod, pod_of),
    _resource("/api/v1/services", _WireService, _service),
    _resource("/apis/discovery.k8s.io/v1/endpointslices", _WireSlice, _slice),
)
