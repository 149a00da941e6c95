"""The admin tiers' kinds of ``policy.networking.k8s.io`` as they are written.

Those of the experimental channel, of which the standard one is a part. None is a field that
is not there: what must be is for ``validation_admin``.
"""

from typing import Any

import msgspec

from podtally.policy.wire import LabelSelector, Metadata, Wire


class NamespacedPods(Wire, frozen=True):
    namespace_selector: LabelSelector | None = None
    pod_selector: LabelSelector | None = None


class IngressPeer(Wire, frozen=True):
    """Also a subject, which has the same fields."""

    namespaces: LabelSelector | None = None
    pods: NamespacedPods | None = None


class BaselinePeer(Wire, frozen=True):
    namespaces: LabelSelector | None = None
    pods: NamespacedPods | None = None
    nodes: LabelSelector | None = None
    networks: tuple[str, ...] | None = None


class EgressPeer(Wire, frozen=True):
    namespaces: LabelSelector | None = None
    pods: NamespacedPods | None = None
    nodes: LabelSelector | None = None
    networks: tuple[str, ...] | None = None
    domain_names: tuple[str, ...] | None = None


class PortNumber(Wire, frozen=True):
    protocol: str = "TCP"  # "If not specified, this field defaults to TCP"
    port: int | None = None


class PortRange(Wire, frozen=True):
    protocol: str = "TCP"
    start: int | None = None
    end: int | None = None


class Port(Wire, frozen=True):
    port_number: PortNumber | None = None
    port_range: PortRange | None = None
    named_port: str | None = None


class Range(Wire, frozen=True):
    start: int | None = None
    end: int | None = None


class DestinationPort(Wire, frozen=True):
    number: int | None = None
    range: Range | None = None


class ProtocolMatch(Wire, frozen=True):
    destination_port: DestinationPort | None = None


class Protocol(Wire, frozen=True):
    tcp: ProtocolMatch | None = None
    udp: ProtocolMatch | None = None
    sctp: ProtocolMatch | None = None
    destination_named_port: str | None = None


class IngressRule(Wire, frozen=True):
    name: str = ""
    action: str | None = None
    from_: tuple[IngressPeer, ...] | None = msgspec.field(name="from", default=None)
    ports: tuple[Port, ...] | None = None


class EgressRule(Wire, frozen=True):
    name: str = ""
    action: str | None = None
    to: tuple[EgressPeer, ...] | None = None
    ports: tuple[Port, ...] | None = None


class BaselineEgressRule(Wire, frozen=True):
    name: str = ""
    action: str | None = None
    to: tuple[BaselinePeer, ...] | None = None
    ports: tuple[Port, ...] | None = None


class ClusterIngressRule(Wire, frozen=True):
    name: str = ""
    action: str | None = None
    from_: tuple[IngressPeer, ...] | None = msgspec.field(name="from", default=None)
    protocols: tuple[Protocol, ...] | None = None


class ClusterEgressRule(Wire, frozen=True):
    name: str = ""
    action: str | None = None
    to: tuple[EgressPeer, ...] | None = None
    protocols: tuple[Protocol, ...] | None = None


class AdminSpec(Wire, frozen=True):
    priority: int | None = None
    subject: IngressPeer | None = None
    ingress: tuple[IngressRule, ...] = ()
    egress: tuple[EgressRule, ...] = ()


class BaselineSpec(Wire, frozen=True):
    subject: IngressPeer | None = None
    ingress: tuple[IngressRule, ...] = ()
    egress: tuple[BaselineEgressRule, ...] = ()


class ClusterSpec(Wire, frozen=True):
    tier: str | None = None
    priority: int | None = None
    subject: IngressPeer | None = None
    ingress: tuple[ClusterIngressRule, ...] = ()
    egress: tuple[ClusterEgressRule, ...] = ()


class AdminNetworkPolicy(Wire, frozen=True):
    api_version: str
    kind: str
    metadata: Metadata = Metadata()
    spec: AdminSpec | None = None
    status: Any = None


class BaselineAdminNetworkPolicy(Wire, frozen=True):
    api_version: str
    kind: str
    metadata: Metadata = Metadata()
    spec: BaselineSpec | None = None
    status: Any = None


class ClusterNetworkPolicy(Wire, frozen=True):
    api_version: str
    kind: str
    metadata: Metadata = Metadata()
    spec: ClusterSpec | None = None
    status: Any = None
