"""What is known of who lives behind one watched interface, or has a socket of the host: values."""

import ipaddress
from dataclasses import dataclass
from typing import NamedTuple

from podtally.identity.cgroups import Found
from podtally.identity.model import FOREVER, Endpoint

MAPPED = 0xFFFF << 32  # ::ffff:0:0/96, RFC 4291 2.5.5.2


class Held(NamedTuple):
    """An address, and when it was had: CLOCK_MONOTONIC, in ns."""

    address: str
    from_ns: int
    until_ns: int = FOREVER


@dataclass(frozen=True)
class Resident:
    """Who lives behind an interface; ``named`` is what a source has called it, once one has."""

    ifindex: int
    interface: str
    host: bool = False
    netns: str = ""
    found: Found | None = None
    named: Endpoint | None = None
    addresses: tuple[Held, ...] = ()
    appeared_ns: int = 0
    gone_ns: int = 0

    def has(self, address: str) -> bool:
        return any(held.address == address for held in self.addresses)


def number(address: str) -> int:
    """128 bits; IPv4 as ::ffff:a.b.c.d. ValueError if it is no address."""
    parsed = ipaddress.ip_address(address)
    return int(parsed) | MAPPED if parsed.version == 4 else int(parsed)


def text(address: bytes) -> str:
    """Sixteen bytes as they are written."""
    parsed = ipaddress.IPv6Address(address)
    return str(parsed.ipv4_mapped or parsed)


def lower_word(address: str) -> int:
    """The second half of an address, as the kernel's rows hold it: in network order."""
    return int.from_bytes(number(address).to_bytes(16, "big")[8:], "little")
