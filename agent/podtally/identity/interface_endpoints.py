# SPDX-License-Identifier: Apache-2.0
"""What is known of who lives behind one watched interface, or has a socket of the host: values."""

import ipaddress
from dataclasses import dataclass
from typing import NamedTuple

from podtally.config import StaticEndpoint
from podtally.identity.model import FOREVER, Endpoint
from podtally.runtimes.cgroups import CgroupOwner

MAPPED = 0xFFFF << 32  # ::ffff:0:0/96, RFC 4291 2.5.5.2


class AddressSpan(NamedTuple):
    """An address, and when it was had: CLOCK_MONOTONIC, in ns.

    ``routed``: this host sends what is for it to the interface. ``on_link``: it is configured
    on the interface's own other end.
    """

    address: str
    from_ns: int
    until_ns: int = FOREVER
    routed: bool = True
    on_link: bool = False


@dataclass(frozen=True)
class InterfaceEndpoint:
    """Who lives behind an interface; ``named`` is what a source has called it, once one has."""

    ifindex: int
    interface: str
    host: bool = False
    netns: str = ""
    found: CgroupOwner | None = None
    named: Endpoint | None = None
    addresses: tuple[AddressSpan, ...] = ()
    appeared_ns: int = 0
    gone_ns: int = 0
    excess: int = 0  # addresses beyond those that are looked at

    def has(self, address: str) -> bool:
        """Return whether it has or had an address that is routed to it."""
        return any(held.address == address and held.routed for held in self.addresses)

    def routed_since(self, address: str) -> int:
        """Return since when it has an address that is routed to it; 0 if it has it not now."""
        mine = (h for h in self.addresses if h.address == address and h.routed)
        return max((h.from_ns for h in mine if h.until_ns == FOREVER), default=0)

    def current(self) -> set[str]:
        """Return the addresses that it has now and that are routed to it."""
        return {h.address for h in self.addresses if h.until_ns == FOREVER and h.routed}


def address_number(address: str) -> int:
    """128 bits; IPv4 as ::ffff:a.b.c.d. ValueError if it is no address."""
    parsed = ipaddress.ip_address(address)
    return int(parsed) | MAPPED if parsed.version == 4 else int(parsed)


def address_text(address: bytes) -> str:
    """Sixteen bytes as they are written."""
    parsed = ipaddress.IPv6Address(address)
    return str(parsed.ipv4_mapped or parsed)


def lower_word(address: str) -> int:
    """The second half of an address, as the kernel's rows hold it: in network order."""
    return int.from_bytes(address_number(address).to_bytes(16, "big")[8:], "little")


def static_endpoint(entry: StaticEndpoint, node: str) -> Endpoint:
    """Return who an entry of the configuration names."""
    return Endpoint(
        entry.namespace,
        entry.name,
        entry.workload or entry.name,
        entry.workload_kind or "Static",
        "static",
        tuple(sorted(entry.labels.items())),
        node=node,
        ports=(),
    )
