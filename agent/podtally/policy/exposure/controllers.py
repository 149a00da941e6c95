# SPDX-License-Identifier: Apache-2.0
"""Which pods serve an Ingress: told by the address that its controller has published for it.

Nothing is guessed from names, labels or classes. A controller writes into the status of an
Ingress where it is reached, as a rule what it finds in its own Service: ingress-nginx
``statusAddressFromService()``, Traefik's ``publishedService``. The pods behind the Service
that has this address are the controller's.
"""

from collections.abc import Collection, Iterable
from functools import lru_cache

from podtally.identity.services import ServiceName, Services, parse_address
from podtally.kube.objects import KubeService
from podtally.kube.ports import PROTOCOLS

_TCP = PROTOCOLS["TCP"]
# "An Ingress does not expose arbitrary ports or protocols" (concepts, Ingress).
_WEB_PORTS = (80, 443)

AddressKey = int | str  # an address of 128 bits, or a host's name


class ControllerPods:
    """Asks of one view of the Services, and of the addresses that the nodes have."""

    def __init__(self, services: Services, node_addresses: Iterable[str]) -> None:
        self._services = services
        self._nodes = frozenset(map(address_key, node_addresses))
        self._at: dict[AddressKey, list[KubeService]] | None = None
        self._known: dict[tuple[str, ...], frozenset[int]] = {}

    def behind(self, addresses: tuple[str, ...]) -> frozenset[int]:
        """Addresses of the pods that an Ingress with these addresses is served by.

        None where that cannot be told. What a node's address leads to is not known (the
        controller's host ports, or whatever balances load with the nodes' own addresses), and
        what comes from one need not be the controller's, though it is in the host's network.
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
        # Several Services share an address by their ports.
        return {address for port in _WEB_PORTS for address in self._at_port(there, port)}

    def _at_port(self, there: Iterable[KubeService], port: int) -> Collection[int]:
        """None where Services claim the same port and do not mean the same pods."""
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
    """Whether any address leads to its backends: k8s.io/kubernetes ``ShouldSkipService()``.

    Not so with an ExternalName, nor without a cluster address, whatever external IPs it has.
    """
    has_own = any(each not in service.outside_addresses for each in service.addresses)
    return has_own and service.type != "ExternalName"


@lru_cache(maxsize=1 << 14)  # the same texts come again with each change of a Service
def address_key(text: str) -> AddressKey:
    """The same for all ways to write an address, or a name of DNS."""
    address = parse_address(text)
    return text.rstrip(".").lower() if address is None else address


def _has(service: KubeService, number: int) -> bool:
    return any(port.port == number and port.protocol == "TCP" for port in service.ports)
