# SPDX-License-Identifier: Apache-2.0
"""Looks up the backends of Services in the kernel's connection tracker; others name them.

One request for each distinct tuple, a hundred in a system call, and the answers read as
arrays: 6 µs a tuple, 0.1 ms for a single one. By hand, because pyroute2 takes 0.35 ms for
each, and many megabytes to be imported (see ``netlink``).
"""

import errno
import logging
import os
import random
import socket
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.netlink.batches import BATCH, RECEIVE_BUFFER, Rows, exchange, failures, is_mapped
from podtally.netlink.conntrack_layout import IPV4, IPV6, ROOM, TUPLE, TupleLayout
from podtally.netlink.conntrack_zones import DEFAULT_ZONE, NETLINK_NETFILTER, zones_in_use, zones_of
from podtally.netlink.netlink import open_socket

log = logging.getLogger(__name__)

TCP, UDP, SCTP = 6, 17, 132

_OPAQUE = np.dtype((np.void, TUPLE.itemsize))
# Comes with the module, in every namespace: nf_conntrack_standalone_init_sysctl()
_LOADED = Path("/proc/sys/net/netfilter/nf_conntrack_max")
MAX_ZONES = 16
_LEARN_FIRST_SECONDS, _LEARN_LAST_SECONDS = 1.0, 300.0
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


class _InZone(NamedTuple):
    version: TupleLayout
    zone: int


class Translator:
    """Asks the tracker of the network namespace in which it is made; for one thread.

    Found are TCP, UDP and SCTP, and only what the endpoint began: a connection that it answers
    has its tuple as the reply. ``reason``: why nothing can be looked up. ``errors`` counts tuples
    without an answer that can be read: not found, either. ``lookups`` and ``not_found`` count
    tuples; ``zones`` are those that are looked into, which are learnt from what is not found.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._sequence = 0
        self._answers = np.zeros((BATCH, ROOM), np.uint8)
        self.reason = ""
        self.errors = self.lookups = self.not_found = 0
        self.zones: list[int] = [DEFAULT_ZONE]
        self._learn_at, self._learn_wait = 0.0, _LEARN_FIRST_SECONDS
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
        for zone in list(self.zones):
            self._look_into(zone, rows, asked, found)
        while (missing := np.flatnonzero(asked & ~found.found)).size:
            if (learnt := self._learn(rows[[random.choice(missing)]])) is None:
                break
            self._look_into(learnt, rows, asked, found)
        self.lookups += int(np.count_nonzero(asked))
        self.not_found += len(missing)
        return Translations(found.found[index], found.address[index], found.port[index])

    def _look_into(
        self, zone: int, rows: Rows, asked: NDArray[np.bool_], found: Translations
    ) -> None:
        """Look up what was not found, or only without a translation, in other zones."""
        same = (found.address == rows["remote"]).all(axis=1) & (found.port == rows["remote_port"])
        wanted = asked & (~found.found | same)
        from_v4, to_v4 = is_mapped(rows["local"]), is_mapped(rows["remote"])
        for version, chosen in ((IPV4, from_v4 & to_v4), (IPV6, ~(from_v4 | to_v4))):
            places = np.flatnonzero(wanted & chosen)
            for start in range(0, len(places), BATCH):
                self._ask(_InZone(version, zone), rows, places[start : start + BATCH], found)

    def _learn(self, row: Rows) -> int | None:
        """Look for the zone of a connection that was not found, less and less often in vain."""
        now = time.monotonic()
        if now < self._learn_at or len(self.zones) >= MAX_ZONES:
            return None
        ipv4 = bool(is_mapped(row["local"])[0])
        try:
            fresh = zones_of(IPV4 if ipv4 else IPV6, row) - set(self.zones)
        except OSError:  # before Linux 5.8 the kernel would report the whole table
            try:
                fresh = zones_in_use() - set(self.zones)
            except OSError:
                fresh = set()
        if not fresh:
            self._learn_at = now + self._learn_wait
            self._learn_wait = min(2 * self._learn_wait, _LEARN_LAST_SECONDS)
            return None
        self._learn_wait = _LEARN_FIRST_SECONDS
        zone = min(fresh)
        self.zones.append(zone)
        log.info("connections are tracked in zone %d, too", zone)
        return zone

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
        """Open the socket, and look up what cannot be there: a tracker says ENOENT."""
        try:
            self._socket = open_socket(RECEIVE_BUFFER, NETLINK_NETFILTER)
            self._socket.setblocking(False)
            unspecified = IPV4.requests(np.zeros(1, TUPLE), 0)
            answers, _ = exchange(self._socket, unspecified, self._answers)
        except OSError as error:  # EPROTONOSUPPORT: no nfnetlink
            return error.strerror or str(error)
        codes = failures(answers).tolist()
        return "" if codes == [errno.ENOENT] else " ".join(map(os.strerror, codes)) or "no answer"

    def _ask(
        self, in_zone: _InZone, rows: Rows, places: NDArray[np.int64], found: Translations
    ) -> None:
        """Look up the tuples at ``places``, and store the answers there."""
        version, zone = in_zone
        first, self._sequence = self._sequence, (self._sequence + len(places)) & 0x7FFFFFFF
        requests = version.requests(rows[places], first, zone)
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
