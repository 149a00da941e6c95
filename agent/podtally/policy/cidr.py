# SPDX-License-Identifier: Apache-2.0
"""CIDR parsing as the API server does it, in Go's lax and strict variants."""

import re
from ipaddress import AddressValueError, IPv6Address
from typing import NamedTuple

from podtally.policy.model import Network

_MAPPED = 0xFFFF << 32  # ::ffff:0:0/96, RFC 4291 2.5.5.2
_IPV4 = re.compile(r"[0-9]+(?:\.[0-9]+){3}", re.ASCII)
_IPV6 = re.compile(r"[0-9a-fA-F:.]+", re.ASCII)
_MAX_CHARACTERS = 64  # an address with some leading zeros


def _is_ipv4(address: int) -> bool:
    return address >> 32 == 0xFFFF


class Cidr(NamedTuple):
    address: int  # 128 bits, host bits as written
    bits: int  # prefix length out of 128
    length: int  # the prefix length as written
    canonical: bool  # False: has leading zeros, host bits, or IPv4 in IPv6

    def network(self) -> Network:
        free = 128 - self.bits
        return Network(self.address >> free << free, self.bits)

    def contains(self, other: "Cidr") -> bool:
        """Return whether the other network starts in this one; IPv4 only in IPv4 (Go ``IPNet``)."""
        first, inner = self.network().first, other.network().first
        free = 128 - self.bits
        return first >> free == inner >> free and _is_ipv4(first) == _is_ipv4(inner)


def parse_sloppy(text: str) -> Cidr | None:
    """Parse as ``ParseCIDRSloppy`` (k8s.io/utils/net): leading zeros and host bits allowed."""
    host, slash, length = text.partition("/")
    if not slash or not re.fullmatch(r"[0-9]{1,9}", length, re.ASCII):
        return None
    address = parse_address(host)
    if address is None:
        return None
    short = _IPV4.fullmatch(host) is not None
    bits = int(length) + 96 if short else int(length)
    if bits > 128:
        return None
    cidr = Cidr(address, bits, int(length), True)
    tidy = _has_no_leading_zeros(host, length, short) and (short or not _is_ipv4(address))
    return cidr._replace(canonical=tidy and cidr.network().first == address)


def parse_cel(text: str) -> Cidr | None:
    """Parse as the CEL function ``isCIDR``: ``netip.ParsePrefix`` without ::ffff:1.2.3.4."""
    cidr = parse_sloppy(text)
    if cidr is None:
        return None
    host, _, length = text.partition("/")
    short = _IPV4.fullmatch(host) is not None
    mapped = not short and _is_ipv4(cidr.address)
    return cidr if _has_no_leading_zeros(host, length, short) and not mapped else None


def parse_address(text: str) -> int | None:
    """Parse as ``ParseIPSloppy`` does; return 128 bits, or None."""
    if len(text) > _MAX_CHARACTERS:
        return None
    if _IPV4.fullmatch(text):
        octets = [int(part) for part in text.split(".")]
        return _MAPPED | int.from_bytes(bytes(octets), "big") if max(octets) < 256 else None
    if ":" not in text or not _IPV6.fullmatch(text):
        return None
    parts = [part.lstrip("0") or part[-1:] for part in text.split(":")]
    if "." in parts[-1]:
        tail = parse_address(text.rpartition(":")[2])
        if tail is None:
            return None
        parts[-1:] = [f"{tail >> 16 & 0xFFFF:x}", f"{tail & 0xFFFF:x}"]
    try:
        return int(IPv6Address(":".join(parts)))
    except AddressValueError:
        return None


def _has_no_leading_zeros(host: str, length: str, short: bool) -> bool:
    """Return whether it is strict; IPv6 groups may have leading zeros, up to four digits."""
    if len(length) > 1 and length[0] == "0":
        return False
    if short:
        return not re.search(r"(?:^|\.)0[0-9]", host)
    groups, _, tail = host.rpartition(":")
    if "." in tail and re.search(r"(?:^|\.)0[0-9]", tail):
        return False
    return all(len(group) <= 4 for group in groups.split(":")) and ("." in tail or len(tail) <= 4)
