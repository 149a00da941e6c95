# SPDX-License-Identifier: Apache-2.0
"""Finds the zones in which the connection tracker keeps connections, for ``conntrack``.

Network plugins that are made of Open vSwitch, and rules such as ``CT --zone``, track a pod's
connections in zones of their own, where a look-up without the zone does not find them.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator

from podtally.netlink.batches import Rows
from podtally.netlink.conntrack_layout import CT_GET, CT_NEW, TupleLayout
from podtally.netlink.netlink import (
    ERROR,
    F_DUMP,
    F_REQUEST,
    HEADER,
    NetlinkMessage,
    attribute,
    attributes,
    messages,
    open_socket,
)

NETLINK_NETFILTER = 12
DEFAULT_ZONE = 0
MAX_ENTRIES = 4000  # examined where the kernel cannot filter
_DONE = 3
_ROOM = 1 << 16
_NFGENMSG = 4  # bytes
_TUPLE_ORIGINAL, _ZONE, _FILTER = 1, 18, 25  # CTA_*
_TUPLE_IP, _TUPLE_ZONE = 1, 3  # CTA_TUPLE_*
_FILTER_ORIGINAL = 1  # CTA_FILTER_ORIG_FLAGS
# CTA_FILTER_F_*: the protocol and the two ports (nf_internals.h). Not the addresses: kernels
# list the IPv6 addresses that are others (ctnetlink_filter_match_tuple()).
_PORTS = 8 | 16 | 32


def zones_of(version: TupleLayout, row: Rows) -> set[int]:
    """Return the zones in which one connection is tracked, by its original tuple.

    The kernel goes through its whole table: for now and then. OSError where it refuses.
    """
    request = version.requests(row, 0)[0].tobytes()[HEADER.size :]
    wanted = attribute(_FILTER_ORIGINAL, struct.pack("=I", _PORTS))
    addresses = _addresses(attributes(request, _NFGENMSG))
    request += attribute(_FILTER | 0x8000, wanted)
    return {
        zone_of(message.body)
        for message in _dump(request, MAX_ENTRIES)
        if _addresses(attributes(message.body, _NFGENMSG)) == addresses
    }


def _addresses(found: dict[int, bytes]) -> dict[int, bytes]:
    """The addresses of an original tuple, by their attributes."""
    return attributes(attributes(found.get(_TUPLE_ORIGINAL, b"")).get(_TUPLE_IP, b""))


def zones_in_use() -> set[int]:
    """Return the zones of the first entries that the tracker lists. OSError where it refuses."""
    return {zone_of(message.body) for message in _dump(bytes(_NFGENMSG), MAX_ENTRIES)}


def zone_of(body: bytes) -> int:
    """Return the zone of what is sent in an entry's original direction."""
    found = attributes(body, _NFGENMSG)
    zone = found.get(_ZONE)
    if zone is None:  # of one direction only
        zone = attributes(found.get(_TUPLE_ORIGINAL, b"")).get(_TUPLE_ZONE)
    return DEFAULT_ZONE if zone is None or len(zone) < 2 else int(struct.unpack(">H", zone[:2])[0])


def _dump(request: bytes, most: int) -> Iterator[NetlinkMessage]:
    """List entries, on a socket of its own: what is left of the list goes with it."""
    sock = open_socket(1 << 18, NETLINK_NETFILTER)
    try:
        sock.settimeout(5.0)
        size = HEADER.size + len(request)
        sock.send(HEADER.pack(size, CT_GET, F_REQUEST | F_DUMP, 1, 0) + request)
        count = 0
        while count < most:
            for message in messages(_received(sock)):
                if message.kind == _DONE:
                    return
                if message.kind == ERROR:
                    code = -int(struct.unpack_from("=i", message.body)[0])
                    raise OSError(code, os.strerror(code))
                if message.kind == CT_NEW:
                    count += 1
                    yield message
    finally:
        sock.close()


def _received(sock: socket.socket) -> bytes:
    try:
        return sock.recv(_ROOM)
    except TimeoutError:
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
