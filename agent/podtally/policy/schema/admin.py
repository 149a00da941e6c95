# SPDX-License-Identifier: Apache-2.0
"""The fields of the admin tiers' kinds (``policy.networking.k8s.io``), as written in manifests.

Those of the experimental channel, a superset of the standard one. None: the field is missing;
``validate.admin_checks`` knows which are required.
"""

from typing import Any

import msgspec

from podtally.policy.schema.network import LabelSelector, PolicyObjectMetadata, PolicyStruct


class NamespacedPods(PolicyStruct, frozen=True):
    namespace_selector: LabelSelector | None = None
    pod_selector: LabelSelector | None = None


class IngressPeer(PolicyStruct, frozen=True):
    """A peer of ingress rules; also a subject, which has the same fields."""

    namespaces: LabelSelector | None = None
    pods: NamespacedPods | None = None


class BaselinePeer(PolicyStruct, frozen=True):
    namespaces: LabelSelector | None = None
    pods: NamespacedPods | None = None
    nodes: LabelSelector | None = None
    networks: tuple[str, ...] | None = None


class EgressPeer(PolicyStruct, frozen=True):
    namespaces: LabelSelector | None = None
    pods: NamespacedPods | None = None
    nodes: LabelSelector | None = None
    networks: tuple[str, ...] | None = None
    domain_names: tuple[str, ...] | None = None


class PortNumber(PolicyStruct, frozen=True):
    protocol: str = "TCP"  # "If not specified, this field defaults to TCP"
    port: int | None = None


class PortRange(PolicyStruct, frozen=True):
    protocol: str = "TCP"
    start: int | None = None
    end: int | None = None


class AdminPort(PolicyStruct, frozen=True):
    port_number: PortNumber | None = None
    port_range: PortRange | None = None
    named_port: str | None = None


class Range(PolicyStruct, frozen=True):
    start: int | None = None
    end: int | None = None


class DestinationPort(PolicyStruct, frozen=True):
    number: int | None = None
    range: Range | None = None


class ProtocolMatch(PolicyStruct, frozen=True):
    destination_port: DestinationPort | None = None


class Protocol(PolicyStruct, frozen=True):
    tcp: ProtocolMatch | None = None
    udp: ProtocolMatch | None = None
    sctp: ProtocolMatch | None = None
    destination_named_port: str | None = None


class AdminIngressRule(PolicyStruct, frozen=True):
    name: str = ""
    action: str | None = None
    from_: tuple[IngressPeer, ...] | None = msgspec.field(name="from", default=None)
    ports: tuple[AdminPort, ...] | None = None


class AdminEgressRule(PolicyStruct, frozen=True):
    name: str = ""
    action: str | None = None
    to: tuple[EgressPeer, ...] | None = None
    ports: tuple[AdminPort, ...] | None = None


class BaselineEgressRule(PolicyStruct, frozen=True):
    name: str = ""
    action: str | None = None
    to: tuple[BaselinePeer, ...] | None = None
    ports: tuple[AdminPort, ...] | None = None


class ClusterIngressRule(PolicyStruct, frozen=True):
    name: str = ""
    action: str | None = None
    from_: tuple[IngressPeer, ...] | None = msgspec.field(name="from", default=None)
    protocols: tuple[Protocol, ...] | None = None


class ClusterEgressRule(PolicyStruct, frozen=True):
    name: str = ""
    action: str | None = None
    to: tuple[EgressPeer, ...] | None = None
    protocols: tuple[Protocol, ...] | None = None


class AdminSpec(PolicyStruct, frozen=True):
    priority: int | None = None
    subject: IngressPeer | None = None
    ingress: tuple[AdminIngressRule, ...] = ()
    egress: tuple[AdminEgressRule, ...] = ()


class BaselineSpec(PolicyStruct, frozen=True):
    subject: IngressPeer | None = None
    ingress: tuple[AdminIngressRule, ...] = ()
    egress: tuple[BaselineEgressRule, ...] = ()


class ClusterSpec(PolicyStruct, frozen=True):
    tier: str | None = None
    priority: int | None = None
    subject: IngressPeer | None = None
    ingress: tuple[ClusterIngressRule, ...] = ()
    egress: tuple[ClusterEgressRule, ...] = ()


class AdminNetworkPolicy(PolicyStruct, frozen=True):
    api_version: str
    kind: str
    metadata: PolicyObjectMetadata = PolicyObjectMetadata()
    spec: AdminSpec | None = None
    status: Any = None


class BaselineAdminNetworkPolicy(PolicyStruct, frozen=True):
    api_version: str
    kind: str
    metadata: PolicyObjectMetadata = PolicyObjectMetadata()
    spec: BaselineSpec | None = None
    status: Any = None


class ClusterNetworkPolicy(PolicyStruct, frozen=True):
    api_version: str
    kind: str
    metadata: PolicyObjectMetadata = PolicyObjectMetadata()
    spec: ClusterSpec | None = None
    status: Any = None
