# SPDX-License-Identifier: Apache-2.0
"""Reads the drivers' own counters of frames that a program at XDP dropped.

They are in no other counter, and are read only to explain a gap:
``ETHTOOL_GSTATS`` (linux/ethtool.h) has hundreds of values with some drivers.
"""

import ctypes
import fcntl
import re
import socket
import struct

_SIOCETHTOOL = 0x8946
_GSTRINGS = 0x1B
_GSTATS = 0x1D
_GSSET_INFO = 0x37
_STATS_SET = 1  # ETH_SS_STATS
_NAME_LENGTH = 32  # ETH_GSTRING_LEN
_DROPS = re.compile(rb"^(?!.*tx).*xdp_drops?$")
_OF_A_QUEUE = re.compile(rb"\d")


def xdp_drops(ifindex: int) -> int:
    """Return how many frames XDP dropped; 0 where the driver does not say, or it is gone."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            name = socket.if_indextoname(ifindex).encode(errors="surrogateescape")
            counters = _counters(sock, name)
    except OSError:
        return 0
    # Some drivers have the sum beside the counters of the queues.
    named = [(n, value) for n, value in counters if _DROPS.match(n)]
    queues = sum(value for n, value in named if _OF_A_QUEUE.search(n))
    return max(queues, sum(value for n, value in named if not _OF_A_QUEUE.search(n)))


def _counters(sock: socket.socket, name: bytes) -> list[tuple[bytes, int]]:
    # struct ethtool_sset_info: cmd, reserved, mask; the lengths follow
    info = _call(sock, name, struct.pack("=IIQI", _GSSET_INFO, 0, 1 << _STATS_SET, 0))
    count = struct.unpack_from("=I", info, 16)[0] if struct.unpack_from("=Q", info, 8)[0] else 0
    if not count:
        return []
    request = struct.pack("=III", _GSTRINGS, _STATS_SET, count) + bytes(count * _NAME_LENGTH)
    names = _call(sock, name, request)[12:]
    values = _call(sock, name, struct.pack("=II", _GSTATS, count) + bytes(8 * count))
    return [
        (names[i * _NAME_LENGTH : (i + 1) * _NAME_LENGTH].split(b"\0")[0], value)
        for i, value in enumerate(struct.unpack_from(f"={count}Q", values, 8))
    ]


def _call(sock: socket.socket, name: bytes, request: bytes) -> bytes:
    """Call one ``ioctl`` over struct ifreq; its data is ``request``, then the answer."""
    data = ctypes.create_string_buffer(request, len(request))
    ifreq = struct.pack("@16sP16x", name, ctypes.addressof(data))
    fcntl.ioctl(sock, _SIOCETHTOOL, ifreq)
    return data.raw
