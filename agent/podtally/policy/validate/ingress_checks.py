# SPDX-License-Identifier: Apache-2.0
"""Validation of an Ingress: k8s.io/kubernetes ``ValidateIngressCreate``."""

from podtally.policy.cidr import parse_address
from podtally.policy.problems import Fault, Path
from podtally.policy.schema.network import (
    HTTPPath,
    Ingress,
    IngressBackend,
    IngressServiceBackend,
    IngressSpec,
    ResourceBackend,
)
from podtally.policy.validate import network_checks
from podtally.policy.validate.names import (
    dns_label,
    dns_subdomain,
    host_name,
    port_name,
    port_number,
)
from podtally.policy.validate.network_checks import Faults, not_one_of
from podtally.yamltree.scalars import brief

_CLASS_ANNOTATION = "kubernetes.io/ingress.class"
_PATH_TYPES = ("Exact", "ImplementationSpecific", "Prefix")
_NOT_IN_A_PATH = ("//", "/./", "/../", "%2f", "%2F")
_NOT_AT_ITS_END = ("/..", "/.")


def ingress(given: Ingress) -> Faults:
    yield from network_checks.metadata(given.metadata, namespaced=True)
    spec = given.spec
    if not spec.rules and spec.default_backend is None:
        yield Fault(("spec",), "must have rules or a defaultBackend")
    if spec.default_backend is not None:
        yield from _backend(spec.default_backend, ("spec", "defaultBackend"))
    yield from _rules(spec)
    yield from _tls(spec)
    name = spec.ingress_class_name
    if name is not None:
        yield from _checked(("spec", "ingressClassName"), name, dns_subdomain(name))
        annotated = given.metadata.annotations.get(_CLASS_ANNOTATION, name)
        if annotated != name:
            path = ("metadata", "annotations", _CLASS_ANNOTATION)
            yield Fault(path, f"{brief(annotated)} differs from spec.ingressClassName; remove it")


def _checked(path: Path, value: str, wrong: str) -> Faults:
    if wrong:
        yield Fault(path, f"{brief(value)} {wrong}")


def _rules(spec: IngressSpec) -> Faults:
    for index, rule in enumerate(spec.rules):
        path = ("spec", "rules", index)
        if rule.host:
            at = (*path, "host")
            yield from _checked(at, rule.host, host_name(rule.host))
            if parse_address(rule.host) is not None:
                yield Fault(at, "must be a name, not an address")
        if rule.http is None:
            continue
        if not rule.http.paths:
            yield Fault((*path, "http", "paths"), "must have at least one path")
        for number, http_path in enumerate(rule.http.paths):
            yield from _path(http_path, (*path, "http", "paths", number))


def _path(given: HTTPPath, path: Path) -> Faults:
    if given.path_type is None:
        yield Fault((*path, "pathType"), f"is required: {', '.join(_PATH_TYPES)}")
        return
    at = (*path, "path")
    if given.path_type not in _PATH_TYPES:
        yield not_one_of((*path, "pathType"), given.path_type, _PATH_TYPES)
    elif given.path_type == "ImplementationSpecific":
        if given.path and not given.path.startswith("/"):
            yield Fault(at, "must begin with '/'")
    else:
        if not given.path.startswith("/"):
            yield Fault(at, "must begin with '/'")
        for sequence in _NOT_IN_A_PATH:
            if sequence in given.path:
                yield Fault(at, f"must not contain '{sequence}'")
        for suffix in _NOT_AT_ITS_END:
            if given.path.endswith(suffix):
                yield Fault(at, f"must not end with '{suffix}'")
    yield from _backend(given.backend, (*path, "backend"))


def _backend(given: IngressBackend, path: Path) -> Faults:
    if given.service is not None and given.resource is not None:
        yield Fault(path, "must not have both a service and a resource")
    elif given.service is not None:
        yield from _service(given.service, (*path, "service"))
    elif given.resource is not None:
        yield from _resource(given.resource, (*path, "resource"))
    else:
        yield Fault(path, "must have a service or a resource")


def _service(given: IngressServiceBackend, path: Path) -> Faults:
    """Check a Service backend. Names may start with a digit, as on newer servers (KEP-5311)."""
    if not given.name:
        yield Fault((*path, "name"), "is required")
    else:
        yield from _checked((*path, "name"), given.name, dns_label(given.name))
    name, number = given.port.name, given.port.number
    if name and number:
        yield Fault((*path, "port"), "must not have both a name and a number")
    elif name:
        yield from _checked((*path, "port", "name"), name, port_name(name))
    elif number:
        yield from _checked((*path, "port", "number"), str(number)[:20], port_number(number))
    else:
        yield Fault((*path, "port"), "must have a name or a number")


def _resource(given: ResourceBackend, path: Path) -> Faults:
    if given.api_group is not None:
        yield from _checked((*path, "apiGroup"), given.api_group, dns_subdomain(given.api_group))
    for name, value in (("kind", given.kind), ("name", given.name)):
        if not value:
            yield Fault((*path, name), "is required")
        elif value in (".", "..") or "/" in value or "%" in value:
            yield Fault((*path, name), "must be a single path segment: no '/', no '%'")


def _tls(spec: IngressSpec) -> Faults:
    for index, tls in enumerate(spec.tls):
        path = ("spec", "tls", index)
        for number, host in enumerate(tls.hosts):
            yield from _checked((*path, "hosts", number), host, host_name(host))
        if tls.secret_name:
            wrong = dns_subdomain(tls.secret_name)
            yield from _checked((*path, "secretName"), tls.secret_name, wrong)
