# SPDX-License-Identifier: Apache-2.0
"""Group connections that differ in no label, as one number each, and know their accounts.

Beyond an endpoint's share, one group stands for all ports of a peer, then one for all
peers; the account tables keep the exact share, this bounds the loops over new groups.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.arrays.distinct import Numbered
from podtally.arrays.packed_fields import PackedFields
from podtally.ledger.connections.account import (
    MANY_PROTOCOLS,
    SHOWN_PROTOCOLS,
    UNKNOWN_PORT,
    Account,
    server_port,
    with_any_peer,
    with_any_port,
)
from podtally.ledger.peers.peer_columns import PeerKind
from podtally.ledger.series.shares import Shares, beyond

# ``late``: names came too late. Ports from UNKNOWN_PORT (stored as 0) on.
_GROUP = PackedFields(endpoint=15, peer=22, late=1, port=17, protocol=8)
_PEER = PackedFields(kind=41, judgement=22)
_LOWEST_PORT = UNKNOWN_PORT
# In the place of a port: any port of one peer, any port of any peer.
_ANY_PORT, _ANY_PEER = 65536 - _LOWEST_PORT, 65537 - _LOWEST_PORT
_IS_SHOWN = np.isin(np.arange(_GROUP.capacity("protocol")), SHOWN_PROTOCOLS)

Numbers = NDArray[np.int64]


class GroupParts(NamedTuple):
    """One group, unpacked."""

    endpoint: int
    kind: int  # of the peer
    judgement: int
    late: bool
    protocol: int
    port: int
    is_any_port: bool
    is_any_peer: bool

    def share(self, account: Account) -> Account:
        """Return the account of this group; the shared one if the group stands for many."""
        if self.is_any_peer:
            return with_any_peer(account)
        return with_any_port(account) if self.is_any_port else account


class AccountGroups:
    """Known groups with their accounts; until names change or an account is closed."""

    def __init__(self) -> None:
        self._peers = Numbered()  # by _PEER
        self._alike: list[int] = []  # by number in ``_peers``: the first with the same labels
        self._first: dict[tuple[str, int], int] = {}  # by scope and judgement
        self._groups = np.zeros(0, np.int64)  # ascending
        self._accounts = np.zeros(0, np.int64)  # of each

    def is_full(self) -> bool:
        """Return whether another batch might not find numbers for its peers."""
        return len(self._peers.values) > _GROUP.capacity("peer") // 2

    def pack(
        self,
        endpoint: Numbers,
        peer: tuple[Numbers, Numbers],
        late: NDArray[np.bool_],
        key: NDArray[np.void],
        initiator: NDArray[np.uint8],
    ) -> Numbers:
        """Return the groups of connections; ``peer`` are PeerKinds, and judgements. (n,)"""
        port = server_port(initiator, key["local_port"], key["remote_port"])
        return _GROUP.pack(
            endpoint=endpoint,
            peer=self._peers.of(_PEER.pack(kind=peer[0], judgement=peer[1])),
            late=late,
            port=port - _LOWEST_PORT,
            protocol=key["protocol"],
        )

    def parts(self, group: int) -> GroupParts:
        fields = _GROUP.unpack(group)
        peer = _PEER.unpack(self._peers.values[fields["peer"]])
        return GroupParts(
            endpoint=fields["endpoint"],
            kind=peer["kind"],
            judgement=peer["judgement"],
            late=bool(fields["late"]),
            protocol=fields["protocol"],
            port=fields["port"] + _LOWEST_PORT,
            is_any_port=fields["port"] == _ANY_PORT,
            is_any_peer=fields["port"] == _ANY_PEER,
        )

    def accounts(self, groups: Numbers) -> Numbers:
        """Return the accounts of known groups. (n,)"""
        return self._accounts[np.searchsorted(self._groups, groups)]

    def knows(self, groups: Numbers) -> NDArray[np.bool_]:
        place = np.searchsorted(self._groups, groups)
        known = np.zeros(len(groups), np.bool_)
        inside = place < len(self._groups)
        known[inside] = self._groups[place[inside]] == groups[inside]
        return known

    def add(self, groups: Numbers, accounts: list[int]) -> None:
        every = np.concatenate([self._groups, groups])
        order = np.argsort(every)
        self._groups = every[order]
        self._accounts = np.concatenate([self._accounts, np.array(accounts, np.int64)])[order]

    def shared(self, groups: Numbers, kinds: list[PeerKind], shares: Shares) -> tuple[Numbers, int]:
        """Replace new groups beyond their endpoint's share by groups that stand for many.
        Returns all groups, and how many were replaced. (n,)
        """
        if len(groups) <= min(shares.most, shares.by_peer):
            return groups, 0
        known = self._groups
        many = beyond(_GROUP.prefix("peer", groups), _GROUP.prefix("peer", known), shares.by_peer)
        any_port = _GROUP.replace(groups, port=_ANY_PORT)
        different, place = np.unique(np.where(many, any_port, groups), return_inverse=True)
        new = np.flatnonzero(~self.knows(different))
        endpoint = _GROUP.get("endpoint", different)
        rows = new[beyond(endpoint[new], _GROUP.get("endpoint", known), shares.most)]
        protocol = _GROUP.get("protocol", different[rows])
        different[rows] = _GROUP.pack(
            endpoint=endpoint[rows],
            peer=self._alike_of(kinds)[_GROUP.get("peer", different[rows])],
            late=_GROUP.get("late", different[rows]),
            port=np.full(len(rows), _ANY_PEER),
            protocol=np.where(_IS_SHOWN[protocol], protocol, MANY_PROTOCOLS),
        )
        return different[place.ravel()], int(np.count_nonzero(many)) + len(rows)

    def _alike_of(self, kinds: list[PeerKind]) -> Numbers:
        """Return, by number in ``_peers``, the first one of the same scope and judgement. (n,)"""
        for number in range(len(self._alike), len(self._peers.values)):
            peer = _PEER.unpack(self._peers.values[number])
            alike = (kinds[peer["kind"]].peer.scope, peer["judgement"])
            self._alike.append(self._first.setdefault(alike, number))
        return np.array(self._alike, np.int64)
