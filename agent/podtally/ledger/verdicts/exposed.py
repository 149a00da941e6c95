# SPDX-License-Identifier: Apache-2.0
"""Check connections from outside the cluster against what Ingresses and Services expose."""

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.connections.connections import CONTESTED, INITIATOR_PEER
from podtally.ledger.verdicts.judge_input import JudgeInput
from podtally.policy.exposure.exposures import Exposure
from podtally.policy.exposure.table import NOTHING
from podtally.policy.model import SCTP, TCP, UDP
from podtally.policy.vector.addresses import Addresses

UNDECLARED = "undeclared"
_HAS_PORTS = np.zeros(256, np.bool_)  # by protocol: what can be exposed by a port
_HAS_PORTS[[TCP, UDP, SCTP]] = True


def may_be_inbound(initiator: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where the peer opened the connection, or seems to have. (n,)"""
    found: NDArray[np.bool_] = (initiator == INITIATOR_PEER) | (initiator & CONTESTED != 0)
    return found


def undeclared(
    given: JudgeInput, from_outside: NDArray[np.bool_], exposure: Exposure
) -> NDArray[np.bool_]:
    """Return which connections from outside reach a port that nothing exposes. (n,)"""
    given = given._replace(server_port=given.local_port)
    found = from_outside & _has_port(given)
    rows = np.flatnonzero(found)
    if len(rows):
        found[rows] = _declared(given.take(rows), exposure) == NOTHING
    return found


def exposures(given: JudgeInput, from_outside: NDArray[np.bool_], exposure: Exposure) -> list[str]:
    """Return the Ingress or Service that exposes each inbound connection; "" for the others."""
    texts = [""] * len(from_outside)
    given = given._replace(server_port=given.local_port)
    rows = np.flatnonzero(_has_port(given) & may_be_inbound(given.initiator))
    some = given.take(rows)
    peers, addresses = (Addresses(*a.T) for a in (some.peer_address, some.local_address))
    via = exposure.via(peers, addresses, some.protocol, some.server_port)
    declared, outside = _declared(some, exposure), from_outside[rows]
    declarations = exposure.declarations
    for row, by, index, is_outside in zip(
        rows.tolist(), via.tolist(), declared.tolist(), outside.tolist(), strict=True
    ):
        if by != NOTHING:
            texts[row] = declarations[by].via
        elif is_outside:
            texts[row] = UNDECLARED if index == NOTHING else declarations[index].text
    return texts


def _has_port(given: JudgeInput) -> NDArray[np.bool_]:
    has_port: NDArray[np.bool_] = _HAS_PORTS[given.protocol] & (given.server_port > 0)
    return has_port


def _declared(given: JudgeInput, exposure: Exposure) -> NDArray[np.int64]:
    return exposure.declared(Addresses(*given.local_address.T), given.protocol, given.server_port)
