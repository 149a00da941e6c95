# SPDX-License-Identifier: Apache-2.0
"""Find the local endpoint of each connection: by its interface, or on interfaces that endpoints
share (the host's own) by the cgroup of its socket.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.arrays.distinct import distinct
from podtally.arrays.packed_fields import PackedFields
from podtally.identity.model import UNKNOWN_ENDPOINT, Endpoint
from podtally.identity.name_table import Names
from podtally.ledger.attribution.host_sockets import CGROUP, find_sockets, in_other_namespace
from podtally.ledger.attribution.ownership import GROUP, OWN, Ownership, OwnershipInput
from podtally.ledger.connections.connections import Flags
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.connections.new_connections import NewConnections
from podtally.ledger.interfaces.interfaces import Interfaces
from podtally.ledger.peers.peers import PeerFinder
from podtally.ledger.verdicts.verdicts import VerdictStage

# ``other_namespace``: the socket's address is not the host's.
_PLACE = PackedFields(slot=14, other_namespace=1, cgroup=48)

_MAX_ENDPOINTS = 1 << 14  # half of what account groups have numbers for


class LocalEndpoint(NamedTuple):
    slot: int  # of its interface
    endpoint: Endpoint


class LocalEndpoints(NamedTuple):
    """The local endpoints of connections; index i of every array is the same connection."""

    endpoint: NDArray[np.int64]  # index in ``LocalEndpointFinder.endpoints``
    final: NDArray[np.bool_]  # no better name will come
    forwarded: NDArray[np.bool_]  # through an uplink, between others
    ownership: NDArray[np.int8]  # whether the endpoint has the local address: ``ownership``

    def take(self, index: NDArray[np.int64]) -> "LocalEndpoints":
        return LocalEndpoints._make(column[index] for column in self)


class LocalEndpointFinder:
    """Endpoints are numbered until ``forget``; the arrays are by that number."""

    def __init__(
        self,
        interfaces: Interfaces,
        peers: PeerFinder,
        verdicts: VerdictStage,
        flags: Flags,
        forwarders: Sequence[str],
    ) -> None:
        self._interfaces = interfaces
        self._peers = peers
        self._verdicts = verdicts
        self._flags = flags
        self._forwarders = forwarders
        self._ownership = Ownership()
        self._unknown_cgroups: set[int] = set()
        self.forget()

    def forget(self) -> None:
        self.endpoints: list[LocalEndpoint] = []
        self.policy_endpoint = np.zeros(0, np.int32)  # its number, for the verdicts
        self.is_pod = np.zeros(0, np.bool_)  # whether it has an interface of its own
        self._final = np.zeros(0, np.bool_)
        self._owner = np.zeros(0, np.int64)  # its number, for ``Ownership``
        self._forwards = np.zeros(0, np.bool_)  # whether it may send and receive for others
        self._numbers: dict[int, int] = {}  # by _PLACE

    def is_full(self) -> bool:
        """Return whether another batch might not find numbers for its endpoints."""
        return len(self.endpoints) > _MAX_ENDPOINTS

    def take_unknown_cgroups(self) -> set[int]:
        """Return the cgroups met since the last call that have no name."""
        taken, self._unknown_cgroups = self._unknown_cgroups, set()
        return taken

    def expect(self, key: NDArray[np.void]) -> None:
        """Count the cgroups of restored connections (n,) as met: their names are known before the
        first packet is booked.
        """
        cgroup = CGROUP.pack(high=key["cgroup_high"], low=key["cgroup_low"])
        self._unknown_cgroups.update(distinct(cgroup)[0].tolist())
        self._unknown_cgroups.discard(0)

    def learn(self, names: Names) -> None:
        self._ownership.learn(names)

    def find(
        self, slot: NDArray[np.int64], flows: NewConnections, context: EpochContext
    ) -> LocalEndpoints:
        """``slot`` (n,) are those of the interfaces. Notes the cgroups found in the keys."""
        places, forwarded = _PLACE.pack(slot=slot), np.zeros(len(slot), np.bool_)
        shared = np.flatnonzero(self._interfaces.host[slot])
        if len(shared):
            some = flows.take(shared)
            sockets = find_sockets(some, context, self._peers, self._flags)
            flows.key["cgroup_high"][shared] = CGROUP.get("high", sockets.cgroup)
            flows.key["cgroup_low"][shared] = CGROUP.get("low", sockets.cgroup)
            forwarded[shared] = sockets.forwarded
            places[shared] = _PLACE.pack(
                slot=slot[shared],
                other_namespace=in_other_namespace(some, sockets, context, self._peers),
                cgroup=sockets.cgroup,
            )
        different, place = distinct(places)
        numbers = [self._number(each, context.names) for each in different.tolist()]
        endpoint = np.array(numbers, np.int64)[place]
        final = self._final[endpoint]
        ownership = np.full(len(slot), OWN, np.int8)
        rows = np.flatnonzero(self.is_pod[endpoint] & final)
        given = OwnershipInput(
            endpoint=self._owner[endpoint[rows]],
            address=flows.key["local_address"][rows],
            at_ns=flows.at_ns[rows],
            sent=flows.sent[rows],
        )
        ownership[rows] = self._ownership.kinds(given, context.names, context.now_ns)
        if self._forwarders:
            ownership[(ownership != GROUP) & self._forwards[endpoint]] = OWN
        return LocalEndpoints(endpoint, final, forwarded, ownership)

    def _number(self, packed: int, names: Names) -> int:
        number = self._numbers.get(packed)
        if number is None:
            number = self._numbers[packed] = len(self.endpoints)
            self._add(packed, names)
        return number

    def _add(self, packed: int, names: Names) -> None:
        place = _PLACE.unpack(packed)
        slot, cgroup = place["slot"], place["cgroup"]
        endpoint: Endpoint | None = names.endpoint(int(self._interfaces.ifindex[slot]))
        if cgroup:
            endpoint = names.sockets.get(cgroup)
        if endpoint is None:
            self._unknown_cgroups.add(cgroup)
            endpoint = UNKNOWN_ENDPOINT._replace(final=False)
        if endpoint.uid and place["other_namespace"]:
            endpoint = endpoint._replace(host_network=False)  # macvlan, ipvlan: a pod's own
        self.endpoints.append(LocalEndpoint(slot, endpoint))
        self.policy_endpoint = np.append(
            self.policy_endpoint, np.int32(self._verdicts.endpoint_number(endpoint))
        )
        self.is_pod = np.append(self.is_pod, not self._interfaces.host[slot])
        self._final = np.append(self._final, endpoint.final)
        self._owner = np.append(self._owner, self._ownership.number(endpoint))
        workload = f"{endpoint.namespace}/{endpoint.workload}"
        forwards = any(fnmatchcase(workload, pattern) for pattern in self._forwarders)
        self._forwards = np.append(self._forwards, forwards)
