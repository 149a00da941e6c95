# SPDX-License-Identifier: Apache-2.0
"""Services: their node ports, and the backends of their ports.

kube-proxy picks a backend for each connection. Which one is not known here, only which ones it
may have picked.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from podtally.identity.interface_endpoints import address_number
from podtally.identity.model import FOREVER, Owner
from podtally.kube.objects import EndpointSlice, KubeService
from podtally.kube.ports import PROTOCOLS

LINGER_NS = 60 * 1_000_000_000  # connections to a removed backend may be read this late

ServiceName = tuple[str, str]  # namespace and name
PortKey = tuple[int, int]  # protocol and port


class BackendAddress(NamedTuple):
    address: int  # 128 bits; IPv4 as ::ffff:a.b.c.d
    port: int  # the pod's, not the Service's


class CommonBackend(NamedTuple):
    """What all backends have in common; 0, 0 and None for what differs."""

    address: int
    port: int
    owner: Owner | None


class Services:
    """An immutable view of all Services."""

    def __init__(
        self,
        nodeports: Mapping[PortKey, Owner],
        backends: Mapping[ServiceName, Mapping[PortKey, tuple[BackendAddress, ...]]],
        objects: Mapping[ServiceName, KubeService] | None = None,
    ) -> None:
        self.objects: Mapping[ServiceName, KubeService] = objects or {}
        self.nodeports = nodeports
        self._backends = backends

    def nodeport(self, protocol: int, port: int) -> Owner | None:
        """Return the Service of a node port."""
        return self.nodeports.get((protocol, port))

    def backends(self, service: ServiceName, port: PortKey) -> tuple[BackendAddress, ...]:
        """Return the backends that connections to a port may have used in the last minute."""
        return self._backends.get(service, {}).get(port, ())


NO_SERVICES = Services({}, {})


class ServiceTable:
    """Services and EndpointSlices as they change; ``view`` returns an immutable view."""

    def __init__(self) -> None:
        self._services: dict[ServiceName, KubeService] = {}
        self._slices: dict[ServiceName, EndpointSlice] = {}
        self._slices_of: dict[ServiceName, set[ServiceName]] = {}
        self._serving: dict[
            ServiceName, dict[PortKey, dict[BackendAddress, int]]
        ] = {}  # and until when
        self._backends: dict[ServiceName, dict[PortKey, tuple[BackendAddress, ...]]] = {}
        self._stale: set[ServiceName] = set()
        self._lingering: dict[ServiceName, int] = {}
        self._view: Services | None = None

    def __len__(self) -> int:
        return len(self._services)

    def put_service(self, service: KubeService) -> None:
        name = (service.namespace, service.name)
        if self._services.get(name) != service:
            self._services[name] = service
            self._stale.add(name)

    def drop_service(self, service: KubeService) -> None:
        name = (service.namespace, service.name)
        known = self._services.get(name)
        if known and known.uid == service.uid:  # not another one with its name
            del self._services[name]
            self._stale.add(name)

    def put_slice(self, piece: EndpointSlice) -> None:
        name = (piece.namespace, piece.name)
        if self._slices.get(name) == piece:
            return
        self.drop_slice(name)
        if piece.service:
            service = (piece.namespace, piece.service)
            self._slices[name] = piece
            self._slices_of.setdefault(service, set()).add(name)
            self._stale.add(service)

    def drop_slice(self, name: ServiceName) -> None:
        piece = self._slices.pop(name, None)
        if piece:
            service = (piece.namespace, piece.service)
            self._slices_of[service].discard(name)
            if not self._slices_of[service]:
                del self._slices_of[service]
            self._stale.add(service)

    def slices(self) -> Mapping[ServiceName, EndpointSlice]:
        return self._slices

    def view(self, now_ns: int) -> Services:
        """Return a view; the same object until something changes."""
        self._stale.update(name for name, at in self._lingering.items() if at <= now_ns)
        if self._view is None or self._stale:
            for name in self._stale:
                self._refresh(name, now_ns)
            self._stale.clear()
            backends, objects = dict(self._backends), dict(self._services)
            self._view = Services(self._nodeports(), backends, objects)
        return self._view

    def _refresh(self, name: ServiceName, now_ns: int) -> None:
        self._lingering.pop(name, None)
        service = self._services.get(name)
        if service is None or not service.ports:
            self._serving.pop(name, None)
            self._backends.pop(name, None)
            return
        serving = self._serving.setdefault(name, {})
        present = self._present(service)
        for port in serving.keys() | present.keys():
            seen = _with_lingering(serving.get(port, {}), present.get(port, []), now_ns)
            due = min(seen.values(), default=FOREVER)
            if due < FOREVER:
                self._lingering[name] = min(due, self._lingering.get(name, due))
            serving[port] = seen
        self._backends[name] = {port: tuple(seen) for port, seen in serving.items() if seen}

    def _present(self, service: KubeService) -> dict[PortKey, list[BackendAddress]]:
        """Return backends by the Service's ports, which slices refer to by name."""
        ports = {(p.name, p.protocol): p.port for p in service.ports}
        found: dict[PortKey, list[BackendAddress]] = {}
        for piece_name in self._slices_of.get((service.namespace, service.name), ()):
            piece = self._slices[piece_name]
            addresses = [a for a in map(parse_address, piece.addresses) if a is not None]
            for port in piece.ports:
                front = ports.get((port.name, port.protocol))
                if front and port.protocol in PROTOCOLS:
                    there = found.setdefault((PROTOCOLS[port.protocol], front), [])
                    there += [BackendAddress(address, port.port) for address in addresses]
        return found

    def _nodeports(self) -> dict[PortKey, Owner]:
        return {
            (PROTOCOLS[port.protocol], port.node_port): service_owner(service)
            for service in self._services.values()
            for port in service.ports
            if port.node_port and port.protocol in PROTOCOLS
        }


def _with_lingering(
    before: Mapping[BackendAddress, int], there: list[BackendAddress], now_ns: int
) -> dict[BackendAddress, int]:
    """Return backends and until when they count: FOREVER while present, then LINGER_NS more."""
    seen = dict.fromkeys(there, FOREVER)
    for backend, known_until_ns in before.items():
        if now_ns < known_until_ns:
            seen.setdefault(backend, min(known_until_ns, now_ns + LINGER_NS))
    return seen


def service_owner(service: KubeService) -> Owner:
    name = service.name
    return Owner("service", service.namespace, name, name, "cluster", "Service", uid=service.uid)


def parse_address(text: str) -> int | None:
    """Return 128 bits, IPv4 as ::ffff:a.b.c.d; None for a host name."""
    try:
        return address_number(text)
    except ValueError:
        return None


def common_backend(
    backends: Sequence[BackendAddress], owner_at: Callable[[int], Owner | None]
) -> CommonBackend | None:
    """Return what is true of a connection whichever backend it uses; None if nothing is.

    Several backends may still belong to one workload and have one port.
    """
    if not backends:
        return None
    first = backends[0]
    owners = [owner_at(backend.address) for backend in backends]
    port = first.port if all(backend.port == first.port for backend in backends) else 0
    if len(backends) == 1:
        return CommonBackend(first.address, port, owners[0])
    shared = {_shared(owner) for owner in owners}
    owner = shared.pop() if len(shared) == 1 else None
    return CommonBackend(0, port, owner) if port or owner else None


def _shared(owner: Owner | None) -> Owner | None:
    """Return an owner without what distinguishes it from others of its workload."""
    if owner is None:
        return None
    return owner._replace(name="", node="", uid="", labels=(), ports=None)
