# SPDX-License-Identifier: Apache-2.0
"""Find out who opened connections that are new to us, of which some are older than that.

Evidence in their packets comes first (``initiator``). Where a connection was under way before
its first packet was seen, that packet says nothing: then what is remembered of the same ports
decides, then the connection tracker; else it stays unknown.
"""

import os

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.connections import (
    BEGAN_HERE,
    BEGAN_THERE,
    BEGAN_UNKNOWN,
    CONTESTED,
    TCP,
    ConnectionColumns,
    Flags,
    Timeouts,
)
from podtally.ledger.epoch_context import EpochContext
from podtally.ledger.initiator import opener_of
from podtally.ledger.interfaces import Interfaces
from podtally.ledger.new_connections import NewConnections, reversed_keys, tracked

_UDP, _SCTP = 17, 132
_FIRST_EPHEMERAL = 32768  # net.ipv4.ip_local_port_range
_REMEMBERED = 1 << 15
_REMEMBERED_NS = 3_600_000_000_000
_LIVED_NS = 10_000_000_000  # so long, and it may go on after a silence: no single question
_TIMEOUTS = Timeouts()
_ODD = np.frombuffer(os.urandom(48), np.uint64) | np.uint64(1)
_ASKED_AT_MOST = 1024  # of the tracker, for each batch of rows; twice 6 µs each


class Openings:
    """Of the connections of one ledger."""

    def __init__(self, flags: Flags, interfaces: Interfaces) -> None:
        self._flags = flags
        self._interfaces = interfaces
        self._fingerprint = np.zeros(0, np.uint64)  # ascending; of connections that ended
        self._began = np.zeros(0, np.uint8)
        self._ended_ns = np.zeros(0, np.int64)

    def remember(self, ended: ConnectionColumns, now_ns: int) -> None:
        """Keep who opened connections that are over, as far as they may yet go on."""
        lived = ended.last_ns - ended.first_ns > _LIVED_NS
        chosen = np.flatnonzero((lived | (ended.key["protocol"] == TCP)) & (ended.began != 0))
        if not len(chosen):
            return
        fingerprint = np.concatenate([ended.fingerprint[chosen], self._fingerprint])
        began = np.concatenate([ended.began[chosen], self._began])
        ended_ns = np.concatenate([ended.last_ns[chosen], self._ended_ns])
        _, latest = np.unique(fingerprint, return_index=True)  # the first: what is new
        latest = latest[ended_ns[latest] > now_ns - _REMEMBERED_NS]
        if len(latest) > _REMEMBERED:
            young = np.argpartition(ended_ns[latest], -_REMEMBERED)[-_REMEMBERED:]
            latest = np.sort(latest[young])
            latest = latest[np.argsort(fingerprint[latest], kind="stable")]
        self._fingerprint, self._began = fingerprint[latest], began[latest]
        self._ended_ns = ended_ns[latest]

    def of(
        self,
        seen: NDArray[np.uint64],
        fingerprint: NDArray[np.uint64],
        key: NDArray[np.void],
        first_ns: NDArray[np.int64],
        present: EpochContext,
    ) -> NDArray[np.uint8]:
        """Return BEGAN_* of new connections, CONTESTED where evidence contradicts itself. (n,)"""
        began = opener_of(seen, key, self._flags)
        protocol = key["protocol"]
        without = np.flatnonzero((protocol != TCP) | (began == BEGAN_UNKNOWN))
        if not len(without):
            return began
        known = self._remembered(fingerprint[without])
        began[without] = np.where(known != BEGAN_UNKNOWN, known, began[without])
        rows = without[known == BEGAN_UNKNOWN]
        began[rows] = self._of_unproven(key[rows], began[rows], first_ns[rows], present)
        return began

    def _of_unproven(
        self,
        key: NDArray[np.void],
        began: NDArray[np.uint8],
        first_ns: NDArray[np.int64],
        present: EpochContext,
    ) -> NDArray[np.uint8]:
        """Return BEGAN_* of those for which only the first packet speaks, or nothing. (n,)"""
        protocol = key["protocol"]
        is_here = began == BEGAN_HERE
        asked = np.where(is_here, key["remote_port"], key["local_port"])
        asking = np.where(is_here, key["local_port"], key["remote_port"])
        has_ports = (protocol == _UDP) | (protocol == _SCTP)
        # A first packet from a server's port to a client's looks like an answer.
        answers = has_ports & (asked >= _FIRST_EPHEMERAL) & (asking < _FIRST_EPHEMERAL)
        tracked = np.full(len(key), BEGAN_UNKNOWN, np.uint8)
        rows = np.flatnonzero(answers | (protocol == TCP))[:_ASKED_AT_MOST]
        if len(rows):
            tracked[rows] = _tracked(key[rows], present)
        asks = (asked < _FIRST_EPHEMERAL) & (asking >= _FIRST_EPHEMERAL)
        early = has_ports & ~asks & under_way(key, first_ns, self._interfaces)
        guessed = np.where(early, BEGAN_UNKNOWN, began)
        return np.where(tracked != BEGAN_UNKNOWN, tracked, guessed).astype(np.uint8)

    def _remembered(self, fingerprint: NDArray[np.uint64]) -> NDArray[np.uint8]:
        if not len(self._fingerprint):
            return np.full(len(fingerprint), BEGAN_UNKNOWN, np.uint8)
        place = np.searchsorted(self._fingerprint, fingerprint)
        np.minimum(place, len(self._fingerprint) - 1, out=place)
        found = self._fingerprint[place] == fingerprint
        return np.where(found, self._began[place], BEGAN_UNKNOWN).astype(np.uint8)


