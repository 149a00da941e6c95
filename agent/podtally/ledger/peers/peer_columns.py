# SPDX-License-Identifier: Apache-2.0
"""The peers of connections as columns; peers with the same labels share a number."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.identity.model import UNKNOWN, PeerLabels
from podtally.identity.name_table import Names
from podtally.ledger.connections.account import PeerBackend

UNKNOWN_PEER = PeerLabels(UNKNOWN, "", "", UNKNOWN)
NO_OWNER = -1


class PeerKind(NamedTuple):
    """What labels show of a peer."""

    peer: PeerLabels
    backend: PeerBackend | None = None  # behind a Service


class PeerKinds:
    """Kinds by number, in the order in which they were first met."""

    def __init__(self) -> None:
        self.values: list[PeerKind] = []
        self._numbers: dict[PeerKind, int] = {}

    def number(self, kind: PeerKind) -> int:
        number = self._numbers.setdefault(kind, len(self.values))
        if number == len(self.values):
            self.values.append(kind)
        return number


class PeerColumns(NamedTuple):
    """The peers of connections; index i of every array is the same connection.

    ``owner``, ``address`` and ``port`` are the backend's where the peer is a Service.
    """

    kinds: list[PeerKind]
    kind: NDArray[np.int64]  # index in ``kinds``
    final: NDArray[np.bool_]  # no better name will come
    owner: NDArray[np.int64]  # index in ``Names.owners``; NO_OWNER: unknown
    address: NDArray[np.uint64]  # (n, 2), in host order; 0: unknown
    port: NDArray[np.int64]  # NO_PORT: there is none, or it is unknown

    def take(self, index: NDArray[np.int64]) -> "PeerColumns":
        return PeerColumns._make((self.kinds, *(column[index] for column in self[1:])))


def owners_at(
    names: Names, address: NDArray[np.uint64], at_ns: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return who had addresses (n, 2), in network order: indexes in ``Names.owners``. (n,)"""
    words = address.byteswap()
    return names.look_up(words[:, 0], words[:, 1], at_ns)
