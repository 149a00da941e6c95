# SPDX-License-Identifier: Apache-2.0
"""Which pods serve an Ingress: those behind the address that its controller has published.

Nothing is guessed from names, labels or classes. A controller writes its address into the status
of an Ingress, usually from its own Service (ingress-nginx ``statusAddressFromService()``,
Traefik's ``publishedService``). The pods behind the Service with this address are the controller.
"""

from collections.abc import Collection, Iterable
from functools import lru_cache

from podtally.identity.services import ServiceName, Services, parse_address
from podtally.kube.objects import KubeService
from podtally.kube.ports import PROTOCOLS

_TCP = PROTOCOLS["TCP"]
# "An Ingress does not expose arbitrary ports or protocols" (concepts, Ingress).
_WEB_PORTS = (80, 443)

AddressKey = int | str  # an address of 128 bits, or a host name


class ControllerPods:
    """Finds the controller pods of Ingresses in one view of the Services."""

    def __init__(self, services: Services, node_addresses: Iterable[str]) -> None:
        self._services = services
        self._nodes = frozenset(map(address_key, node_addresses))
        self._at: dict[AddressKey, list[KubeService]] | None = None
        self._known: dict[tuple[str, ...], frozenset[int]] = {}

    def behind(self, addresses: tuple[str, ...]) -> frozenset[int]:
        """Return the addresses of the pods that serve an Ingress with these addresses.

        Empty if unknown. A node's address may lead anywhere (the controller's host ports, a load
        balancer that uses node addresses), and traffic from it need not be the controller's.
        """
        if addresses not in self._known:
            places = {address_key(text) for text in addresses} - self._nodes
            found = {address for place in places for address in self._at_place(place)}
            self._known[addresses] = frozenset(found - self._nodes)
        return self._known[addresses]

    def _at_place(self, place: AddressKey) -> Collection[int]:
        there = self._by_place().get(place, [])
        if len(there) == 1:
            name = (there[0].namespace, there[0].name)
            ports = [(PROTOCOLS.get(port.protocol, 0), port.port) for port in there[0].ports]
            return {address for port in ports for address in self._backends(name, port)}
        # Several Services share an address, each with its ports.
        return {address for port in _WEB_PORTS for address in self._at_port(there, port)}

    def _at_port(self, there: Iterable[KubeService], port: int) -> Collection[int]:
        """Return the backends; none if Services claim the same port with different pods."""
        fronts = [(each.namespace, each.name) for each in there if _has(each, port)]
        fleets = {self._backends(name, (_TCP, port)) for name in fronts}
        return fleets.pop() if len(fleets) == 1 else frozenset()

    def _backends(self, service: ServiceName, port: tuple[int, int]) -> frozenset[int]:
        return frozenset(backend.address for backend in self._services.backends(service, port))

    def _by_place(self) -> dict[AddressKey, list[KubeService]]:
        if self._at is None:
            self._at = {}
            for service in filter(is_proxied, self._services.objects.values()):
                places = map(address_key, (*service.addresses, *service.outside_addresses))
                for place in set(places):
                    self._at.setdefault(place, []).append(service)
        return self._at


def is_proxied(service: KubeService) -> bool:
    """Return whether any address leads to its backends: k8s.io/kubernetes ``ShouldSkipService()``.

    Not for an ExternalName, nor without a cluster address, whatever external IPs it has.
    """
    has_own = any(each not in service.outside_addresses for each in service.addresses)
    return has_own and service.type != "ExternalName"


@lru_cache(maxsize=1 << 14)  # the same texts recur with each change of a Service
def address_key(text: str) -> AddressKey:
    """Return the same key for every notation of an address or DNS name."""
    address = parse_address(text)
    return text.rstrip(".").lower() if address is None else address


def _has(service: KubeService, number: int) -> bool:
    return any(port.port == number and port.protocol == "TCP" for port in service.ports)
