# SPDX-License-Identifier: Apache-2.0
"""Connections as policies are evaluated for them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.dns.candidates import NO_NAME_COLUMN, NameColumn
from podtally.ledger.connections.connections import (
    INITIATOR_ENDPOINT,
    INITIATOR_MASK,
    INITIATOR_PEER,
    INITIATOR_UNKNOWN,
)
from podtally.ledger.connections.new_connections import NewConnections
from podtally.ledger.peers.peer_columns import NO_OWNER, PeerColumns


class JudgeInput(NamedTuple):
    """Connections to be judged; index i of every array is the same one."""

    endpoint: NDArray[np.int32]  # the local PolicyEndpoint's number
    local_address: NDArray[np.uint64]  # (n, 2), in host order
    owner: NDArray[np.int64]  # the peer's, in ``Names.owners``; NO_OWNER: unknown
    peer_address: NDArray[np.uint64]  # (n, 2)
    protocol: NDArray[np.uint8]
    server_port: NDArray[np.int64]  # the backend's, behind a Service; 0: none, or unknown
    initiator: NDArray[np.uint8]
    exposed: NDArray[np.bool_]  # from outside the cluster, and nothing declares it
    local_port: NDArray[np.int64]
    peer_port: NDArray[np.int64]  # the backend's, behind a Service
    likely_initiator: NDArray[np.uint8]  # the side that opened it, if one has to be named
    may_be_unknown: NDArray[np.bool_]  # an unknown verdict is expected, and not reported
    foreign: NDArray[np.bool_]  # sent from an address that is not the endpoint's
    names: NameColumn = NO_NAME_COLUMN  # by which the endpoint found its peer
    peer_names: NameColumn = NO_NAME_COLUMN  # by which the peer, here too, found the endpoint

    def take(self, index: NDArray[np.int64]) -> "JudgeInput":
        return JudgeInput._make(column[index] for column in self)

    def opened_by(self, side: int) -> "JudgeInput":
        """Return the same connections as if one side had opened all of them."""
        return self.opened_as(np.full_like(self.initiator, side))

    def opened_as(self, side: NDArray[np.uint8]) -> "JudgeInput":
        """Return the same connections as if each had been opened by the given side (n,)."""
        port = np.where(side == INITIATOR_ENDPOINT, self.peer_port, self.local_port)
        return self._replace(server_port=port, initiator=side)


def judge_input(
    flows: NewConnections,
    endpoint: NDArray[np.int32],
    peers: PeerColumns,
    names: NameColumn = NO_NAME_COLUMN,
    peer_names: NameColumn = NO_NAME_COLUMN,
) -> JudgeInput:
    """``endpoint`` (n,): numbers of the local PolicyEndpoints."""
    key, initiator = flows.key, flows.initiator
    local_port, peer_port = key["local_port"].astype(np.int64), peers.port.astype(np.int64)
    side = initiator & INITIATOR_MASK
    first = np.where(key["first_direction"] == 0, INITIATOR_ENDPOINT, INITIATOR_PEER)
    return JudgeInput(
        endpoint=endpoint,
        local_address=key["local_address"].byteswap(),
        owner=np.where(peers.final, peers.owner, NO_OWNER),  # without names that came too late
        peer_address=peers.address,
        protocol=key["protocol"],
        server_port=np.where(side == INITIATOR_ENDPOINT, peer_port, local_port),
        initiator=initiator,
        exposed=np.zeros(len(key), np.bool_),
        local_port=local_port,
        peer_port=peer_port,
        likely_initiator=np.where(side == INITIATOR_UNKNOWN, first, side).astype(np.uint8),
        may_be_unknown=np.zeros(len(key), np.bool_),
        foreign=np.zeros(len(key), np.bool_),
        names=names,
        peer_names=peer_names,
    )
