# SPDX-License-Identifier: Apache-2.0
"""Finds answers that an endpoint of this host may have sent in another's name."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.connections.connections import ConnectionColumns

_TUPLE = np.dtype(
    [("from", "u8", (2,)), ("to", "u8", (2,)), ("ports", "u2", (2,)), ("protocol", "u1")]
)
_BYTES = np.dtype(f"S{_TUPLE.itemsize}")


def are_forged(
    connections: ConnectionColumns, spoofing: Sequence[ConnectionColumns]
) -> NDArray[np.bool_]:
    """Return which connections (n,) may have been answered by others than their peers.

    ``spoofing`` are connections of an endpoint that sends from a foreign address: what it
    sends to an endpoint in the name of that one's peer has the addresses and ports of an answer.
    """
    sent = [_tuples(each, "local", "remote") for each in spoofing if len(each.fingerprint)]
    if not sent:
        return np.zeros(len(connections.fingerprint), np.bool_)
    found: NDArray[np.bool_] = np.isin(
        _tuples(connections, "remote", "local"), np.concatenate(sent)
    )
    return found


def _tuples(columns: ConnectionColumns, source: str, target: str) -> NDArray[np.bytes_]:
    key, found = columns.key, np.zeros(len(columns.fingerprint), _TUPLE)
    found["from"], found["to"] = key[f"{source}_address"], key[f"{target}_address"]
    found["ports"][:, 0], found["ports"][:, 1] = key[f"{source}_port"], key[f"{target}_port"]
    found["protocol"] = key["protocol"]
    return found.view(_BYTES)
