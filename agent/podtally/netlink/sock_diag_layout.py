# SPDX-License-Identifier: Apache-2.0
"""The layout of inet_diag's requests and answers, as rows of an array, for ``sock_diag``.

As in ``include/uapi/linux/inet_diag.h``. An answer is a struct inet_diag_msg and attributes,
of which each kind of socket has others before the one that is wanted.
"""

import socket

import numpy as np
from numpy.typing import NDArray

from podtally.netlink.batches import MESSAGE, Bytes, Rows, address_bytes, is_mapped, messages
from podtally.netlink.netlink import F_REQUEST

SOCK_DIAG_BY_FAMILY = 20
NETLINK_SOCK_DIAG = 4
TCP, UDP = 6, 17
ROOM = 192  # what stands before the wanted attribute takes 116 bytes

# The key of a socket: ``conntrack.Tuples``, and the ifindex that the packet came in by.
PACKET = np.dtype(
    [
        ("local", "u8", (2,)),
        ("remote", "u8", (2,)),
        ("local_port", "u2"),
        ("remote_port", "u2"),
        ("interface", "u4"),
        ("protocol", "u1"),
        ("pad", "u1", (3,)),
    ]
)
_REQUEST = np.dtype(  # struct inet_diag_req_v2
    [
        *MESSAGE,
        ("family", "u1"),
        ("protocol", "u1"),
        ("extensions", "u1"),
        ("pad", "u1"),
        ("states", "u4"),
        ("source_port", ">u2"),
        ("target_port", ">u2"),
        ("source", "u1", (16,)),
        ("target", "u1", (16,)),
        ("interface", "u4"),
        ("cookie", "u4", (2,)),
    ]
)
_NO_COOKIE = 0xFFFFFFFF
_ANSWER_BYTES = 16 + 72  # struct nlmsghdr, struct inet_diag_msg; attributes follow
_CGROUP_ID = 21  # INET_DIAG_CGROUP_ID
_CGROUP_BYTES = 12  # struct nlattr, u64


def requests(packets: Rows, sequence: int) -> Rows:
    """One request for each packet, numbered from ``sequence`` on.

    A TCP socket is looked up as it sees itself, its own end the source; a UDP socket as
    the packet does (udp_dump_one(): "swapped for historical reasons").
    """
    made = np.zeros(len(packets), _REQUEST)
    made["length"] = _REQUEST.itemsize
    made["kind"] = SOCK_DIAG_BY_FAMILY
    made["flags"] = F_REQUEST
    made["sequence"] = sequence + np.arange(len(packets), dtype=np.int64)
    ipv4 = is_mapped(packets["local"])
    made["family"] = np.where(ipv4, socket.AF_INET, socket.AF_INET6)
    made["protocol"] = packets["protocol"]
    made["interface"] = packets["interface"]
    made["cookie"] = _NO_COOKIE
    local, remote = _addresses(packets["local"], ipv4), _addresses(packets["remote"], ipv4)
    swapped = packets["protocol"] == UDP
    made["source"] = np.where(swapped[:, None], remote, local)
    made["target"] = np.where(swapped[:, None], local, remote)
    made["source_port"] = np.where(swapped, packets["remote_port"], packets["local_port"])
    made["target_port"] = np.where(swapped, packets["local_port"], packets["remote_port"])
    return made


def _addresses(words: NDArray[np.uint64], ipv4: NDArray[np.bool_]) -> Bytes:
    """Sixteen bytes each; an IPv4 address stands in the first four. (n, 16)"""
    whole = address_bytes(words).copy()
    whole[ipv4, :4] = whole[ipv4, 12:]
    whole[ipv4, 4:] = 0
    return whole


def are_sockets(data: Bytes) -> NDArray[np.bool_]:
    """Return which rows of bytes (n, ROOM) describe a socket. (n,)"""
    heads = messages(data)
    found: NDArray[np.bool_] = (heads["kind"] == SOCK_DIAG_BY_FAMILY) & (
        heads["length"] >= _ANSWER_BYTES
    )
    return found


def cgroup_ids(data: Bytes) -> NDArray[np.int64]:
    """The cgroup v2 id in each row of bytes (n, ROOM), 0 where there is none. (n,)

    None are in what is no socket, and in one without an owner: in TIME_WAIT, or a request
    that is not accepted (inet_twsk_diag_fill(), inet_req_diag_fill()).
    """
    ids = np.zeros(len(data), np.int64)
    ends = np.minimum(messages(data)["length"].astype(np.int64), ROOM)
    rows = np.flatnonzero(are_sockets(data))
    at = np.full(len(rows), _ANSWER_BYTES)  # of each row the next attribute
    halves = data.view(np.uint16)
    while len(rows):
        within = at + 4 <= ends[rows]
        rows, at = rows[within], at[within]
        length, kind = halves[rows, at // 2].astype(np.int64), halves[rows, at // 2 + 1]
        wanted = (kind == _CGROUP_ID) & (length == _CGROUP_BYTES)
        wanted &= at + _CGROUP_BYTES <= ends[rows]
        ids[rows[wanted]] = _read(data, rows[wanted], at[wanted] + 4)
        further = ~wanted & (length >= 4)
        rows, at = rows[further], at[further] + (length[further] + 3 & ~3)
    return ids


def _read(data: Bytes, rows: NDArray[np.intp], at: NDArray[np.int64]) -> NDArray[np.int64]:
    """A word of each of some rows. (n,)"""
    words: NDArray[np.int64] = data[rows[:, None], at[:, None] + np.arange(8)].view(np.int64)
    return words[:, 0]
