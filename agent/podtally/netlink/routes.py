# SPDX-License-Identifier: Apache-2.0
"""Finds the interfaces through which this host reaches other networks, and single addresses."""

import errno
import ipaddress
import struct
from typing import NamedTuple

from podtally.netlink.netlink import Requests, attribute, attributes

_GETROUTE = 26
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, lengths, tos, table, protocol, scope, type, flags
_RTA_DST = 1
_RTA_OIF = 4
_RTA_GATEWAY = 5
_RTA_VIA = 18
_RTN_UNICAST = 1
_MAPPED = bytes(10) + b"\xff\xff"
_AF_INET, _AF_INET6 = 2, 10
# Documentation and discard-only (RFC 5737, RFC 6666): no host has a narrower route to them,
# and asking for one sends nothing.
_FAR_AWAY = (
    (_AF_INET, ipaddress.IPv4Address("198.51.100.1")),
    (_AF_INET6, ipaddress.IPv6Address("100::1")),
)


def uplinks(requests: Requests, vrf: int = 0) -> frozenset[int]:
    """The interfaces of the default routes, IPv4 and IPv6, of the host or of a VRF's ifindex."""
    within = attribute(_RTA_OIF, struct.pack("=I", vrf)) if vrf else b""
    found = set()
    for family, address in _FAR_AWAY:
        length = address.max_prefixlen
        body = _RTMSG.pack(family, length, 0, 0, 0, 0, 0, 0, 0)
        try:
            answer = requests.get(_GETROUTE, body + attribute(_RTA_DST, address.packed) + within)
        except OSError:  # ENETUNREACH: there is none
            continue
        interface = attributes(answer, _RTMSG.size).get(_RTA_OIF)
        if interface is not None:
            found.add(int(struct.unpack("=I", interface)[0]))
    return frozenset(found)


class Route(NamedTuple):
    """Where this host sends what is for an address."""

    ifindex: int
    direct: bool  # to a neighbour, not to a gateway


NO_ROUTE = Route(0, direct=False)
# fib_lookup(), ip_route_input(): there is none, or it is one that leads nowhere.
_NOWHERE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.ESRCH)


def route_to(requests: Requests, address: bytes) -> Route:
    """Look up the route to an address of 16 bytes; NO_ROUTE where it leads to no interface.

    The host's own addresses are such. OSError where the kernel could not be asked.
    """
    ipv4 = address[:12] == _MAPPED
    family, target = (_AF_INET, address[12:]) if ipv4 else (_AF_INET6, address)
    body = _RTMSG.pack(family, 8 * len(target), 0, 0, 0, 0, 0, 0, 0)
    try:
        answer = requests.get(_GETROUTE, body + attribute(_RTA_DST, target))
    except OSError as error:
        if error.errno in _NOWHERE:
            return NO_ROUTE
        raise
    *_, kind, _ = _RTMSG.unpack_from(answer)
    found = attributes(answer, _RTMSG.size)
    if kind != _RTN_UNICAST or _RTA_OIF not in found:
        return NO_ROUTE
    through = int(struct.unpack("=I", found[_RTA_OIF])[0])
    return Route(through, direct=not found.keys() & {_RTA_GATEWAY, _RTA_VIA})
