# SPDX-License-Identifier: Apache-2.0
"""Look up the sockets that receive packets: the cgroups of their creators, by inet_diag.

A tc program finds the socket, but cannot read its cgroup: bpf_sk_cgroup_id() is not for
what a look-up returns there. One request for each distinct packet, many in a system call.
"""

import errno
import os
import socket

import numpy as np
from numpy.typing import NDArray

from podtally.netlink.batches import (
    BATCH,
    RECEIVE_BUFFER,
    Rows,
    address_bytes,
    exchange,
    failures,
    is_mapped,
)
from podtally.netlink.conntrack import Tuples
from podtally.netlink.netlink import open_socket
from podtally.netlink.sock_diag_layout import (
    NETLINK_SOCK_DIAG,
    PACKET,
    ROOM,
    TCP,
    UDP,
    are_sockets,
    cgroup_ids,
    requests,
)

_OPAQUE = np.dtype((np.void, PACKET.itemsize))
_IP_FREEBIND = 15  # not in ``socket``
_HOME = "127.0.0.1"
_HOME_WORDS = np.frombuffer(bytes(10) + b"\xff\xff" + socket.inet_aton(_HOME), np.uint64)
_KINDS = {TCP: socket.SOCK_STREAM, UDP: socket.SOCK_DGRAM}
_OPTIONS = {TCP: "CONFIG_INET_TCP_DIAG", UDP: "CONFIG_INET_UDP_DIAG"}
_NO_CGROUPS = "the kernel does not report the cgroups of sockets (CONFIG_SOCK_CGROUP_DATA)"


class SocketDiag:
    """Looks up sockets of the network namespace in which it is made; for one thread.

    ``available``: TCP or UDP sockets can be asked for; ``reason`` says what cannot, and why.
    ``errors`` counts packets without an answer that can be read: their cgroup is 0.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._sequence = 0
        self._answers = np.zeros((BATCH, ROOM), np.uint8)
        self._protocols: list[int] = []
        self.errors = 0
        self.reason = self._open()
        if not self._protocols:
            self.close()

    @property
    def available(self) -> bool:
        return self._socket is not None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def cgroups(
        self, tuples: Tuples, interfaces: NDArray[np.integer] | None = None
    ) -> NDArray[np.int64]:
        """Look up cgroup v2 ids of the sockets that packets from ``remote`` reach. (n,)

        In any order and as often as they come. 0: no socket, one without an owner (in
        TIME_WAIT), neither TCP nor UDP, or sent to many: each socket gets a copy then.

        The kernel looks for a socket, and for no route: a listener on all addresses takes
        any ``local``, a pod's too, and a subnet's broadcast address is one as any other.
        ``interfaces``: the ifindex that each packet came in by, without which no socket is
        found that is bound to one, as those of link-local connections are.
        """
        count = len(tuples.protocol)
        if not count or not self.available:
            return np.zeros(count, np.int64)
        packed = _packed(tuples, interfaces)
        different, index = np.unique(packed.view(_OPAQUE), return_inverse=True)
        packets = different.view(PACKET)
        found = np.zeros(len(packets), np.int64)
        asked = np.isin(packets["protocol"], self._protocols) & ~_to_many(packets["local"])
        asked &= is_mapped(packets["local"]) == is_mapped(packets["remote"])
        places = np.flatnonzero(asked)
        for start in range(0, len(places), BATCH):
            part = places[start : start + BATCH]
            found[part] = self._ask(packets[part])
        return found[index]

    def _ask(self, packets: Rows) -> NDArray[np.int64]:
        """The cgroups of at most BATCH packets. (n,)"""
        assert self._socket is not None
        found = np.zeros(len(packets), np.int64)
        first, self._sequence = self._sequence, (self._sequence + len(packets)) & 0x7FFFFFFF
        try:
            data, at = exchange(self._socket, requests(packets, first), self._answers)
        except OSError:  # no memory for them: it costs these packets, not the epoch
            data, at = self._answers[:0], np.zeros(0, np.intp)
        known = are_sockets(data) | (failures(data) == errno.ENOENT)
        self.errors += len(packets) - int(known.sum())
        found[at] = cgroup_ids(data)
        return found

    def _open(self) -> str:
        """Open the socket, and see which protocols have sockets that can be asked for."""
        try:
            self._socket = open_socket(RECEIVE_BUFFER, NETLINK_SOCK_DIAG)
            self._socket.setblocking(False)
            reasons = {protocol: self._probe(protocol) for protocol in _KINDS}
        except OSError as error:  # EPROTONOSUPPORT: no sock_diag
            return error.strerror or str(error)
        self._protocols = [protocol for protocol, reason in reasons.items() if not reason]
        return ", ".join(dict.fromkeys(filter(None, reasons.values())))

    def _probe(self, protocol: int) -> str:
        """Look up a socket of our own; return why it, or its cgroup, is not found.

        A kernel that cannot report a protocol says ENOENT, as for no socket, and with each
        request has a module looked for (inet_diag_lock_handler()): it is queried once.
        """
        assert self._socket is not None
        with socket.socket(socket.AF_INET, _KINDS[protocol]) as own:
            own.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)  # also while lo is down
            own.bind((_HOME, 0))
            if protocol == TCP:
                own.listen()
            packet = np.zeros(1, PACKET)
            packet["local"] = packet["remote"] = _HOME_WORDS
            packet["local_port"], packet["protocol"] = own.getsockname()[1], protocol
            data, _ = exchange(self._socket, requests(packet, 0), self._answers)
        if are_sockets(data).any():
            return "" if cgroup_ids(data).any() else _NO_CGROUPS
        codes = failures(data).tolist()
        if codes == [errno.ENOENT]:
            return f"the kernel does not report sockets ({_OPTIONS[protocol]})"
        return " ".join(map(os.strerror, codes)) or "no answer"


def _packed(tuples: Tuples, interfaces: NDArray[np.integer] | None) -> Rows:
    rows = np.zeros(len(tuples.protocol), PACKET)
    for name in Tuples._fields:
        rows[name] = getattr(tuples, name)
    if interfaces is not None:
        rows["interface"] = interfaces
    return rows


def _to_many(local: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which addresses are multicast or limited broadcast: RFC 5771, 4291 2.7, 919. (n,)"""
    whole = address_bytes(local)
    first, rest = whole[:, 12], whole[:, 13:]
    four = (first & 0xF0 == 0xE0) | ((first == 0xFF) & (rest == 0xFF).all(axis=1))
    many: NDArray[np.bool_] = np.where(is_mapped(local), four, whole[:, 0] == 0xFF)
    return many
