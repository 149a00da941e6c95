# SPDX-License-Identifier: Apache-2.0
"""Many netlink requests in one system call, and their answers as rows of an array.

What the requests mean and how their answers are laid out is known to ``conntrack_layout``
and ``sock_diag_layout``.
"""

import errno
import socket

import numpy as np
from numpy.typing import NDArray

from podtally.netlink.netlink import ERROR

# Requests a system call. Their answers must fit into the socket's buffer at once: each is
# charged with about 1 KiB (netlink_trim()), and without CAP_NET_ADMIN the buffer is no
# larger than net.core.rmem_max, 208 KiB by default.
BATCH = 128
RECEIVE_BUFFER = 1 << 20

Rows = NDArray[np.void]
Bytes = NDArray[np.uint8]

MESSAGE = [  # struct nlmsghdr
    ("length", "u4"),
    ("kind", "u2"),
    ("flags", "u2"),
    ("sequence", "u4"),
    ("port", "u4"),
]
_MESSAGE = np.dtype(MESSAGE)
_FAILURE = np.dtype([*MESSAGE, ("code", "i4")])  # struct nlmsgerr
_MAPPED = np.array([0] * 10 + [0xFF] * 2, np.uint8)  # ::ffff:0:0/96, RFC 4291 2.5.5.2


def exchange(sock: socket.socket, requests: Rows, answers: Bytes) -> tuple[Bytes, NDArray[np.intp]]:
    """Send requests numbered in a row; what is answered, and which of the requests it answers.

    ``answers`` (at least n, room) is filled, and a part of it returned: (at most n, room).
    The kernel answers each request once, by an object or an error, before the call returns
    (netlink_rcv_skb()): what is not there then does not come. OSError: no memory for them.
    """
    sock.send(requests.tobytes())
    count = 0
    while count < len(requests):
        try:
            sock.recv_into(answers[count])
        except BlockingIOError:
            break
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # some are lost, and some may wait
                raise
        else:
            count += 1
    at = sequences(answers[:count]) - int(requests["sequence"][0])
    expected = (at >= 0) & (at < len(requests))
    return answers[:count][expected], at[expected]


def messages(data: Bytes) -> Rows:
    """The header of each row of bytes (n, room). (n,)"""
    return data[:, : _MESSAGE.itemsize].copy().view(_MESSAGE)[:, 0]


def sequences(data: Bytes) -> NDArray[np.int64]:
    """Return which request each row of bytes (n, room) answers. (n,)"""
    return messages(data)["sequence"].astype(np.int64)


def failures(data: Bytes) -> NDArray[np.int64]:
    """The errno of each row that is an error, and 0 of any other. (n,)"""
    rows = data[:, : _FAILURE.itemsize].copy().view(_FAILURE)[:, 0]
    return np.where(rows["kind"] == ERROR, -rows["code"].astype(np.int64), 0)


def address_bytes(words: NDArray[np.uint64]) -> Bytes:
    """Words in network order (n, 2) as bytes (n, 16)."""
    return np.ascontiguousarray(words).view(np.uint8)


def is_mapped(words: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which addresses are IPv4. (n,)"""
    mapped: NDArray[np.bool_] = (address_bytes(words)[:, :12] == _MAPPED).all(axis=1)
    return mapped
