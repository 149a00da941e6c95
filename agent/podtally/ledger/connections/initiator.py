# SPDX-License-Identifier: Apache-2.0
"""Find out who opened a connection.

What its packets show comes first, and can be forged: an endpoint that may send raw frames can
forge what leaves its interface and, where the node routes a frame back to it, what seems to come
from a peer; a peer can forge what arrives. So contradicting evidence is never settled in favour of
one side: the connection is CONTESTED, both openings are judged, and the stricter verdict holds.
Forged evidence can add an opening, and never take one away.

A connection that was under way before its first packet was seen shows nothing: then what is
remembered of the same ports decides, then the connection tracker; else its initiator is unknown.
"""

import os

import numpy as np
from numpy.typing import NDArray

from podtally.arrays.packed_fields import PackedFields
from podtally.ledger.connections.connections import (
    CONTESTED,
    INITIATOR_ENDPOINT,
    INITIATOR_PEER,
    INITIATOR_UNKNOWN,
    TCP,
    TCP_ACK,
    ConnectionColumns,
    Flags,
    Timeouts,
)
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.connections.new_connections import NewConnections, reversed_keys, tracked
from podtally.ledger.interfaces.interfaces import Interfaces

_UDP, _SCTP = 17, 132
_FIRST_EPHEMERAL = 32768  # net.ipv4.ip_local_port_range
_DHCP = ((67, 68), (547, 546))  # ports of servers and clients (RFC 2131, RFC 8415)
_MAX_REMEMBERED = 1 << 15
_REMEMBERED_NS = 3_600_000_000_000
_LONG_NS = 10_000_000_000  # a connection that lasted this long may continue after a silence
_TIMEOUTS = Timeouts()
_PORTS = PackedFields(local=16, remote=16)
_OTHERS = PackedFields(ifindex=32, protocol=8)
_ODD = np.frombuffer(os.urandom(48), np.uint64) | np.uint64(1)
_MAX_LOOKUPS = 1024  # in the tracker, for each batch of rows; twice 6 µs each


def initiator_of(
    seen: NDArray[np.uint64], key: NDArray[np.void], flags: Flags
) -> NDArray[np.uint8]:
    """Return INITIATOR_* of connections, with CONTESTED where both sides seem to have opened. (n,)

    TCP: a SYN without ACK is an opening by its sender. A SYN/ACK shows that the other side opened,
    if that side continued: it refuses an unexpected one (a scan, backscatter) with a RST without
    ACK. Other protocols: the side of the first packet.
    """
    local_syn, peer_syn = _has(seen, flags.syn_only), _has(seen, flags.syn_only << flags.shift)
    local_replies = _has(seen, flags.syn_ack) & _has(seen, TCP_ACK << flags.shift)
    peer_replies = _has(seen, flags.syn_ack << flags.shift) & _has(seen, TCP_ACK)
    # The endpoint's own SYN passes our hook: where the peer's was seen and no own one, a SYN/ACK
    # from the peer proves nothing, and may be anybody's.
    peer_replies &= local_syn | ~peer_syn
    local, peer = local_syn | peer_replies, peer_syn | local_replies
    # If both sides seem to have opened, the one that was sent a SYN/ACK is likelier. If both were,
    # the connection works, whatever is forged: the one that sent a SYN, or sent first, is chosen,
    # so that it has an outcome.
    first = np.where(key["first_direction"] == 0, INITIATOR_ENDPOINT, INITIATOR_PEER)
    both = local_replies & peer_replies
    likelier = np.select(
        [
            (peer_replies & ~local_replies) | (both & local_syn & ~peer_syn),
            (local_replies & ~peer_replies) | (both & peer_syn & ~local_syn),
            both,
        ],
        [INITIATOR_ENDPOINT, INITIATOR_PEER, first],
        INITIATOR_UNKNOWN,
    )
    tcp = np.select(
        [local & peer, local, peer],
        [CONTESTED | likelier, np.full_like(likelier, INITIATOR_ENDPOINT), INITIATOR_PEER],
        INITIATOR_UNKNOWN,
    )
    return np.where(key["protocol"] == TCP, tcp, first).astype(np.uint8)


