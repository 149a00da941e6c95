# SPDX-License-Identifier: Apache-2.0
"""Connections as policy is asked about them, and what is declared to be exposed among them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.connections import (
    BEGAN_HERE,
    BEGAN_SIDE,
    BEGAN_THERE,
    BEGAN_UNKNOWN,
    CONTESTED,
)
from podtally.ledger.new_connections import NewConnections
from podtally.ledger.peer_columns import NO_OWNER, PeerColumns
from podtally.policy.exposure.exposures import Exposure
from podtally.policy.exposure.table import NOTHING
from podtally.policy.model import SCTP, TCP, UDP
from podtally.policy.vector.addresses import Addresses

UNDECLARED = "undeclared"
_SERVED = np.zeros(256, np.bool_)  # by protocol: what can be exposed by a port
_SERVED[[TCP, UDP, SCTP]] = True


class JudgeInput(NamedTuple):
    """Connections to be judged; index i of every array is the same one."""

    here: NDArray[np.int32]  # the party at our end
    here_address: NDArray[np.uint64]  # (n, 2), in host order
    owner: NDArray[np.int64]  # of the other end, in ``Names.owners``; NO_OWNER: nobody knows
    address: NDArray[np.uint64]  # (n, 2)
    protocol: NDArray[np.uint8]
    port: NDArray[np.int64]  # the one that was asked, of who answers; 0: none, or nobody knows
    began: NDArray[np.uint8]
    exposed: NDArray[np.bool_]  # from outside, and nothing declares that it may
    here_port: NDArray[np.int64]
    peer_port: NDArray[np.int64]  # of who answers
    likely_opener: NDArray[np.uint8]  # which side opened it, if one has to be named
    quiet: NDArray[np.bool_]  # if nothing is known of it, that is no news
    foreign: NDArray[np.bool_]  # sent from an address that is not our end's

    def take(self, index: NDArray[np.int64]) -> "JudgeInput":
        return JudgeInput._make(column[index] for column in self)

    def opened_by(self, side: int) -> "JudgeInput":
        """The same connections, if all of them were opened by one side."""
        return self.opened_as(np.full_like(self.began, side))

    def opened_as(self, side: NDArray[np.uint8]) -> "JudgeInput":
        """The same connections, each opened by the side given. (n,)"""
        port = np.where(side == BEGAN_HERE, self.peer_port, self.here_port)
        return self._replace(port=port, began=side)


def may_come_in(began: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where the other end opened the connection, or seems to have. (n,)"""
    found: NDArray[np.bool_] = (began == BEGAN_THERE) | (began & CONTESTED != 0)
    return found


def judge_input(flows: NewConnections, here: NDArray[np.int32], there: PeerColumns) -> JudgeInput:
    """``here`` (n,) are the parties at our end."""
    key, began = flows.key, flows.began
    here_port, peer_port = key["local_port"].astype(np.int64), there.port.astype(np.int64)
    side = began & BEGAN_SIDE
    first = np.where(key["first_direction"] == 0, BEGAN_HERE, BEGAN_THERE)
    likelier = np.where(side == BEGAN_UNKNOWN, first, side).astype(np.uint8)
    return JudgeInput(
        here,
        key["local_address"].byteswap(),
        np.where(there.final, there.owner, NO_OWNER),  # not whose name came too late
        there.address,
        key["protocol"],
        np.where(side == BEGAN_HERE, peer_port, here_port),
        began,
        np.zeros(len(key), np.bool_),
        here_port,
        peer_port,
        likelier,
        np.zeros(len(key), np.bool_),
        np.zeros(len(key), np.bool_),
    )


def undeclared(
    ends: JudgeInput, from_outside: NDArray[np.bool_], exposure: Exposure
) -> NDArray[np.bool_]:
    """Of what comes from outside, what nothing declares to be exposed. (n,)"""
    ends = ends._replace(port=ends.here_port)
    found = from_outside & _served(ends)
    rows = np.flatnonzero(found)
    if len(rows):
        found[rows] = _declared(ends.take(rows), exposure) == NOTHING
    return found


def exposures(ends: JudgeInput, from_outside: NDArray[np.bool_], exposure: Exposure) -> list[str]:
    """How what came in is declared to be exposed: by which Ingress, Service; "" for the rest."""
    told = [""] * len(from_outside)
    ends = ends._replace(port=ends.here_port)
    rows = np.flatnonzero(_served(ends) & may_come_in(ends.began))
    some = ends.take(rows)
    peers, addresses = (Addresses(*a.T) for a in (some.address, some.here_address))
    via = exposure.via(peers, addresses, some.protocol, some.port)
    declared, outside = _declared(some, exposure), from_outside[rows]
    declarations = exposure.declarations
    for row, by, index, comes in zip(
        rows.tolist(), via.tolist(), declared.tolist(), outside.tolist(), strict=True
    ):
        if by != NOTHING:
            told[row] = declarations[by].via
        elif comes:
            told[row] = UNDECLARED if index == NOTHING else declarations[index].text
    return told


def _served(ends: JudgeInput) -> NDArray[np.bool_]:
    served: NDArray[np.bool_] = _SERVED[ends.protocol] & (ends.port > 0)
    return served


def _declared(ends: JudgeInput, exposure: Exposure) -> NDArray[np.int64]:
    return exposure.declared(Addresses(*ends.here_address.T), ends.protocol, ends.port)
