# SPDX-License-Identifier: Apache-2.0
"""Joins what TCP sent again to connections, and counts it under their labels.

The kernel reports retransmissions of all network namespaces, by addresses and ports. What joins
no connection is of others, and is dropped; it waits for an epoch, since the packet may be
counted just after it was reported. Only the sender's connection counts it: where
both ends are on this host, that is one of two.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from podtally.kernel.retransmit_map import RETRANSMIT, RetransmitReading
from podtally.ledger.accounts.accounts import AccountTable
from podtally.ledger.accounts.outcome_series import Cells
from podtally.ledger.checkpoint.saved import Saved
from podtally.ledger.connections.connections import TCP, ConnectionColumns
from podtally.ledger.series.label_sets import LostRetransmitLabels
from podtally.ledger.series.series import SeriesTable

MOST_WAITING = 16_384
_TUPLE = np.dtype([("source", "u8", (2,)), ("destination", "u8", (2,)), ("ports", "u2", (2,))])
_BYTES = np.dtype(f"S{_TUPLE.itemsize}")  # can be sorted; of one length, so padding is no matter


class RetransmitBooking:
    """Over the accounts of one ledger; ``waiting`` has no connection with a name yet."""

    def __init__(self, accounts: AccountTable, lost: SeriesTable[LostRetransmitLabels]) -> None:
        self._accounts = accounts
        self._lost = lost
        self._skipped = np.zeros(1, np.int64)  # by the programs that are loaded
        self.waiting = np.zeros(0, RETRANSMIT)
        self._is_new = np.zeros(0, np.bool_)  # since this epoch

    def save(self) -> Saved:
        arrays = {"waiting": self.waiting, "is_new": self._is_new, "skipped": self._skipped}
        return Saved(arrays=arrays)

    def load(self, saved: Saved, now_ns: int) -> None:
        self.waiting, self._is_new = saved.array("waiting"), saved.array("is_new")
        if "skipped" in saved.arrays:
            self._skipped = saved.array("skipped")

    def take(self, given: RetransmitReading, now_ns: int) -> None:
        """Take those of an epoch."""
        before = int(self._skipped[0])
        restarted = given.skipped < before  # by an upgrade: other programs
        self._count_lost("busy", given.skipped - (0 if restarted else before), now_ns)
        self._skipped[0] = given.skipped
        waiting = np.concatenate([self.waiting, given.counted])
        beyond = int(waiting["count"][MOST_WAITING:].sum())
        self._count_lost("share", given.lost + beyond, now_ns)
        self.waiting = waiting[:MOST_WAITING]
        new = np.ones(len(self.waiting) - len(self._is_new), np.bool_)
        self._is_new = np.concatenate([self._is_new, new])

    def _count_lost(self, loss: str, packets: int, now_ns: int) -> None:
        if packets:
            index = self._lost.index_of(LostRetransmitLabels(loss), now_ns)
            self._lost.add(np.array([index]), np.array([[packets]], np.int64), now_ns)

    def settle(self, parts: Sequence[ConnectionColumns], now_ns: int) -> None:
        """Count what joins connections with labels; ``parts`` are all that may have sent."""
        if not len(self.waiting):
            return
        sent = _tuples_of(self.waiting)
        account = _accounts_of(sent, self.waiting["key"], parts)
        known, named = account != _NO_CONNECTION, account >= 0
        named &= ~self._accounts.waiting[np.maximum(account, 0)]
        some = np.flatnonzero(named & self._accounts.outcomes.counted[np.maximum(account, 0)])
        if len(some):
            none = np.zeros(len(some), np.int64)
            cells = Cells(account[some], none, none)
            amounts = self.waiting["count"][some].reshape(-1, 1)
            self._accounts.outcomes.retransmits.add(cells, amounts, now_ns)
        stays = ~named & (known | self._is_new)
        self.waiting = self.waiting[stays]
        self._is_new = np.zeros(len(self.waiting), np.bool_)


_NO_CONNECTION = -2  # beside UNNAMED


def _tuples_of(retransmits: NDArray[np.void]) -> NDArray[np.bytes_]:
    key = retransmits["key"]
    found = np.zeros(len(key), _TUPLE)
    found["source"], found["destination"] = key["source"], key["destination"]
    found["ports"][:, 0], found["ports"][:, 1] = key["source_port"], key["destination_port"]
    return found.view(_BYTES)


def _accounts_of(
    sent: NDArray[np.bytes_], keys: NDArray[np.void], parts: Sequence[ConnectionColumns]
) -> NDArray[np.int64]:
    """Return the account of the connection that sent each, the latest of several. (n,)"""
    ports = np.unique(_ports(keys["source_port"], keys["destination_port"]))
    tuples, accounts, times = [], [], []
    for columns in parts:
        key = columns.key
        some = np.flatnonzero(
            np.isin(_ports(key["local_port"], key["remote_port"]), ports) & (key["protocol"] == TCP)
        )
        its = np.zeros(len(some), _TUPLE)
        its["source"] = key["local_address"][some]
        its["destination"] = key["remote_address"][some]
        its["ports"][:, 0], its["ports"][:, 1] = key["local_port"][some], key["remote_port"][some]
        tuples.append(its.view(_BYTES))
        accounts.append(columns.account[some])
        times.append(columns.last_ns[some])
    joined, account = np.concatenate(tuples), np.concatenate(accounts).astype(np.int64)
    order = np.lexsort((np.concatenate(times), joined))
    joined, account = joined[order], account[order]
    found = np.full(len(sent), _NO_CONNECTION, np.int64)
    place = np.searchsorted(joined, sent, side="right") - 1
    match = np.flatnonzero(place >= 0)
    match = match[joined[place[match]] == sent[match]]
    found[match] = account[place[match]]
    return found


def _ports(local: NDArray[np.uint16], remote: NDArray[np.uint16]) -> NDArray[np.uint32]:
    return local.astype(np.uint32) << np.uint32(16) | remote
