# SPDX-License-Identifier: Apache-2.0
"""Connections that differ in no label, as one number, and the accounts of such groups.

Beyond an endpoint's share, one group stands for all ports of a peer, then one for all
peers; the account tables keep the exact share, this bounds the loops over new groups.
"""

import numpy as np
from numpy.typing import NDArray

from podtally.arrays.distinct import Numbered
from podtally.ledger.account import (
    MANY_PROTOCOLS,
    SHOWN_PROTOCOLS,
    Account,
    server_port,
    with_any_peer,
    with_any_port,
)
from podtally.ledger.peer_columns import PeerKind
from podtally.ledger.shares import Shares, beyond

# Who is here (the place among the endpoints known), who is there, whether their names came
# too late, port and protocol.
_PROTOCOL_BITS, _PORT_BITS, _THERE_BITS = 8, 17, 22
_LATE_SHIFT = _PROTOCOL_BITS + _PORT_BITS
_THERE_SHIFT = _LATE_SHIFT + 1
_HERE_SHIFT = _THERE_SHIFT + _THERE_BITS
_LOWEST_PORT = -1  # UNKNOWN_PORT, so that what is packed is never negative
_JUDGEMENT_BITS = 22
# In the place of a port: any port of one peer, any port of any peer.
_ANY_PORT, _ANY_PEER = 65536 - _LOWEST_PORT, 65537 - _LOWEST_PORT
_PROTOCOL = (1 << _PROTOCOL_BITS) - 1
_PORT = (1 << _PORT_BITS) - 1
_THERE = (1 << _THERE_BITS) - 1
_IS_SHOWN = np.isin(np.arange(1 << _PROTOCOL_BITS), SHOWN_PROTOCOLS)

Numbers = NDArray[np.int64]


class Parts:
    """One group's parts, unpacked."""

    def __init__(self, group: int) -> None:
        self.here = group >> _HERE_SHIFT
        self.there = group >> _THERE_SHIFT & _THERE
        self.late = bool(group >> _LATE_SHIFT & 1)
        self.protocol = group & _PROTOCOL
        self._port = group >> _PROTOCOL_BITS & _PORT
        self.port = self._port + _LOWEST_PORT

    def account(self, account: Account) -> Account:
        """An account of this group's parts; the one shared with others if it stands for many."""
        if self._port == _ANY_PEER:
            return with_any_peer(account)
        return with_any_port(account) if self._port == _ANY_PORT else account


class Groups:
    """The groups known, with the account of each; until names change or an account is closed."""

    def __init__(self) -> None:
        self._theres = Numbered()  # kinds of remotes, with judgements
        self._shared: list[int] = []  # by number in ``_theres``: the first that looks the same
        self._first: dict[tuple[str, int], int] = {}  # by scope and judgement
        self._groups = np.zeros(0, np.int64)  # ascending
        self._accounts = np.zeros(0, np.int64)  # of each

    def pack(
        self,
        here: Numbers,
        there: tuple[Numbers, Numbers],
        late: NDArray[np.bool_],
        key: NDArray[np.void],
        began: NDArray[np.uint8],
    ) -> Numbers:
        """The groups of connections; ``there`` are kinds of remotes, and judgements. (n,)"""
        numbers = self._theres.of(there[0] << _JUDGEMENT_BITS | there[1])
        port = server_port(began, key["local_port"], key["remote_port"]) - _LOWEST_PORT
        packed: Numbers = (
            here << _HERE_SHIFT
            | numbers << _THERE_SHIFT
            | late.astype(np.int64) << _LATE_SHIFT
            | port << _PROTOCOL_BITS
            | key["protocol"]
        )
        return packed

    def there(self, number: int) -> tuple[int, int]:
        """The kind of remote and the judgement that are packed as a number."""
        return divmod(self._theres.values[number], 1 << _JUDGEMENT_BITS)

    def accounts(self, groups: Numbers) -> Numbers:
        """The accounts of known groups. (n,)"""
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
        """New groups with those beyond their endpoint's share replaced by what stands for many,
        and how many were. (n,)
        """
        if len(groups) <= min(shares.most, shares.by_peer):
            return groups, 0
        many = beyond(groups >> _THERE_SHIFT, self._groups >> _THERE_SHIFT, shares.by_peer)
        any_port = groups & ~(_PORT << _PROTOCOL_BITS) | _ANY_PORT << _PROTOCOL_BITS
        different, place = np.unique(np.where(many, any_port, groups), return_inverse=True)
        new = np.flatnonzero(~self.knows(different))
        here = different >> _HERE_SHIFT
        rows = new[beyond(here[new], self._groups >> _HERE_SHIFT, shares.most)]
        there = self._alike(kinds)[different[rows] >> _THERE_SHIFT & _THERE]
        protocol = different[rows] & _PROTOCOL
        different[rows] = (
            here[rows] << _HERE_SHIFT
            | there << _THERE_SHIFT
            | different[rows] & 1 << _LATE_SHIFT
            | _ANY_PEER << _PROTOCOL_BITS
            | np.where(_IS_SHOWN[protocol], protocol, MANY_PROTOCOLS)
        )
        return different[place.ravel()], int(np.count_nonzero(many)) + len(rows)

    def _alike(self, kinds: list[PeerKind]) -> Numbers:
        """By number in ``_theres``: the first one of the same scope and judgement. (n,)"""
        for number in range(len(self._shared), len(self._theres.values)):
            kind, judgement = self.there(number)
            known = (kinds[kind].peer.scope, judgement)
            self._shared.append(self._first.setdefault(known, number))
        return np.array(self._shared, np.int64)
