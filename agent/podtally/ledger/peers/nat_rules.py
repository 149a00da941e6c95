# SPDX-License-Identifier: Apache-2.0
"""Mark the peers behind a NAT gateway, by the rules of the configuration.

The kernel does not know: the gateway is a part of the network outside of the node.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.arrays.distinct import distinct
from podtally.identity.networks import PrefixTable, parse_prefix
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.connections.new_connections import NewConnections
from podtally.ledger.peers.peer_columns import PeerColumns, PeerKinds

_INTERNET = "internet"
_ANYWHERE = PrefixTable((), 1)


class NatRules(NamedTuple):
    """What passes the gateway: traffic with the internet, from some places, to some networks."""

    node_labels: Mapping[str, str]  # of nodes behind the gateway; empty: see ``subnets``
    subnets: PrefixTable | None  # of endpoints behind the gateway; both empty: everywhere
    destinations: PrefixTable  # value 1: passes, 0: takes another way

    def from_node(self, context: EpochContext) -> bool:
        """Return whether all traffic of this node passes; without an API no labels are known."""
        if not self.node_labels:
            return self.subnets is None
        labels = context.cluster_labels.node_labels(context.cluster_labels.node_name) or ()
        return self.node_labels.items() <= dict(labels).items()


def nat_rules(
    node_labels: Mapping[str, str],
    subnets: Iterable[str],
    destinations: Iterable[str],
    exclude: Iterable[str],
) -> NatRules:
    """Return rules; networks are CIDRs, the longest decides. No ``destinations``: all."""
    own = [parse_prefix(each, 1) for each in subnets]
    to = [parse_prefix(each, 1) for each in destinations]
    not_to = [parse_prefix(each, 0) for each in exclude]
    table = PrefixTable([*to, *not_to], 0 if to else 1) if to or not_to else _ANYWHERE
    return NatRules(node_labels, PrefixTable(own) if own else None, table)


class NatMarker:
    """Gives peers behind the gateway kinds of their own."""

    def __init__(self, rules: NatRules | None) -> None:
        self._rules = rules
        self._kinds: PeerKinds | None = None
        self._marked: dict[int, int] = {}  # kinds behind the gateway, by the kind without
        self._internet = np.zeros(0, np.bool_)  # by kind

    def mark(
        self, flows: NewConnections, peers: PeerColumns, kinds: PeerKinds, context: EpochContext
    ) -> PeerColumns:
        """``kinds`` are those of the peers; kinds behind the gateway are added."""
        if self._rules is None:
            return peers
        self._learn(kinds)
        rows = np.flatnonzero(self._internet[peers.kind])
        if len(rows):
            rows = rows[self._passes(self._rules, flows, peers, rows, context)]
        if not len(rows):
            return peers
        different, place = distinct(peers.kind[rows])
        numbers = np.array([self._number(each, kinds) for each in different.tolist()], np.int64)
        kind = peers.kind.copy()
        kind[rows] = numbers[place]
        return peers._replace(kind=kind)

    @staticmethod
    def _passes(
        rules: NatRules,
        flows: NewConnections,
        peers: PeerColumns,
        rows: NDArray[np.int64],
        context: EpochContext,
    ) -> NDArray[np.bool_]:
        address = peers.address[rows]
        passes: NDArray[np.bool_] = rules.destinations.look_up(address[:, 0], address[:, 1]) == 1
        if not rules.from_node(context):
            if rules.subnets is None:
                return np.zeros(len(rows), np.bool_)
            own = flows.key["local_address"][rows].byteswap()
            passes &= rules.subnets.look_up(own[:, 0], own[:, 1]) == 1
        return passes

    def _number(self, plain: int, kinds: PeerKinds) -> int:
        number = self._marked.get(plain)
        if number is None:
            kind = kinds.values[plain]
            marked = kind._replace(peer=kind.peer._replace(nat=True))
            number = self._marked[plain] = kinds.number(marked)
        return number

    def _learn(self, kinds: PeerKinds) -> None:
        if self._kinds is not kinds:
            self._kinds, self._marked, self._internet = kinds, {}, self._internet[:0]
        fresh = kinds.values[len(self._internet) :]
        if fresh:
            outside = [each.peer.scope == _INTERNET for each in fresh]
            self._internet = np.append(self._internet, outside)
