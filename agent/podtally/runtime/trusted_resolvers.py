# SPDX-License-Identifier: Apache-2.0
"""Finds the resolvers that are trusted for verdicts.

The cluster's DNS Services, their backends, the node-local cache, those in the host's resolv.conf,
and ``resolvers:``.
"""

import ipaddress
import time
from collections.abc import Iterable
from pathlib import Path

from podtally.identity.interface_endpoints import InterfaceEndpoint
from podtally.identity.services import ServiceName, Services, parse_address
from podtally.kube.objects import KubeService

NODE_LOCAL = "169.254.20.10"  # of the NodeLocal DNSCache add-on
FILES = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
_DNS = ((17, 53), (6, 53))  # protocol and port
_NAMESPACES = {"kube-system", "openshift-dns"}
_EVERY_NS = 30_000_000_000


class TrustedResolvers:
    """``configured``: addresses."""

    def __init__(self, configured: Iterable[str], files: Iterable[Path] = FILES) -> None:
        self._configured = frozenset(map(_packed, (*configured, NODE_LOCAL)))
        self._files = tuple(files)
        self._of_host: frozenset[bytes] = frozenset()
        self._of_cluster: frozenset[bytes] = frozenset()
        self._behind: dict[bytes, frozenset[bytes]] = {}  # backends: addresses of their Services
        self._services: Services | None = None
        self._next_ns = 0

    def now(self, services: Services) -> frozenset[bytes]:
        """Return the addresses, 16 bytes each."""
        now_ns = time.monotonic_ns()
        if now_ns >= self._next_ns:
            self._next_ns = now_ns + _EVERY_NS
            self._of_host = frozenset(_nameservers(self._files))
        if services is not self._services:
            self._services = services
            self._of_cluster = frozenset(_cluster_dns(services))
            self._behind = _services_of_backends(services)
        return self._configured | self._of_host | self._of_cluster

    def senders(self, endpoints: Iterable[InterfaceEndpoint]) -> dict[int, frozenset[bytes]]:
        """Return the addresses that pods of this host may answer from, by their interfaces: their
        own, and those of DNS Services that they serve. Call after ``now``.

        Pods without a known address are left out, as where packets count as spoofed.
        """
        found: dict[int, frozenset[bytes]] = {}
        for each in endpoints:
            own = frozenset(map(_packed, each.current()))
            if own and not each.host:
                found[each.ifindex] = own.union(*(self._behind.get(a, ()) for a in own))
        return found


def _services_of_backends(services: Services) -> dict[bytes, frozenset[bytes]]:
    found: dict[bytes, frozenset[bytes]] = {}
    for name, service in _dns_services(services):
        numbers = (parse_address(text) for text in service.addresses)
        addresses = {number.to_bytes(16) for number in numbers if number is not None}
        for key in _DNS:
            for backend in services.backends(name, key):
                packed = backend.address.to_bytes(16)
                found[packed] = found.get(packed, frozenset()) | addresses
    return found


def _dns_services(services: Services) -> Iterable[tuple[ServiceName, KubeService]]:
    for name, service in services.objects.items():
        if name[0] in _NAMESPACES and any(port.port == 53 for port in service.ports):
            yield name, service


def _nameservers(files: Iterable[Path]) -> Iterable[bytes]:
    for file in files:
        try:
            lines = file.read_text(errors="replace").splitlines()
        except OSError:  # not every host has both
            continue
        for line in lines:
            words = line.split()
            if len(words) >= 2 and words[0] == "nameserver":
                number = parse_address(words[1].partition("%")[0])
                if number is not None:
                    yield number.to_bytes(16)


def _cluster_dns(services: Services) -> Iterable[bytes]:
    for name, service in _dns_services(services):
        for text in service.addresses:
            number = parse_address(text)
            if number is not None:
                yield number.to_bytes(16)
        for key in _DNS:
            for backend in services.backends(name, key):
                yield backend.address.to_bytes(16)


def _packed(text: str) -> bytes:
    address = ipaddress.ip_address(text)
    if address.version == 4:
        return b"\0" * 10 + b"\xff\xff" + address.packed
    return address.packed
