"""What Ingress resources declare to be exposed; who is behind a Service is not known here."""

from typing import NamedTuple


class ServicePort(NamedTuple):
    """A Service of the Ingress's own namespace, and its port by number or, if that is 0, name."""

    service: str
    number: int
    name: str


class Route(NamedTuple):
    host: str  # "" is any; may begin with "*."
    path: str  # "" is any
    path_type: str  # Exact, Prefix, ImplementationSpecific; "" of a default backend
    backend: ServicePort | None  # None: not a Service, but a resource of the controller's own


class DeclaredIngress(NamedTuple):
    namespace: str
    name: str
    class_name: str  # "" is the cluster's default class
    routes: tuple[Route, ...]
