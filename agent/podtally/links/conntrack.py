"""What the kernel's connection tracker says of a Service's backend: asked here, named elsewhere.

One request for each distinct tuple, a hundred in a system call, and the answers read as
arrays: 6 µs a tuple, 0.1 ms for a single one. By hand, because pyroute2 takes 0.35 ms for
each, and many megabytes to be imported (see ``netlink``).
"""

import errno
import os
import socket
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.links.batches import (
    BATCH,
    RECEIVE_BUFFER,
    Rows,
    exchange,
    failures,
    is_mapped,
)
from podtally.links.conntrack_layout import IPV4, IPV6, ROOM, TUPLE, Version
from podtally.links.netlink import open_socket

TCP, UDP, SCTP = 6, 17, 132

_NETLINK_NETFILTER = 12
_OPAQUE = np.dtype((np.void, TUPLE.itemsize))
# Comes with the module, in every namespace: nf_conntrack_standalone_init_sysctl()
_LOADED = Path("/proc/sys/net/netfilter/nf_conntrack_max")
_NOT_LOADED = "nf_conntrack is not loaded"


class Tuples(NamedTuple):
    """Connections as an endpoint sees them that sent to ``remote``: before any translation.

    Addresses are words in network order, IPv4 as ::ffff:a.b.c.d.
    """

    local: NDArray[np.uint64]  # (n, 2)
    remote: NDArray[np.uint64]  # (n, 2)
    local_port: NDArray[np.uint16]
    remote_port: NDArray[np.uint16]
    protocol: NDArray[np.uint8]


class Translations(NamedTuple):
    """Who answers in truth: ``remote`` itself where nothing is translated. Zeros if not found."""

    found: NDArray[np.bool_]  # the tracker knows the tuple
    address: NDArray[np.uint64]  # (n, 2)
    port: NDArray[np.uint16]


class Translator:
    """Asks the tracker of the network namespace in which it is made; for one thread.

    Found are TCP, UDP and SCTP in the default zone, and only what the endpoint began: a
    connection that it answers has its tuple as the reply. ``reason`` says why nothing can
    be asked. ``errors`` counts tuples without an answer that can be read: not found, either.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._sequence = 0
        self._answers = np.zeros((BATCH, ROOM), np.uint8)
        self.reason = ""
        self.errors = 0
        self._look()

    @property
    def available(self) -> bool:
        return self._socket is not None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def translate(self, tuples: Tuples) -> Translations:
        """Look up tuples, in any order and as often as they come. (n,)"""
        count = len(tuples.protocol)
        if not count or not self._look():
            return _nothing(count)
        different, index = np.unique(_packed(tuples).view(_OPAQUE), return_inverse=True)
        rows = different.view(TUPLE)
        found = _nothing(len(rows))
        asked = np.isin(rows["protocol"], (TCP, UDP, SCTP))
        from_v4, to_v4 = is_mapped(rows["local"]), is_mapped(rows["remote"])
        for version, chosen in ((IPV4, from_v4 & to_v4), (IPV6, ~(from_v4 | to_v4))):
            places = np.flatnonzero(asked & chosen)
            for start in range(0, len(places), BATCH):
                self._ask(version, rows, places[start : start + BATCH], found)
        return Translations(found.found[index], found.address[index], found.port[index])

    def _look(self) -> bool:
        """See whether there is a tracker to ask, and let none be loaded by asking.

        Who refuses is not asked again: each request would have the kernel look for the
        module (nfnetlink_rcv_msg()).
        """
        if self.available or self.reason not in ("", _NOT_LOADED):
            return self.available
        self.reason = self._open() if _LOADED.exists() else _NOT_LOADED
        if self.reason:
            self.close()
        return self.available

    def _open(self) -> str:
        """Open the socket, and ask for what cannot be there: a tracker says ENOENT."""
        try:
            self._socket = open_socket(RECEIVE_BUFFER, _NETLINK_NETFILTER)
            self._socket.setblocking(False)
            nobody = IPV4.requests(np.zeros(1, TUPLE), 0)
            answers, _ = exchange(self._socket, nobody, self._answers)
        except OSError as error:  # EPROTONOSUPPORT: no nfnetlink
            return error.strerror or str(error)
        codes = failures(answers).tolist()
        return "" if codes == [errno.ENOENT] else " ".join(map(os.strerror, codes)) or "no answer"

    def _ask(
        self, version: Version, rows: Rows, places: NDArray[np.int64], found: Translations
    ) -> None:
        """Ask for the tuples at ``places``, and put what is answered there."""
        first, self._sequence = self._sequence, (self._sequence + len(places)) & 0x7FFFFFFF
        requests = version.requests(rows[places], first)
        assert self._socket is not None
        try:
            data, at = exchange(self._socket, requests, self._answers)
        except OSError:  # no memory for them: it costs these tuples, not the epoch
            data, at = self._answers[:0], np.zeros(0, np.intp)
        answers, readable = version.read(data)
        self.errors += len(places) - int((readable | (failures(data) == errno.ENOENT)).sum())
        # an entry is found by either of its tuples: nf_conntrack_find_get()
        readable &= version.same(answers, requests[at])
        at, reply = places[at[readable]], answers[readable]["reply"]
        found.found[at] = True
        found.address[at] = version.words(reply["source"])
        found.port[at] = reply["source_port"]


def _packed(tuples: Tuples) -> Rows:
    rows = np.zeros(len(tuples.protocol), TUPLE)
    for name in Tuples._fields:
        rows[name] = getattr(tuples, name)
    return rows


def _nothing(count: int) -> Translations:
    return Translations(
        np.zeros(count, np.bool_), np.zeros((count, 2), np.uint64), np.zeros(count, np.uint16)
    )