def under_way(
    key: NDArray[np.void], first_ns: NDArray[np.int64], interfaces: Interfaces
) -> NDArray[np.bool_]:
    """Whether connections may have begun before their interface was watched, and have been
    silent until they were first seen. (n,)
    """
    since_ns = interfaces.in_use_since(key["ifindex"].astype(np.int64))
    silent_ns = np.where(key["protocol"] == TCP, _TIMEOUTS.tcp, _TIMEOUTS.other)
    early: NDArray[np.bool_] = (since_ns > 0) & (first_ns - since_ns < silent_ns)
    return early


def contest_mirrored(flows: NewConnections, foreign: NDArray[np.bool_]) -> None:
    """Have connections contested whose peer's packets their own endpoint sends: a frame in the
    peer's name that the node routes back. ``foreign`` (n,): sent from no address of the endpoint's.
    """
    forged = np.flatnonzero(foreign)
    if len(forged):
        came = np.isin(_mixed(flows.key), _mixed(reversed_keys(flows.key[forged])))
        flows.began[came] |= CONTESTED


def _mixed(key: NDArray[np.void]) -> NDArray[np.uint64]:
    """Both ends of connections as one number each; secret, so that nobody can aim at another's."""
    words = [*key["local_address"].T, *key["remote_address"].T]
    ports = key["local_port"].astype(np.uint64) << np.uint64(16) | key["remote_port"]
    words += [ports, key["ifindex"].astype(np.uint64) << np.uint64(8) | key["protocol"]]
    mixed = np.zeros(len(key), np.uint64)
    for word, odd in zip(words, _ODD, strict=True):
        mixed = (mixed ^ word) * odd
        mixed ^= mixed >> np.uint64(32)
    return mixed


def _tracked(key: NDArray[np.void], present: EpochContext) -> NDArray[np.uint8]:
    """Return the side whose packet the connection tracker saw first; BEGAN_UNKNOWN: neither."""
    here, there = tracked(key, present).found, tracked(reversed_keys(key), present).found
    sides = [here & ~there, there & ~here]
    return np.select(sides, [BEGAN_HERE, BEGAN_THERE], BEGAN_UNKNOWN).astype(np.uint8)
