# SPDX-License-Identifier: Apache-2.0
"""Validation of NetworkPolicy (k8s.io/kubernetes ``ValidateNetworkPolicy``) and HostPolicy.

Every check yields faults, each with its field. A warning: the server accepts it, but it is
probably a mistake.
"""

from collections.abc import Callable, Iterator

from podtally.policy.cidr import parse_sloppy
from podtally.policy.problems import Fault, Path, warning
from podtally.policy.schema.network import (
    HostDestination,
    HostPeer,
    HostPolicy,
    HostSpec,
    IPBlock,
    LabelRequirement,
    LabelSelector,
    NetworkPeer,
    NetworkPolicy,
    NetworkPort,
    PolicyObjectMetadata,
)
from podtally.policy.validate.domain_checks import domain_names
from podtally.policy.validate.names import (
    dns_label,
    dns_subdomain,
    generated_name,
    label_value,
    port_name,
    port_number,
    qualified_name,
)
from podtally.yamltree.scalars import brief
from podtally.yamltree.suggestion import similar

PROTOCOLS = ("TCP", "UDP", "SCTP")
POLICY_TYPES = ("Ingress", "Egress")
_ANNOTATIONS_BYTES = 256 << 10
_MAX_GLOB_CHARACTERS = 256  # a unit's name is at most 255 characters, systemd UNIT_NAME_MAX
_ORPHAN, _FOREGROUND = "orphan", "foregroundDeletion"

Faults = Iterator[Fault]


def network_policy(policy: NetworkPolicy) -> Faults:
    yield from metadata(policy.metadata, namespaced=True)
    spec = policy.spec
    yield from selector(spec.pod_selector, ("spec", "podSelector"))
    for index, ingress in enumerate(spec.ingress):
        path = ("spec", "ingress", index)
        yield from ports(ingress.ports, path)
        for number, peer in enumerate(ingress.from_):
            yield from _network_peer(peer, (*path, "from", number))
    for index, egress in enumerate(spec.egress):
        path = ("spec", "egress", index)
        yield from ports(egress.ports, path)
        for number, peer in enumerate(egress.to):
            yield from _network_peer(peer, (*path, "to", number))
    yield from _policy_types(spec.policy_types)
    if policy.status not in (None, {}):
        yield warning(("status",), "is no longer in the API; remove it")


def host_policy(policy: HostPolicy) -> Faults:
    yield from metadata(policy.metadata, namespaced=False)
    spec = policy.spec
    yield from selects_endpoints(spec)
    for index, ingress in enumerate(spec.ingress):
        path = ("spec", "ingress", index)
        yield from _host_ports(ingress.ports, path)
        for number, peer in enumerate(ingress.from_):
            yield from _host_peer(peer, (*path, "from", number))
    for index, egress in enumerate(spec.egress):
        path = ("spec", "egress", index)
        yield from _host_ports(egress.ports, path)
        for number, destination in enumerate(egress.to):
            yield from _host_destination(destination, (*path, "to", number))
    yield from _policy_types(spec.policy_types)


def selects_endpoints(spec: HostSpec) -> Faults:
    """Check the subject of a HostPolicy."""
    if not _names_endpoints(spec):
        message = "selects no endpoints: add endpointSelector, units, containers or host"
        yield Fault(("spec",), message)
    yield from _endpoints(spec, ("spec",))


def metadata(meta: PolicyObjectMetadata, namespaced: bool) -> Faults:
    """Check as ``ValidateObjectMeta``. No namespace means "default", as in a request."""
    at: Path = ("metadata",)
    if meta.generate_name:
        yield from _named((*at, "generateName"), meta.generate_name, generated_name)
    if meta.name:
        yield from _named((*at, "name"), meta.name, dns_subdomain)
    elif not meta.generate_name:
        yield Fault((*at, "name"), "is required")
    if namespaced and meta.namespace:
        yield from _named((*at, "namespace"), meta.namespace, dns_label)
    if not namespaced and meta.namespace:
        message = "is ignored: this kind is cluster-scoped; remove it"
        yield warning((*at, "namespace"), message)
    yield from labels(meta.labels, (*at, "labels"))
    for key in meta.annotations:
        yield from _named((*at, "annotations", key), key.lower(), qualified_name)
    size = sum(_bytes(text) for item in meta.annotations.items() for text in item)
    if size > _ANNOTATIONS_BYTES:
        yield Fault((*at, "annotations"), f"must be at most {_ANNOTATIONS_BYTES} bytes in total")
    if meta.generation < 0:
        yield Fault((*at, "generation"), "must not be negative")
    yield from _owners_and_finalizers(meta, at)


