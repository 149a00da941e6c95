"""Through which interfaces this host reaches the world."""

import ipaddress
import struct

from podtally.links.netlink import Requests, attribute, attributes

_GETROUTE = 26
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, lengths, tos, table, protocol, scope, type, flags
_RTA_DST = 1
_RTA_OIF = 4
_AF_INET, _AF_INET6 = 2, 10
# Documentation and discard-only (RFC 5737, RFC 6666): nobody has a narrower route to them,
# and asking for one sends nothing.
_FAR_AWAY = (
    (_AF_INET, ipaddress.IPv4Address("198.51.100.1")),
    (_AF_INET6, ipaddress.IPv6Address("100::1")),
)


def uplinks(requests: Requests) -> frozenset[int]:
    """The interfaces of the default routes, IPv4 and IPv6."""
    found = set()
    for family, address in _FAR_AWAY:
        length = address.max_prefixlen
        body = _RTMSG.pack(family, length, 0, 0, 0, 0, 0, 0, 0)
        try:
            answer = requests.get(_GETROUTE, body + attribute(_RTA_DST, address.packed))
        except OSError:  # ENETUNREACH: there is none
            continue
        interface = attributes(answer, _RTMSG.size).get(_RTA_OIF)
        if interface is not None:
            found.add(int(struct.unpack("=I", interface)[0]))
    return frozenset(found)
