# SPDX-License-Identifier: Apache-2.0
"""Ingresses: the Services that they expose, and the addresses of their controllers."""

from typing import Any, NamedTuple

import msgspec

CLASS_ANNOTATION = "kubernetes.io/ingress.class"  # before there was spec.ingressClassName


class IngressServicePort(NamedTuple):
    """A Service in the Ingress's namespace; its port by number or, if that is 0, by name."""

    service: str
    number: int
    name: str


class IngressRoute(NamedTuple):
    host: str  # "": any; may start with "*."
    path: str  # "": any
    path_type: str  # Exact, Prefix, ImplementationSpecific; "" of a default backend
    backend: IngressServicePort | None  # None: a controller-specific resource


class DeclaredIngress(NamedTuple):
    namespace: str
    name: str
    class_name: str  # "": the cluster's default class
    routes: tuple[IngressRoute, ...]
    addresses: tuple[str, ...] = ()  # published by its controller: addresses or host names
    unreadable: str = ""  # the problem, if it cannot be read: it may declare more than its routes


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
    """Return the addresses in ``status.loadBalancer.ingress``; none if malformed."""
    try:
        points = msgspec.convert(status, _IngressStatus).load_balancer.ingress
    except msgspec.ValidationError:
        return ()
    return tuple(
        dict.fromkeys(text for each in points for text in (each.ip, each.hostname) if text)
    )