def selector(given: LabelSelector | None, path: Path) -> Faults:
    if given is None:
        return
    yield from labels(given.match_labels, (*path, "matchLabels"))
    for index, expression in enumerate(given.match_expressions):
        yield from _requirement(expression, (*path, "matchExpressions", index))


def labels(given: dict[str, str], path: Path) -> Faults:
    for key, value in given.items():
        yield from _named((*path, key), key, qualified_name)
        yield from _named((*path, key), value, label_value)


def ports(given: tuple[NetworkPort, ...], rule: Path) -> Faults:
    """Check each port as ``ValidateNetworkPolicyPort``."""
    for index, port in enumerate(given):
        path = (*rule, "ports", index)
        if port.protocol is not None and port.protocol not in PROTOCOLS:
            yield not_one_of((*path, "protocol"), port.protocol, PROTOCOLS)
        if isinstance(port.port, int):
            yield from _numbered((*path, "port"), port.port)
            if port.end_port is not None:
                if port.end_port < port.port:
                    yield Fault((*path, "endPort"), "must not be less than port")
                yield from _numbered((*path, "endPort"), port.end_port)
            continue
        if port.end_port is not None:
            yield Fault((*path, "endPort"), "requires a numeric port, the first of the range")
        if port.port is not None:
            yield from _named((*path, "port"), port.port, port_name)


def block(given: IPBlock, path: Path) -> Faults:
    """Check as ``ValidateIPBlock``; what only newer servers reject (KEP-4858) is a warning."""
    if not given.cidr:
        yield Fault((*path, "cidr"), "is required, for example 203.0.113.0/24")
        return
    yield from _cidr(given.cidr, (*path, "cidr"))
    outer = parse_sloppy(given.cidr)
    for index, text in enumerate(given.except_):
        at = (*path, "except", index)
        yield from _cidr(text, at)
        inner = parse_sloppy(text)
        if outer is None or inner is None:
            continue
        if outer.length >= inner.length or not outer.contains(inner):
            yield Fault(at, f"must be a strict subset of the cidr {brief(given.cidr)}")


def not_one_of(path: Path, value: str, allowed: tuple[str, ...]) -> Fault:
    close = similar(value, allowed)
    hint = f' (did you mean "{close}"?)' if close else ""
    return Fault(path, f"unsupported value {brief(value)}: use one of {', '.join(allowed)}{hint}")


def _named(path: Path, value: str, check: Callable[[str], str]) -> Faults:
    wrong = check(value)
    if wrong:
        yield Fault(path, f"{brief(value)} {wrong}")


def _numbered(path: Path, number: int) -> Faults:
    wrong = port_number(number)
    if wrong:
        yield Fault(path, wrong)


def _cidr(text: str, path: Path) -> Faults:
    cidr = parse_sloppy(text)
    if cidr is None:
        yield Fault(path, f"invalid CIDR {brief(text)}: use the form 203.0.113.0/24")
    elif not cidr.canonical:
        yield warning(path, f"{brief(text)} has host bits, leading zeros or IPv4 in IPv6")


def _network_peer(peer: NetworkPeer, path: Path) -> Faults:
    """Check as ``ValidateNetworkPolicyPeer``."""
    yield from selector(peer.pod_selector, (*path, "podSelector"))
    yield from selector(peer.namespace_selector, (*path, "namespaceSelector"))
    labelled = peer.pod_selector is not None or peer.namespace_selector is not None
    if peer.ip_block is not None:
        yield from block(peer.ip_block, (*path, "ipBlock"))
        if labelled:
            yield Fault(path, "must not have both ipBlock and selectors; split it into two peers")
    elif not labelled:
        yield Fault(path, "is empty; add podSelector, namespaceSelector or ipBlock")


