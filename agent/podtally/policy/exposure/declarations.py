# SPDX-License-Identifier: Apache-2.0
"""What Ingresses and Services declare as exposed, each with its backends.

An Ingress names Services in its namespace and a port by number or name, and sends HTTP, so TCP,
to their endpoints; a Service is exposed if its type or external IPs say so.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from podtally.identity.services import BackendAddress, Services
from podtally.kube.objects import KubeService
from podtally.kube.ports import PROTOCOLS
from podtally.policy.exposure.controllers import is_proxied
from podtally.policy.ingress import DeclaredIngress, IngressRoute
from podtally.yamltree.scalars import brief

INGRESS = "Ingress"
LOAD_BALANCER = "LoadBalancer"
NODE_PORT = "NodePort"
EXTERNAL_IPS = "externalIPs"

_SERVICE_KINDS = (LOAD_BALANCER, NODE_PORT, EXTERNAL_IPS)
_MAX_ROUTES, _MAX_ROUTE_CHARACTERS = 3, 200  # the API limits neither


class ExposureDeclaration(NamedTuple):
    """One port of a Service, and what exposes it."""

    kind: str
    namespace: str
    name: str  # of the Ingress, else of the Service
    service: str
    port: int  # the Service's port; of a NodePort, the node's
    protocol: str = "TCP"
    routes: tuple[IngressRoute, ...] = ()  # of the Ingress, to this port
    unreadable: bool = False  # the Ingress cannot be read: it may declare this

    @property
    def text(self) -> str:
        protocol = "" if self.protocol == "TCP" else f"/{self.protocol}"
        front = f"{self.namespace}/{self.service}:{self.port}{protocol}"
        if self.unreadable:
            return f"{self.via} cannot be read and may expose Service {front}"
        return f"{self.via} by Service {front}" if self.kind == INGRESS else f"{self.kind} {front}"

    @property
    def via(self) -> str:
        """The Ingress with its routes, for traffic of its controller."""
        own_routes, more = (
            map(_route_text, self.routes[:_MAX_ROUTES]),
            len(self.routes) - _MAX_ROUTES,
        )
        routes = ", ".join((*own_routes, f"+{more}") if more > 0 else own_routes)
        return f"{self.kind} {self.namespace}/{self.name}" + (f" ({routes})" if routes else "")


class DeclaredExposure(NamedTuple):
    declaration: ExposureDeclaration
    backends: tuple[BackendAddress, ...]  # of the last minute
    addresses: tuple[str, ...] = ()  # that lead to the Ingress: its controller's


def find_declarations(
    ingresses: Iterable[DeclaredIngress], services: Services
) -> list[DeclaredExposure]:
    """Return all exposures: the most specific first, those of unreadable Ingresses last."""
    in_order = sorted(ingresses, key=lambda each: (each.namespace, each.name))
    found = [each for ingress in in_order for each in _of_ingress(ingress, services)]
    by_kind: dict[str, list[DeclaredExposure]] = {kind: [] for kind in _SERVICE_KINDS}
    for _, service in sorted(services.objects.items()):
        for each in _of_service(service, services):
            by_kind[each.declaration.kind].append(each)
    for of_kind in by_kind.values():
        found += of_kind
    unreadable = [ingress for ingress in in_order if ingress.unreadable]
    found += _of_unreadable(unreadable, services) if unreadable else ()
    return found


def _of_ingress(ingress: DeclaredIngress, services: Services) -> Iterator[DeclaredExposure]:
    routes: dict[tuple[str, int], list[IngressRoute]] = {}
    for route in ingress.routes:
        front = _front(ingress.namespace, route, services)
        if front is not None:
            routes.setdefault(front, []).append(route)
    for (service, port), own_routes in routes.items():
        namespace, name = ingress.namespace, ingress.name
        declaration = ExposureDeclaration(
            INGRESS, namespace, name, service, port, "TCP", tuple(own_routes)
        )
        backends = services.backends((namespace, service), (PROTOCOLS["TCP"], port))
        yield DeclaredExposure(declaration, backends, ingress.addresses)


def _front(namespace: str, route: IngressRoute, services: Services) -> tuple[str, int] | None:
    """Return the Service and its port number; it may be headless, controllers use its endpoints.

    None for a controller-specific resource, and for an ExternalName, which has no pods.
    """
    wanted = route.backend
    service = services.objects.get((namespace, wanted.service)) if wanted else None
    if wanted is None or service is None or service.type == "ExternalName":
        return None
    for port in service.ports:
        is_it = port.port == wanted.number if wanted.number else port.name == wanted.name
        if is_it and port.protocol == "TCP":
            return service.name, port.port
    return None


def _route_text(route: IngressRoute) -> str:
    if not route.path_type:
        return "default backend"
    return brief(f"{route.host or '*'}{route.path}", _MAX_ROUTE_CHARACTERS)[1:-1]


def _of_service(service: KubeService, services: Services) -> Iterator[DeclaredExposure]:
    """Yield one for each port, by what exposes it most widely."""
    kind = _kind(service)
    if not kind or not is_proxied(service):
        return
    for port in service.ports:
        if port.protocol in PROTOCOLS:
            shown = port.node_port if kind == NODE_PORT else port.port
            namespace, name = service.namespace, service.name
            declaration = ExposureDeclaration(kind, namespace, name, name, shown, port.protocol)
            backends = services.backends((namespace, name), (PROTOCOLS[port.protocol], port.port))
            yield DeclaredExposure(declaration, backends)


def _kind(service: KubeService) -> str:
    """Return the kind of exposure, ""; a load balancer counts before it has an address."""
    if service.type in (LOAD_BALANCER, NODE_PORT):
        return service.type
    return EXTERNAL_IPS if service.outside_addresses else ""


def _of_unreadable(
    ingresses: list[DeclaredIngress], services: Services
) -> Iterator[DeclaredExposure]:
    """Yield all that they may expose: every TCP port of every Service in their namespaces."""
    first = {ingress.namespace: ingress for ingress in reversed(ingresses)}
    for (namespace, name), service in sorted(services.objects.items()):
        ingress = first.get(namespace)
        if ingress is None or service.type == "ExternalName":
            continue
        for port in service.ports:
            if port.protocol == "TCP":
                declaration = ExposureDeclaration(
                    INGRESS, namespace, ingress.name, name, port.port, unreadable=True
                )
                backends = services.backends((namespace, name), (PROTOCOLS["TCP"], port.port))
                yield DeclaredExposure(declaration, backends)
