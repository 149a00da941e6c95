# SPDX-License-Identifier: Apache-2.0
"""Find the peer of each connection, as of the connection's first packet."""

import numpy as np
from numpy.typing import NDArray

from podtally.identity.model import Owner, peer_labels
from podtally.identity.name_table import Names
from podtally.ledger.connections.connections import INITIATOR_PEER
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.connections.new_connections import NewConnections
from podtally.ledger.peers.peer_columns import PeerColumns, PeerKind, PeerKinds, owners_at
from podtally.ledger.peers.service_backends import ServiceBackends

_HAS_PORTS = np.zeros(256, np.bool_)  # by protocol: what a Service can serve
_HAS_PORTS[[6, 17, 132]] = True  # TCP, UDP, SCTP

MAX_KINDS = 1 << 16


class PeerFinder:
    """Remembers what labels need of each owner in one address book."""

    def __init__(self, by_pod: bool = False) -> None:
        self._by_pod = by_pod
        self.forget()

    @property
    def kinds(self) -> PeerKinds:
        """The kinds of the peers that were found last."""
        return self._kinds

    @property
    def is_full(self) -> bool:
        """Return whether domains have made more kinds than are worth keeping."""
        return len(self._kinds.values) > MAX_KINDS

    def find(self, flows: NewConnections, context: EpochContext) -> PeerColumns:
        self._learn(context.names)
        owner = owners_at(context.names, flows.key["remote_address"], flows.at_ns)
        found = PeerColumns(
            kinds=self._kinds.values,
            kind=self._kind[owner],
            final=self._final[owner],
            owner=owner,
            address=flows.key["remote_address"].byteswap(),
            port=flows.key["remote_port"].astype(np.int64),
        )
        # A client opens connections to a Service; packets that come from its address are replies.
        served = self._serves[owner] & (flows.initiator != INITIATOR_PEER)
        if served.any():
            served &= _HAS_PORTS[flows.key["protocol"]]
            rows = np.flatnonzero(served)
            self._services.put(found, rows, flows.take(rows), context)
        return found

    def is_host(
        self, names: Names, address: NDArray[np.uint64], at_ns: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Return which addresses (n, 2), in network order, are this host's. (n,)"""
        self._learn(names)
        return self._host[owners_at(names, address, at_ns)]

    def forget(self, owners: object = ()) -> None:
        """Number kinds from zero."""
        self._owners = owners
        self._kinds = PeerKinds()
        self._services = ServiceBackends(self._kinds)
        self._kind = np.zeros(0, np.int64)  # by owner, as the next three
        self._final = np.zeros(0, np.bool_)
        self._host = np.zeros(0, np.bool_)
        self._serves = np.zeros(0, np.bool_)

    def _learn(self, names: Names) -> None:
        """Add the owners that are new since the last call; their list only grows."""
        if self._owners is not names.owners:
            self.forget(names.owners)
        fresh = names.owners[len(self._kind) :]
        if not len(fresh):
            return
        kinds = [owner.kind for owner in fresh]
        self._kind = np.append(self._kind, [self._kinds.number(self._kind_of(o)) for o in fresh])
        self._final = np.append(self._final, [owner.final for owner in fresh])
        self._host = np.append(self._host, [kind == "host" for kind in kinds])
        serves = [kind in ("service", "node", "host") for kind in kinds]
        self._serves = np.append(self._serves, serves)

    def _kind_of(self, owner: Owner) -> PeerKind:
        peer = peer_labels(owner)
        is_pod = self._by_pod and owner.kind == "pod"
        return PeerKind(peer._replace(workload=owner.name) if is_pod else peer)
