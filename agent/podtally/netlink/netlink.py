# SPDX-License-Identifier: Apache-2.0
"""Netlink by hand: sockets, requests and attributes, and no meaning.

The few messages podtally reads take microseconds. (pyroute2 takes a millisecond for a
link message, and 25 MB and 0.1 s to be imported: more than a third of the agent's
memory, and longer than a new pod may go unwatched. It makes qdiscs and filters, see
``changes``.) Laid out as in
``include/uapi/linux/netlink.h``; errors are OSError with the kernel's own words.
"""

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from podtally.netlink.name_bytes import decoded

SOL_NETLINK = 270
ADD_MEMBERSHIP = 1
LISTEN_ALL_NSID = 8
CAP_ACK = 10
EXT_ACK = 11
GET_STRICT_CHK = 12

SO_RCVBUFFORCE = 33

F_REQUEST = 0x1
F_ACK = 0x4
F_ECHO = 0x8
F_DUMP_INTR = 0x10
F_DUMP = 0x300
_F_ACK_TLVS = 0x200

ERROR = 2  # NLMSG_ERROR: an error code below zero, or 0 as an acknowledgement
_DONE = 3

HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_ROOM = 1 << 16  # a datagram of a dump is 32 KiB at most (netlink_dump())
_DUMP_TRIES = 5


class NetlinkMessage(NamedTuple):
    kind: int
    flags: int
    sequence: int
    body: bytes


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    padding = bytes(_aligned(len(payload)) - len(payload))
    return _ATTRIBUTE.pack(4 + len(payload), kind) + payload + padding


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Split the attributes from ``offset`` on, by type."""
    found = {}
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            break
        found[kind & _TYPE_MASK] = data[offset + 4 : offset + length]
        offset += _aligned(length)
    return found


def text(payload: bytes) -> str:
    """Return a name as it can be shown: the kernel takes any bytes for that of an interface."""
    return decoded(payload.split(b"\0")[0])


def messages(datagram: bytes) -> Iterator[NetlinkMessage]:
    offset = 0
    while offset + HEADER.size <= len(datagram):
        length, kind, flags, sequence, _ = HEADER.unpack_from(datagram, offset)
        if length < HEADER.size:
            break
        body = datagram[offset + HEADER.size : offset + length]
        yield NetlinkMessage(kind, flags, sequence, body)
        offset += _aligned(length)


def open_socket(receive_buffer: int, protocol: int = socket.NETLINK_ROUTE) -> socket.socket:
    """Open and bind a socket; its buffer may exceed the system's limit where we are allowed."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, receive_buffer)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    for option in (CAP_ACK, EXT_ACK, GET_STRICT_CHK):
        sock.setsockopt(SOL_NETLINK, option, 1)
    sock.bind((0, 0))
    return sock


class Requests:
    """Questions and their answers, on a socket of its own; any thread may ask."""

    def __init__(self) -> None:
        self._socket = open_socket(1 << 20)
        self._lock = threading.Lock()
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def get(self, kind: int, body: bytes) -> bytes:
        """Return one object; OSError (ENODEV, ENOENT) if there is none."""
        with self._lock:
            # With an acknowledgement, since success may come with silence; with an echo,
            # without which tc answers its subscribers only (qdisc_notify(), net/sched/sch_api.c)
            flags = F_REQUEST | F_ACK | F_ECHO
            answers = list(self._answers(self._send(kind, flags, body)))
        if not answers:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return answers[0].body

    def dump(self, kind: int, body: bytes) -> list[NetlinkMessage]:
        """Dump all objects; repeats while changes interrupt the dump."""
        with self._lock:
            for _ in range(_DUMP_TRIES):
                answers = list(self._answers(self._send(kind, F_REQUEST | F_DUMP, body)))
                if not any(answer.flags & F_DUMP_INTR for answer in answers):
                    break
            return answers

    def _send(self, kind: int, flags: int, body: bytes) -> int:
        self._sequence += 1
        header = HEADER.pack(HEADER.size + len(body), kind, flags, self._sequence, 0)
        self._socket.send(header + body)
        return self._sequence

    def _answers(self, sequence: int) -> Iterator[NetlinkMessage]:
        while True:
            for message in messages(self._socket.recv(_ROOM)):
                if message.sequence != sequence:
                    continue
                if message.kind in (ERROR, _DONE):
                    if struct.unpack_from("=i", message.body)[0]:
                        raise _error(message)
                    return
                yield message


def _error(message: NetlinkMessage) -> OSError:
    code = -struct.unpack_from("=i", message.body)[0]
    words = os.strerror(code)
    if message.kind == ERROR and message.flags & _F_ACK_TLVS:
        # struct nlmsgerr: error, then the header of the request, then NLMSGERR_ATTR_MSG
        detail = attributes(message.body, 4 + HEADER.size).get(1)
        words = f"{words}: {text(detail)}" if detail else words
    return OSError(code, words)


class OverrunError(OSError):
    """The kernel had to drop messages for this socket."""


class Subscription:
    """Announcements of the groups asked for, of every namespace this one has an id for."""

    def __init__(self, groups: Iterable[int], receive_buffer: int = 4 << 20) -> None:
        self._socket = open_socket(receive_buffer)
        self._socket.setblocking(False)
        with suppress(PermissionError):  # without CAP_NET_BROADCAST: this namespace only
            self._socket.setsockopt(SOL_NETLINK, LISTEN_ALL_NSID, 1)
        for group in groups:
            self._socket.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def receive(self) -> tuple[int, list[NetlinkMessage]] | None:
        """Read one datagram: of which namespace it is (its nsid; -1: this one), and its messages.

        None when nothing waits; raises OverrunError when messages were lost.
        """
        try:
            data, control, _, _ = self._socket.recvmsg(_ROOM, socket.CMSG_SPACE(4))
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                raise OverrunError(error.errno, error.strerror) from None
            raise
        nsid = -1
        for level, kind, payload in control:
            if level == SOL_NETLINK and kind == LISTEN_ALL_NSID:
                nsid = struct.unpack("=i", payload[:4])[0]
        return nsid, list(messages(data))
