# SPDX-License-Identifier: Apache-2.0
"""What Ingress resources declare to be exposed; who is behind a Service is not known here."""

from typing import Any, NamedTuple

import msgspec

CLASS_ANNOTATION = "kubernetes.io/ingress.class"  # before there was spec.ingressClassName


class IngressServicePort(NamedTuple):
    """A Service of the Ingress's own namespace, and its port by number or, if that is 0, name."""

    service: str
    number: int
    name: str


class IngressRoute(NamedTuple):
    host: str  # "" is any; may begin with "*."
    path: str  # "" is any
    path_type: str  # Exact, Prefix, ImplementationSpecific; "" of a default backend
    backend: (
        IngressServicePort | None
    )  # None: not a Service, but a resource of the controller's own


class DeclaredIngress(NamedTuple):
    namespace: str
    name: str
    class_name: str  # "" is the cluster's default class
    routes: tuple[IngressRoute, ...]
    addresses: tuple[str, ...] = ()  # that its controller says lead to it; or host names
    unreadable: str = ""  # what could not be read: it may declare more than its routes


class _IngressPoint(msgspec.Struct, frozen=True):
    ip: str = ""
    hostname: str = ""


class _IngressLoadBalancer(msgspec.Struct, frozen=True):
    ingress: tuple[_IngressPoint, ...] = ()


class _IngressStatus(msgspec.Struct, frozen=True):
    load_balancer: _IngressLoadBalancer = msgspec.field(
        name="loadBalancer", default=_IngressLoadBalancer()
    )


def addresses_of(status: Any) -> tuple[str, ...]:
    """Of ``status.loadBalancer.ingress``; none where a status is not in its form."""
    try:
        told = msgspec.convert(status, _IngressStatus).load_balancer.ingress
    except msgspec.ValidationError:
        return ()
    return tuple(dict.fromkeys(text for each in told for text in (each.ip, each.hostname) if text))
