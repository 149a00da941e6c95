# SPDX-License-Identifier: Apache-2.0
"""Decodes rtnetlink's messages about links and addresses; ``netlink`` queries the kernel."""

import errno
import socket
import struct
from typing import NamedTuple

from podtally.netlink.model import Frames, Link
from podtally.netlink.netlink import Requests, attributes, text

# linux/rtnetlink.h
NEWLINK = 16
DELLINK = 17
GETLINK = 18
NEWADDR = 20
DELADDR = 21
GETADDR = 22
GROUP_LINK = 1
GROUP_IPV4_ADDRESS = 5
GROUP_IPV6_ADDRESS = 9

_IFINFO = struct.Struct("=BxHiII")  # family, ARPHRD type, ifindex, flags, change
_IFADDR = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, ifindex
_IFLA_IFNAME = 3
_IFLA_MTU = 4
_IFLA_LINK = 5
_IFLA_QDISC = 6
_IFLA_MASTER = 10
_IFLA_LINKINFO = 18
_IFLA_STATS64 = 23
_IFLA_LINK_NETNSID = 37
_IFLA_GSO_MAX_SIZE = 41
_IFLA_XDP = 43
_IFLA_NEW_NETNSID = 45
_IFLA_TARGET_NETNSID = 46
_IFLA_GSO_IPV4_MAX_SIZE = 63
_IFLA_XDP_ATTACHED = 2
_IFLA_XDP_PROG_ID = 4
_IFLA_INFO_KIND = 1
_IFA_ADDRESS = 1
_IFA_LOCAL = 2
_IFA_TARGET_NETNSID = 10
_ARPHRD_ETHER = 1
_IFF_UP = 1
_GSO_MAX_SIZE = 65536  # of kernels that do not say
_BESIDE_MTU = 14 + 2 * 4  # bytes of Ethernet header and VLAN tags
_STATS = struct.Struct("=8Q")  # struct rtnl_link_stats64: packets, bytes, errors, dropped; rx, tx
SEVERAL = -1
LOOPBACK_IFINDEX = 1  # in every namespace: loopback_net_init() insists on it


def parse_link(body: bytes) -> Link | None:
    """One interface; None for a message that is about something else.

    Bridge ports are announced with the same types under family AF_BRIDGE, and
    wireless events without counters: neither says that a link came or went.
    """
    family, hardware, ifindex, flags, _ = _IFINFO.unpack_from(body)
    found = attributes(body, _IFINFO.size)
    if family != socket.AF_UNSPEC or _IFLA_STATS64 not in found:
        return None
    stats = _STATS.unpack_from(found[_IFLA_STATS64])
    rx, tx, rx_bytes, tx_bytes, _, tx_errors, rx_dropped, tx_dropped = stats
    info = attributes(found.get(_IFLA_LINKINFO, b""))
    return Link(
        ifindex,
        text(found[_IFLA_IFNAME]),
        text(info.get(_IFLA_INFO_KIND, b"")),
        _number(found.get(_IFLA_LINK), 0),
        _number(found.get(_IFLA_LINK_NETNSID), -1),
        hardware == _ARPHRD_ETHER,
        rx_bytes,
        tx_bytes,
        bool(flags & _IFF_UP),
        Frames(rx, tx, rx_dropped, tx_errors + tx_dropped),
        text(found.get(_IFLA_QDISC, b"")),
        _largest(found),
        _xdp_program(attributes(found.get(_IFLA_XDP, b""))),
        _number(found.get(_IFLA_MASTER), 0),
        _IFLA_NEW_NETNSID in found,
    )


def _xdp_program(about: dict[int, bytes]) -> int:
    """Return the id of the program, 0 for none; where there are several, of none in particular."""
    if not any(about.get(_IFLA_XDP_ATTACHED, b"")):
        return 0
    return _number(about.get(_IFLA_XDP_PROG_ID), SEVERAL)


def _largest(found: dict[int, bytes]) -> int:
    """Return the size of the largest frame: one that is still to be cut up, or the MTU."""
    sizes = [_number(found.get(_IFLA_MTU), 0), _number(found.get(_IFLA_GSO_MAX_SIZE), 0)]
    sizes.append(_number(found.get(_IFLA_GSO_IPV4_MAX_SIZE), 0))
    return max(*sizes, _GSO_MAX_SIZE) + _BESIDE_MTU


def _number(payload: bytes | None, missing: int) -> int:
    return missing if payload is None else int(struct.unpack("=i", payload)[0])


class AddressMessage(NamedTuple):
    ifindex: int
    address: bytes  # 16 bytes; IPv4 as ::ffff:a.b.c.d
    bits: int  # of 128, that all in its network have; 128 where it is alone

    @property
    def network(self) -> tuple[int, int]:
        """Return what all in its network have, and how many bits of it there are."""
        return int.from_bytes(self.address) >> 128 - self.bits, self.bits


def parse_address(body: bytes) -> AddressMessage | None:
    """One address of an interface; None for a family that is not IP."""
    family, bits, _, _, ifindex = _IFADDR.unpack_from(body)
    found = attributes(body, _IFADDR.size)
    # on a point-to-point link IFA_ADDRESS is the other side's (linux/if_addr.h)
    raw = found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS))
    if raw is None or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    if len(raw) == 16:
        return AddressMessage(ifindex, raw, bits)
    return AddressMessage(ifindex, bytes(10) + b"\xff\xff" + raw, 96 + bits)


def get_link(requests: Requests, ifindex: int) -> Link | None:
    """Return one interface as it is now; None if it is gone."""
    try:
        return parse_link(requests.get(GETLINK, _IFINFO.pack(0, 0, ifindex, 0, 0)))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise


def get_peer(requests: Requests, link: Link) -> Link | None:
    """Return the other end of a pair in its namespace; None if it is gone. OSError."""
    target = struct.pack("=HHi", 8, _IFLA_TARGET_NETNSID, link.peer_nsid)
    try:
        return parse_link(
            requests.get(GETLINK, _IFINFO.pack(0, 0, link.peer_ifindex, 0, 0) + target)
        )
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.EINVAL):  # the link, or its namespace
            return None
        raise


def all_links(requests: Requests) -> list[Link]:
    answers = requests.dump(GETLINK, _IFINFO.pack(0, 0, 0, 0, 0))
    return [link for a in answers if (link := parse_link(a.body)) is not None]


def address_request(target_nsid: bytes) -> bytes:
    """Build a GETADDR dump; ``target_nsid`` is empty, or the packed id of a namespace."""
    body = _IFADDR.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    if target_nsid:
        body += struct.pack("=HH", 4 + len(target_nsid), _IFA_TARGET_NETNSID) + target_nsid
    return body