def _requirement(given: LabelRequirement, path: Path) -> Faults:
    """Check as ``ValidateLabelSelectorRequirement``."""
    operator = given.operator or ""
    if operator in ("In", "NotIn"):
        if not given.values:
            yield Fault((*path, "values"), f"is required for {operator}")
    elif operator in ("Exists", "DoesNotExist"):
        if given.values:
            yield Fault((*path, "values"), f"must be empty for {operator}")
    else:
        wanted = ("In", "NotIn", "Exists", "DoesNotExist")
        yield not_one_of((*path, "operator"), operator, wanted)
    yield from _named((*path, "key"), given.key or "", qualified_name)
    for index, value in enumerate(given.values):
        yield from _named((*path, "values", index), value, label_value)


def _policy_types(given: tuple[str, ...]) -> Faults:
    path = ("spec", "policyTypes")
    if len(given) > len(POLICY_TYPES):
        yield Fault(path, "must have at most two items")
        return
    for index, name in enumerate(given):
        if name not in POLICY_TYPES:
            yield not_one_of((*path, index), name, POLICY_TYPES)


def _names_endpoints(given: HostSpec | HostPeer | HostDestination) -> bool:
    return bool(
        given.endpoint_selector is not None or given.units or given.containers or given.host
    )


def _endpoints(given: HostSpec | HostPeer | HostDestination, path: Path) -> Faults:
    yield from selector(given.endpoint_selector, (*path, "endpointSelector"))
    for name, globs in (("units", given.units), ("containers", given.containers)):
        for index, glob in enumerate(globs):
            if not 0 < len(glob) <= _MAX_GLOB_CHARACTERS:
                message = f"must have 1 to {_MAX_GLOB_CHARACTERS} characters"
                yield Fault((*path, name, index), message)


def _host_peer(peer: HostPeer, path: Path) -> Faults:
    yield from _endpoints(peer, path)
    if peer.ip_block is not None:
        yield from block(peer.ip_block, (*path, "ipBlock"))
        if _names_endpoints(peer):
            yield Fault(path, "must not have both ipBlock and endpoints; split it into two peers")
    elif not _names_endpoints(peer):
        yield Fault(path, "is empty; add ipBlock, endpointSelector, units, containers or host")


def _host_destination(peer: HostDestination, path: Path) -> Faults:
    if peer.domain_names is None:
        fields = (peer.ip_block, peer.endpoint_selector, peer.units, peer.containers, peer.host)
        yield from _host_peer(HostPeer(*fields), path)
        return
    if peer.ip_block is not None or _names_endpoints(peer):
        yield Fault(path, "must not have domainNames and other fields; split it into two peers")
    yield from domain_names(peer.domain_names, (*path, "domainNames"))


def _host_ports(given: tuple[NetworkPort, ...], path: Path) -> Faults:
    yield from ports(given, path)
    for index, port in enumerate(given):
        if isinstance(port.port, str):
            message = "must be a number: host endpoints have no named ports"
            yield Fault((*path, "ports", index, "port"), message)


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _owners_and_finalizers(meta: PolicyObjectMetadata, at: Path) -> Faults:
    for index, owner in enumerate(meta.owner_references):
        path = (*at, "ownerReferences", index)
        given = (owner.api_version, owner.kind, owner.name, owner.uid)
        for name, value in zip(("apiVersion", "kind", "name", "uid"), given, strict=True):
            if not value:
                yield Fault((*path, name), "is required")
    if sum(owner.controller is True for owner in meta.owner_references) > 1:
        yield Fault((*at, "ownerReferences"), "must have at most one controller")
    for index, name in enumerate(meta.finalizers):
        yield from _named((*at, "finalizers", index), name, qualified_name)
    if _ORPHAN in meta.finalizers and _FOREGROUND in meta.finalizers:
        yield Fault((*at, "finalizers"), f"must not have both {_ORPHAN} and {_FOREGROUND}")
