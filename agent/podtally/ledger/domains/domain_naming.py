# SPDX-License-Identifier: Apache-2.0
"""Name the peers of connections by domain, as their endpoints knew them at the first packet."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.arrays.distinct import distinct
from podtally.arrays.packed_fields import PackedFields
from podtally.dns.candidates import NO_NAME_COLUMN, NameColumn
from podtally.dns.peer_naming import ALWAYS_LATE, SEEN_ALL, PeersToName
from podtally.identity.model import Endpoint, Owner
from podtally.kernel.captured import HOST
from podtally.ledger.connections.connections import CONTESTED, INITIATOR_MASK, INITIATOR_PEER, TCP
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.connections.new_connections import NewConnections
from podtally.ledger.domains.peer_domains import NO_DOMAIN, NOT_LOOKED_UP, PeerDomains
from podtally.ledger.interfaces.interfaces import Interfaces
from podtally.ledger.peers.peer_columns import NO_OWNER, PeerColumns, PeerKinds

# A TLS client sends its ClientHello one round trip after its first packet. A longer wait would
# delay denials: no attacker's silent connection may hold its event back.
HELLO_NS = 150_000_000
NO_INTERFACE = -1  # instead of an interface that is watched
_KIND = PackedFields(kind=31, domain=32)


class DomainColumns(NamedTuple):
    """``peers`` with their domains; index i of every array is the same connection."""

    peers: PeerColumns
    names: NameColumn  # for policies
    peer_names: NameColumn  # by which peers of this host found the endpoint
    may_come: NDArray[np.bool_]  # a server name in TLS may still decide

    def take(self, index: NDArray[np.int64]) -> "DomainColumns":
        return DomainColumns(
            self.peers.take(index),
            self.names[index],
            self.peer_names[index],
            self.may_come[index],
        )


class DomainNaming:
    """Over the interfaces of one ledger. Writes ``NewConnections.domain``."""

    def __init__(self, interfaces: Interfaces, domains: PeerDomains) -> None:
        self._interfaces = interfaces
        self._domains = domains
        self._kinds: PeerKinds | None = None  # what ``_named`` is for
        self._version = 0
        self._named: dict[int, int] = {}  # kinds with a domain, by _KIND
        self._external = np.zeros(0, np.bool_)  # by kind

    def find(
        self,
        flows: NewConnections,
        slot: NDArray[np.int64],
        peers: PeerColumns,
        kinds: PeerKinds,
        context: EpochContext,
    ) -> DomainColumns:
        """``kinds`` are those of the peers; kinds with domains are added."""
        inputs = context.domains
        self._learn(kinds)
        may_come = np.zeros(len(slot), np.bool_)
        names = peer_names = NO_NAME_COLUMN
        if inputs.is_on:
            given = self._given(flows, slot, peers)
            every = np.arange(len(slot))
            names = NameColumn(lambda: inputs.candidates(given), every)
            peer_names = NameColumn(
                lambda: inputs.candidates(self._given_of_peers(flows, peers, context)), every
            )
            rows = np.flatnonzero((flows.domain == NOT_LOOKED_UP) & self._is_named(flows, peers))
            if len(rows):
                flows.domain[rows] = self._domains.of(given.take(rows), inputs)
                if inputs.reads_tls:
                    may_come[rows] = self._may_come(flows.take(rows), context.now_ns)
        named = self._with_domains(flows, peers, kinds)
        return DomainColumns(named, names, peer_names, may_come)

    def _given(
        self, flows: NewConnections, slot: NDArray[np.int64], peers: PeerColumns
    ) -> PeersToName:
        is_host = self._interfaces.host[slot]
        late_ns = _late_ns(self._interfaces.in_use_since_ns[slot])
        return PeersToName(
            endpoint=np.where(is_host, HOST, flows.key["ifindex"].astype(np.int64)),
            address=peers.address,
            at_ns=flows.at_ns,
            key=flows.key,
            late_ns=np.where(is_host, ALWAYS_LATE, late_ns),
        )

    def _given_of_peers(
        self, flows: NewConnections, peers: PeerColumns, context: EpochContext
    ) -> PeersToName:
        """Return the same connections as their peers see them, if these are pods of this host."""
        owners, names = context.names.owners, context.names
        interface = {
            _identity(each): ifindex
            for ifindex, each in names.endpoints.items()
            if self._interfaces.known(ifindex)
        }
        different, place = np.unique(peers.owner, return_inverse=True)
        numbers = [
            interface.get(_identity(owners[number]), NO_INTERFACE)
            if number != NO_OWNER
            else NO_INTERFACE
            for number in different.tolist()
        ]
        endpoint = np.array(numbers, np.int64)[place.ravel()]
        known = endpoint != NO_INTERFACE
        late_ns = np.full(len(endpoint), ALWAYS_LATE)
        late_ns[known] = _late_ns(self._interfaces.in_use_since(endpoint[known]))
        return PeersToName(
            endpoint=endpoint,
            address=flows.key["local_address"].byteswap(),
            at_ns=flows.at_ns,
            key=flows.key,
            late_ns=late_ns,
        )

    def _is_named(self, flows: NewConnections, peers: PeerColumns) -> NDArray[np.bool_]:
        """Return which connections go to the outside. (n,)"""
        opened_by_peer = flows.initiator & (INITIATOR_MASK | CONTESTED) == INITIATOR_PEER
        named: NDArray[np.bool_] = self._external[peers.kind] & peers.final & ~opened_by_peer
        return named

    def _may_come(self, flows: NewConnections, now_ns: int) -> NDArray[np.bool_]:
        """Return which connections had no data yet, and need a server name. (n,)"""
        values = self._domains.values
        different, place = distinct(flows.domain.astype(np.int64))
        certain = np.array([values[i].source in ("dns", "tls") for i in different.tolist()])
        may_come: NDArray[np.bool_] = (
            ~certain[place]
            & (flows.key["protocol"] == TCP)
            & ~flows.has_data
            & (now_ns - flows.at_ns < HELLO_NS)
        )
        return may_come

    def _with_domains(
        self, flows: NewConnections, peers: PeerColumns, kinds: PeerKinds
    ) -> PeerColumns:
        """Return peers with the domains in their kinds; the loop is over different ones."""
        rows = np.flatnonzero(flows.domain > NO_DOMAIN)
        if not len(rows):
            return peers
        packed = _KIND.pack(kind=peers.kind[rows], domain=flows.domain[rows].astype(np.int64))
        different, place = distinct(packed)
        numbers = [self._number(each, kinds) for each in different.tolist()]
        kind = peers.kind.copy()
        kind[rows] = np.array(numbers, np.int64)[place]
        return peers._replace(kind=kind)

    def _number(self, packed: int, kinds: PeerKinds) -> int:
        number = self._named.get(packed)
        if number is None:
            fields = _KIND.unpack(packed)
            kind, domain = kinds.values[fields["kind"]], self._domains.values[fields["domain"]]
            peer = kind.peer._replace(domain=domain.label)
            if domain.network and not peer.workload:
                peer = peer._replace(workload=domain.network)
            number = self._named[packed] = kinds.number(kind._replace(peer=peer))
        return number

    def _learn(self, kinds: PeerKinds) -> None:
        if self._kinds is not kinds or self._version != self._domains.version:
            self._kinds, self._version = kinds, self._domains.version
            self._named, self._external = {}, self._external[:0]
        fresh = kinds.values[len(self._external) :]
        if fresh:
            outside = [each.peer.kind == "external" for each in fresh]
            self._external = np.append(self._external, outside)


def _late_ns(in_use_since_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(in_use_since_ns == 0, SEEN_ALL, in_use_since_ns)


def _identity(of: Endpoint | Owner) -> tuple[str, ...]:
    return (of.uid,) if of.uid else (of.namespace, of.name)
