# SPDX-License-Identifier: Apache-2.0
"""SCTP by raw sockets, which need no SCTP in the kernel, and pings: parts of both ends."""

import errno
import ipaddress
import os
import selectors
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

TCP, UDP, SCTP, PING = "tcp", "udp", "sctp", "ping"
# Where no answer is expected, and elsewhere: between the SYNs at 7 and at 15 s, so that none is
# sent, and rejected, while the client gives up.
SILENCE_SECONDS, PATIENCE_SECONDS = 2.5, 10.0
RECVERR = {socket.IPPROTO_IP: 11, socket.IPPROTO_IPV6: 25}
_SCTP, _ERRQUEUE = 132, 0x2000
_INIT, _INIT_ACK = 1, 2
_HEADER = struct.Struct("!HHII")  # ports, verification tag, checksum
_CHUNK = struct.Struct("!BBHIIHHI")  # type, flags, length; tag, window, streams, first number
_CASTAGNOLI = 0x82F63B78
_LEVEL = {socket.AF_INET: socket.IPPROTO_IP, socket.AF_INET6: socket.IPPROTO_IPV6}
_ECHO = {socket.AF_INET: (8, 0), socket.AF_INET6: (128, 129)}  # request, reply
_BUFFER = 1 << 24


class Attempts(NamedTuple):
    """Connections of one kind, from consecutive ports of the client."""

    address: str  # of a ping: the first of consecutive ones
    port: int
    protocol: str
    first_port: int
    amount: int
    silent: bool = False  # no answer is expected

    @property
    def patience(self) -> float:
        return SILENCE_SECONDS if self.silent else PATIENCE_SECONDS


def word(failed: int) -> str:
    return errno.errorcode.get(failed, str(failed))


# -- SCTP -------------------------------------------------------------------------------


def sctp_server(family: socket.AddressFamily, port: int) -> None:
    """Answer INIT to ``port`` with INIT ACK (RFC 9260 5.1), and nothing else."""
    with _raw(family, _SCTP) as server:
        while True:
            data, sender = server.recvfrom(512)
            data = _payload(family, data)
            source, target, *_ = _HEADER.unpack_from(data)
            if target == port and data[12] == _INIT:
                server.sendto(_packet(target, source, data[16:20], _INIT_ACK), (sender[0], 0))


def associate(kind: Attempts, some: range) -> Counter[str]:
    """Begin associations; what each saw first."""
    family = _family(kind.address)
    waiting = {kind.first_port + number for number in some}
    with _raw(family, _SCTP) as client:
        for port in sorted(waiting):
            client.sendto(_packet(port, kind.port, bytes(4), _INIT), (kind.address, 0))
        return _until_seen(client, kind, waiting, lambda data: _answered_port(family, data))


def _answered_port(family: socket.AddressFamily, data: bytes) -> int:
    return int.from_bytes(_payload(family, data)[2:4], "big")


def _packet(source: int, target: int, tag: bytes, chunk: int) -> bytes:
    body = _CHUNK.pack(chunk, 0, _CHUNK.size, 1 + source, 1 << 16, 1, 1, 1)
    head = struct.pack("!HH", source, target) + tag
    checksum = struct.pack("<I", _crc32c(head + bytes(4) + body))
    return head + checksum + body


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (_CASTAGNOLI if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


# -- pings ------------------------------------------------------------------------------


def ping(kind: Attempts, some: range) -> Counter[str]:
    """Send one echo request to each of consecutive addresses; what each saw first."""
    family, first = _family(kind.address), ipaddress.ip_address(kind.address)
    request, reply = _ECHO[family]
    protocol = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
    with _raw(family, protocol) as client:
        for number in some:
            body = struct.pack("!BBHHH", request, 0, 0, os.getpid() & 0xFFFF, number)
            if family == socket.AF_INET:  # of ICMPv6 the kernel computes it
                body = body[:2] + struct.pack("!H", _checksum(body)) + body[4:]
            client.sendto(body, (str(first + number), 0))

        def answered(data: bytes) -> int:
            data = _payload(family, data)
            return int.from_bytes(data[6:8], "big") if data[0] == reply else -1

        return _until_seen(client, kind, set(some), answered)


def _checksum(data: bytes) -> int:
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - (total & 0xFFFF)


# -- both -------------------------------------------------------------------------------


def _until_seen(
    client: socket.socket, kind: Attempts, waiting: set[int], answered: Callable[[bytes], int]
) -> Counter[str]:
    """Return what was seen of attempts, which are known by numbers in their packets."""
    seen, poll = Counter[str](), selectors.DefaultSelector()
    poll.register(client, selectors.EVENT_READ)
    deadline = time.monotonic() + kind.patience
    while waiting and (left := deadline - time.monotonic()) > 0:
        poll.select(left)
        for flags in (_ERRQUEUE, 0):
            while True:
                try:
                    data, ancillary, _, _ = client.recvmsg(512, 512, flags | socket.MSG_DONTWAIT)
                except BlockingIOError:
                    break
                except OSError:  # an error that is in the queue, too
                    continue
                if flags:
                    number, outcome = _quoted(kind, data), word(_error(ancillary))
                else:
                    number, outcome = answered(data), "answered"
                if number in waiting:
                    waiting.discard(number)
                    seen[outcome] += 1
    seen["timeout"] += len(waiting)
    return seen


def _quoted(kind: Attempts, data: bytes) -> int:
    """Return the number of an attempt, from what the kernel kept of its packet."""
    place = slice(6, 8) if kind.protocol == PING else slice(0, 2)
    return int.from_bytes(data[place], "big")


def _error(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, number, data in ancillary:
        if RECVERR.get(level) == number:
            return int(struct.unpack_from("=I", data)[0])
    return 0


def _raw(family: socket.AddressFamily, protocol: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_RAW, protocol)
    made.setsockopt(socket.SOL_SOCKET, 33, _BUFFER)  # SO_RCVBUFFORCE
    made.setsockopt(_LEVEL[family], RECVERR[_LEVEL[family]], 1)
    return made


def _payload(family: socket.AddressFamily, data: bytes) -> bytes:
    """Return a packet without its IP header, which raw sockets of IPv4 show."""
    return data[(data[0] & 15) * 4 :] if family == socket.AF_INET else data


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