def opening_flags(flags: Flags) -> np.uint64:
    """Return the bits of ``seen`` that ``initiator_of`` uses, in both directions."""
    each = flags.syn_only | flags.syn_ack | TCP_ACK
    return np.uint64(each | each << flags.shift)


def is_certain(initiator: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where the initiator is known, and nothing contradicts it. (n,)"""
    certain: NDArray[np.bool_] = (initiator == INITIATOR_ENDPOINT) | (initiator == INITIATOR_PEER)
    return certain


def _has(seen: NDArray[np.uint64], bits: int) -> NDArray[np.bool_]:
    has: NDArray[np.bool_] = seen & np.uint64(bits) != 0
    return has


class InitiatorFinder:
    """Remembers the initiators of one ledger's connections."""

    def __init__(self, flags: Flags, interfaces: Interfaces) -> None:
        self._flags = flags
        self._interfaces = interfaces
        self._fingerprint = np.zeros(0, np.uint64)  # ascending; of connections that ended
        self._initiator = np.zeros(0, np.uint8)
        self._ended_ns = np.zeros(0, np.int64)

    def remember(self, ended: ConnectionColumns, now_ns: int) -> None:
        """Remember the openers of connections that are over but may still continue."""
        is_long = ended.last_ns - ended.first_ns > _LONG_NS
        chosen = np.flatnonzero((is_long | (ended.key["protocol"] == TCP)) & (ended.initiator != 0))
        if not len(chosen):
            return
        fingerprint = np.concatenate([ended.fingerprint[chosen], self._fingerprint])
        initiator = np.concatenate([ended.initiator[chosen], self._initiator])
        ended_ns = np.concatenate([ended.last_ns[chosen], self._ended_ns])
        _, latest = np.unique(fingerprint, return_index=True)  # the first: what is new
        latest = latest[ended_ns[latest] > now_ns - _REMEMBERED_NS]
        if len(latest) > _MAX_REMEMBERED:
            young = np.argpartition(ended_ns[latest], -_MAX_REMEMBERED)[-_MAX_REMEMBERED:]
            latest = np.sort(latest[young])
            latest = latest[np.argsort(fingerprint[latest], kind="stable")]
        self._fingerprint, self._initiator = fingerprint[latest], initiator[latest]
        self._ended_ns = ended_ns[latest]

    def find(
        self,
        seen: NDArray[np.uint64],
        fingerprint: NDArray[np.uint64],
        key: NDArray[np.void],
        first_ns: NDArray[np.int64],
        present: EpochContext,
    ) -> NDArray[np.uint8]:
        """Return INITIATOR_* of new connections; CONTESTED: evidence contradicts itself. (n,)"""
        initiator = initiator_of(seen, key, self._flags)
        protocol = key["protocol"]
        unproven = np.flatnonzero((protocol != TCP) | (initiator == INITIATOR_UNKNOWN))
        if not len(unproven):
            return initiator
        known = self._remembered(fingerprint[unproven])
        initiator[unproven] = np.where(known != INITIATOR_UNKNOWN, known, initiator[unproven])
        rows = unproven[known == INITIATOR_UNKNOWN]
        initiator[rows] = self._of_unproven(key[rows], initiator[rows], first_ns[rows], present)
        return initiator

    def _of_unproven(
        self,
        key: NDArray[np.void],
        initiator: NDArray[np.uint8],
        first_ns: NDArray[np.int64],
        present: EpochContext,
    ) -> NDArray[np.uint8]:
        """Return INITIATOR_* where there is only the first packet to go by, or nothing. (n,)"""
        protocol = key["protocol"]
        is_local = initiator == INITIATOR_ENDPOINT
        server = np.where(is_local, key["remote_port"], key["local_port"])
        client = np.where(is_local, key["local_port"], key["remote_port"])
        has_ports = (protocol == _UDP) | (protocol == _SCTP)
        # A first packet from a server's port to a client's looks like a reply.
        replies = has_ports & (server >= _FIRST_EPHEMERAL) & (client < _FIRST_EPHEMERAL)
        known = np.full(len(key), INITIATOR_UNKNOWN, np.uint8)
        rows = np.flatnonzero(replies | (protocol == TCP))[:_MAX_LOOKUPS]
        if len(rows):
            known[rows] = _tracked(key[rows], present)
        requests = (server < _FIRST_EPHEMERAL) & (client >= _FIRST_EPHEMERAL)
        early = has_ports & ~requests & may_be_under_way(key, first_ns, self._interfaces)
        guessed = np.where(early, INITIATOR_UNKNOWN, initiator)
        guessed[(protocol == _UDP) & ~is_local & _are_leases(client, server)] = INITIATOR_ENDPOINT
        return np.where(known != INITIATOR_UNKNOWN, known, guessed).astype(np.uint8)

    def _remembered(self, fingerprint: NDArray[np.uint64]) -> NDArray[np.uint8]:
        if not len(self._fingerprint):
            return np.full(len(fingerprint), INITIATOR_UNKNOWN, np.uint8)
        place = np.searchsorted(self._fingerprint, fingerprint)
        np.minimum(place, len(self._fingerprint) - 1, out=place)
        found = self._fingerprint[place] == fingerprint
        return np.where(found, self._initiator[place], INITIATOR_UNKNOWN).astype(np.uint8)


def _are_leases(source: NDArray[np.uint16], target: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Return which packets go from a DHCP server's port to a client's: they answer what the client
    sent to all, a flow of its own. One that comes from elsewhere gains nothing by these ports: it
    is judged as if the endpoint had asked for it. (n,)
    """
    found = np.zeros(len(source), np.bool_)
    for server, client in _DHCP:
        found |= (source == server) & (target == client)
    return found


def may_be_under_way(
    key: NDArray[np.void], first_ns: NDArray[np.int64], interfaces: Interfaces
) -> NDArray[np.bool_]:
    """Return which connections may have been opened before their interface was watched, and have
    been silent until they were first seen. (n,)
    """
    since_ns = interfaces.in_use_since(key["ifindex"].astype(np.int64))
    silent_ns = np.where(key["protocol"] == TCP, _TIMEOUTS.tcp, _TIMEOUTS.other)
    early: NDArray[np.bool_] = (since_ns > 0) & (first_ns - since_ns < silent_ns)
    return early


def contest_mirrored(flows: NewConnections, foreign: NDArray[np.bool_]) -> None:
    """Mark connections CONTESTED if their own endpoint sends the peer's packets: it forges the
    peer's address, and the node routes the frame back. ``foreign`` (n,): sent from an address that
    is not the endpoint's.
    """
    forged = np.flatnonzero(foreign)
    if len(forged):
        mirrored = np.isin(_hashes(flows.key), _hashes(reversed_keys(flows.key[forged])))
        flows.initiator[mirrored] |= CONTESTED


def _hashes(key: NDArray[np.void]) -> NDArray[np.uint64]:
    """Return a hash of each key; secret, so that no one can choose a key with another's hash."""
    words = [*key["local_address"].T, *key["remote_address"].T]
    ports = _PORTS.pack(local=key["local_port"], remote=key["remote_port"])
    others = _OTHERS.pack(ifindex=key["ifindex"], protocol=key["protocol"])
    words += [ports.view(np.uint64), others.view(np.uint64)]
    mixed = np.zeros(len(key), np.uint64)
    for word, odd in zip(words, _ODD, strict=True):
        mixed = (mixed ^ word) * odd
        mixed ^= mixed >> np.uint64(32)
    return mixed


def _tracked(key: NDArray[np.void], present: EpochContext) -> NDArray[np.uint8]:
    """Return the side that the connection tracker saw first; INITIATOR_UNKNOWN: neither."""
    local, peer = tracked(key, present).found, tracked(reversed_keys(key), present).found
    sides = [local & ~peer, peer & ~local]
    return np.select(sides, [INITIATOR_ENDPOINT, INITIATOR_PEER], INITIATOR_UNKNOWN).astype(
        np.uint8
    )
