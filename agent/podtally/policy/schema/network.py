# SPDX-License-Identifier: Apache-2.0
"""The fields of NetworkPolicy, HostPolicy and Ingress, as written in manifests.

A missing field has the zero value of its Go type, or None where the API distinguishes the two.
"""

from typing import Any

import msgspec


class PolicyStruct(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A part of an object as written; camelCase names, unknown fields forbidden."""


class PolicyOwnerReference(PolicyStruct, frozen=True):
    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class PolicyObjectMetadata(PolicyStruct, frozen=True):
    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    finalizers: tuple[str, ...] = ()
    owner_references: tuple[PolicyOwnerReference, ...] = ()
    generation: int = 0
    self_link: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str = ""
    deletion_timestamp: str = ""
    deletion_grace_period_seconds: int | None = None
    managed_fields: Any = None


class LabelRequirement(PolicyStruct, frozen=True):
    key: str | None = None
    operator: str | None = None
    values: tuple[str, ...] = ()


class LabelSelector(PolicyStruct, frozen=True):
    match_labels: dict[str, str] = {}
    match_expressions: tuple[LabelRequirement, ...] = ()


class IPBlock(PolicyStruct, frozen=True):
    cidr: str = ""
    except_: tuple[str, ...] = msgspec.field(name="except", default=())


class NetworkPeer(PolicyStruct, frozen=True):
    pod_selector: LabelSelector | None = None
    namespace_selector: LabelSelector | None = None
    ip_block: IPBlock | None = None


class NetworkPort(PolicyStruct, frozen=True):
    protocol: str | None = None
    port: int | str | None = None
    end_port: int | None = None


class NetworkIngressRule(PolicyStruct, frozen=True):
    ports: tuple[NetworkPort, ...] = ()
    from_: tuple[NetworkPeer, ...] = msgspec.field(name="from", default=())


class NetworkEgressRule(PolicyStruct, frozen=True):
    ports: tuple[NetworkPort, ...] = ()
    to: tuple[NetworkPeer, ...] = ()


class NetworkSpec(PolicyStruct, frozen=True):
    pod_selector: LabelSelector = LabelSelector()
    ingress: tuple[NetworkIngressRule, ...] = ()
    egress: tuple[NetworkEgressRule, ...] = ()
    policy_types: tuple[str, ...] = ()


class NetworkPolicy(PolicyStruct, frozen=True):
    api_version: str
    kind: str
    metadata: PolicyObjectMetadata = PolicyObjectMetadata()
    spec: NetworkSpec = NetworkSpec()
    status: Any = None  # KEP-2943: servers of 1.24 to 1.27 print it


class HostPeer(PolicyStruct, frozen=True):
    """An ipBlock, or endpoints of this host by one or more of the other fields."""

    ip_block: IPBlock | None = None
    endpoint_selector: LabelSelector | None = None
    units: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    host: bool = False


class HostDestination(PolicyStruct, frozen=True):
    """As HostPeer, or domain names."""

    ip_block: IPBlock | None = None
    endpoint_selector: LabelSelector | None = None
    units: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    host: bool = False
    domain_names: tuple[str, ...] | None = None


class HostIngressRule(PolicyStruct, frozen=True):
    ports: tuple[NetworkPort, ...] = ()
    from_: tuple[HostPeer, ...] = msgspec.field(name="from", default=())


class HostEgressRule(PolicyStruct, frozen=True):
    ports: tuple[NetworkPort, ...] = ()
    to: tuple[HostDestination, ...] = ()


class HostSpec(PolicyStruct, frozen=True):
    endpoint_selector: LabelSelector | None = None
    units: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    host: bool = False
    ingress: tuple[HostIngressRule, ...] = ()
    egress: tuple[HostEgressRule, ...] = ()
    policy_types: tuple[str, ...] = ()


class HostPolicy(PolicyStruct, frozen=True):
    """podtally's own kind, for hosts without Kubernetes; the grammar is NetworkPolicy's.

    ::

        apiVersion: podtally.io/v1alpha1
        kind: HostPolicy
        metadata: {name: ssh-from-the-office}  # no namespace
        spec:
          # The subject: at least one of these; an endpoint that matches any of them is selected.
          endpointSelector: {matchLabels: {role: web}}  # by labels of endpoints; {}: all
          units: ["ssh.service", "nginx*.service"]  # globs over names of systemd units
          containers: ["shop-*"]  # globs over names of containers
          host: true  # everything in the host's own network
          policyTypes: [Ingress]  # default: Ingress, and Egress if there are egress rules
          ingress:
          - from:  # missing or empty: all peers. Each is an ipBlock, or has some of the four above
            - ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.10/32]}
            ports:  # missing or empty: all
            - {protocol: TCP, port: 22}  # endPort makes it a range; no named ports
          egress:
          - to:  # as from, or by the names that the endpoint's DNS answers have
            - {units: ["postgresql@*.service"]}
            - {domainNames: [api.example.com, "*.cdn.example.com"]}

    As with NetworkPolicy, the selected endpoints are isolated in the directions of policyTypes,
    and what any rule of any policy allows is allowed.
    """

    api_version: str
    kind: str
    metadata: PolicyObjectMetadata = PolicyObjectMetadata()
    spec: HostSpec = HostSpec()


class BackendServicePort(PolicyStruct, frozen=True):
    name: str = ""
    number: int = 0


class IngressServiceBackend(PolicyStruct, frozen=True):
    name: str = ""
    port: BackendServicePort = BackendServicePort()


class ResourceBackend(PolicyStruct, frozen=True):
    api_group: str | None = None
    kind: str = ""
    name: str = ""


class IngressBackend(PolicyStruct, frozen=True):
    service: IngressServiceBackend | None = None
    resource: ResourceBackend | None = None


class HTTPPath(PolicyStruct, frozen=True):
    path: str = ""
    path_type: str | None = None
    backend: IngressBackend = IngressBackend()


class HTTPRule(PolicyStruct, frozen=True):
    paths: tuple[HTTPPath, ...] = ()


class HostRule(PolicyStruct, frozen=True):
    host: str = ""
    http: HTTPRule | None = None


class TLS(PolicyStruct, frozen=True):
    hosts: tuple[str, ...] = ()
    secret_name: str = ""


class IngressSpec(PolicyStruct, frozen=True):
    ingress_class_name: str | None = None
    default_backend: IngressBackend | None = None
    tls: tuple[TLS, ...] = ()
    rules: tuple[HostRule, ...] = ()


class Ingress(PolicyStruct, frozen=True):
    api_version: str
    kind: str
    metadata: PolicyObjectMetadata = PolicyObjectMetadata()
    spec: IngressSpec = IngressSpec()
    status: Any = None
