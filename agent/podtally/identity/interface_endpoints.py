# SPDX-License-Identifier: Apache-2.0
"""The endpoint behind a watched interface as far as it is known, and address conversions."""

import ipaddress
from dataclasses import dataclass
from typing import NamedTuple

from podtally.config import StaticEndpoint
from podtally.identity.model import FOREVER, Endpoint
from podtally.runtimes.cgroups import CgroupOwner

MAPPED = 0xFFFF << 32  # ::ffff:0:0/96, RFC 4291 2.5.5.2


class AddressSpan(NamedTuple):
    """An address and the time in which it was configured: CLOCK_MONOTONIC, in ns.

    ``routed``: this host routes it to the interface. ``on_link``: it is configured on the
    interface's own peer.
    """

    address: str
    from_ns: int
    until_ns: int = FOREVER
    routed: bool = True
    on_link: bool = False


@dataclass(frozen=True)
class InterfaceEndpoint:
    """What is known of the endpoint behind an interface; the checkpoint stores it.

    ``owner`` is the owner by cgroup, ``pod_name`` the name that a pod keeps.
    """

    ifindex: int
    interface: str
    host: bool = False
    netns: str = ""
    owner: CgroupOwner | None = None
    pod_name: Endpoint | None = None
    addresses: tuple[AddressSpan, ...] = ()
    appeared_ns: int = 0
    gone_ns: int = 0
    excess: int = 0  # addresses beyond the limit
    removed: bool = False  # the kernel removed it; not only no longer watched

    def has(self, address: str) -> bool:
        """Return whether an address is or was routed to it."""
        return any(span.address == address and span.routed for span in self.addresses)

    def routed_since(self, address: str) -> int:
        """Return since when an address is routed to it; 0 if it is not now."""
        spans = (h for h in self.addresses if h.address == address and h.routed)
        return max((h.from_ns for h in spans if h.until_ns == FOREVER), default=0)

    def current(self) -> set[str]:
        """Return the addresses that are routed to it now."""
        return {h.address for h in self.addresses if h.until_ns == FOREVER and h.routed}


def address_number(address: str) -> int:
    """Return 128 bits, IPv4 as ::ffff:a.b.c.d; ValueError if it is not an address."""
    parsed = ipaddress.ip_address(address)
    return int(parsed) | MAPPED if parsed.version == 4 else int(parsed)


def address_text(address: bytes) -> str:
    """Return the text of an address of sixteen bytes."""
    parsed = ipaddress.IPv6Address(address)
    return str(parsed.ipv4_mapped or parsed)


def lower_word(address: str) -> int:
    """Return the second half of an address, as in the kernel's rows: in network order."""
    return int.from_bytes(address_number(address).to_bytes(16, "big")[8:], "little")


def static_endpoint(entry: StaticEndpoint, node: str) -> Endpoint:
    """Return the endpoint of an entry of the configuration."""
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
