# SPDX-License-Identifier: Apache-2.0
"""Find which connections are of the endpoint behind their interface, by the addresses it has.

A packet to another address was flooded by a bridge: it is not this endpoint's traffic. A packet
from another address was forged, or forwarded: it is no evidence about this endpoint. Where the
endpoint's addresses of a family are unknown, all addresses of that family count as its own.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.identity.model import UNKNOWN, Endpoint, Owner
from podtally.identity.name_table import Names

OWN, FLOODED, GROUP, FOREIGN = 0, 1, 2, 3  # kinds of connections, by their local address

_MAPPED = 0xFFFF  # the upper half of the lower word of an IPv4 address, ::ffff:0:0/96
_GROUP4, _GROUP6 = 14, 0xFF  # 224.0.0.0/4; ff00::/8
_BROADCAST4 = 0xFFFFFFFF
_LINK_LOCAL4, _LINK_LOCAL6 = 169 << 8 | 254, 0xFE80 >> 6  # 169.254.0.0/16, fe80::/10
_DISPUTED = -2  # the owner of an address that two claim
_OTHER = -1  # no pod


class OwnershipInput(NamedTuple):
    """Connections of pods; index i of every array is the same one."""

    endpoint: NDArray[np.int64]  # by ``Ownership.number``
    address: NDArray[np.uint64]  # (n, 2), the local one, in network order
    at_ns: NDArray[np.int64]
    sent: NDArray[np.int64]  # packets from the endpoint


class Ownership:
    """Numbers the pods in one table of names, and remembers which addresses are known."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._owners: Sequence[Owner] = ()
        self._addresses: object = None
        self._of_owner = np.zeros(0, np.int64)
        self._known = np.zeros((0, 3), np.bool_)  # by endpoint and ``_families``

    def number(self, endpoint: Endpoint) -> int:
        return self._number(endpoint.uid or (endpoint.namespace, endpoint.name))

    def learn(self, names: Names) -> None:
        """Update to a table of names; costs nothing if it is unchanged."""
        if self._owners is not names.owners:
            self._owners, self._of_owner = names.owners, np.zeros(0, np.int64)
            self._numbers, self._addresses = {}, None
        fresh = names.owners[len(self._of_owner) :]
        if len(fresh):
            self._of_owner = np.append(
                self._of_owner, [self._number_of_owner(each) for each in fresh]
            )
        if self._addresses is not names.addresses:
            self._addresses = names.addresses
            rows = names.addresses.rows.take(slice(-1))
            self._known = np.zeros((len(self._numbers), 3), np.bool_)
            endpoint = self._of_owner[rows.owner]
            claimed = endpoint >= 0
            self._known[endpoint[claimed], _families(rows.high, rows.low)[claimed]] = True

    def kinds(self, given: OwnershipInput, names: Names, now_ns: int) -> NDArray[np.int8]:
        """Return OWN, FLOODED, GROUP or FOREIGN for each. (n,)"""
        high, low = given.address.byteswap().T
        kinds = np.full(len(high), OWN, np.int8)
        silent = given.sent == 0
        kinds[silent & _is_group(high, low)] = GROUP
        # Most local addresses are the endpoint's own: one look-up decides.
        rows = np.flatnonzero((kinds == OWN) & self._are_known(given.endpoint, high, low))
        for at_ns in (given.at_ns, np.full(len(high), now_ns)):  # or since then
            if not len(rows):
                return kinds
            owner = self._of_owner[names.look_up(high[rows], low[rows], at_ns[rows])]
            rows = rows[(owner != given.endpoint[rows]) & (owner != _DISPUTED)]
        flooded = silent[rows]
        kinds[rows[flooded]] = FLOODED
        sources = rows[~flooded]
        kinds[sources[~_is_unassigned(high[sources], low[sources])]] = FOREIGN
        return kinds

    def _are_known(
        self, endpoint: NDArray[np.int64], high: NDArray[np.uint64], low: NDArray[np.uint64]
    ) -> NDArray[np.bool_]:
        inside = endpoint < len(self._known)
        known = np.zeros(len(endpoint), np.bool_)
        known[inside] = self._known[endpoint[inside], _families(high, low)[inside]]
        return known

    def _number(self, key: Hashable) -> int:
        return self._numbers.setdefault(key, len(self._numbers))

    def _number_of_owner(self, owner: Owner) -> int:
        if owner.kind == "pod":
            return self._number(owner.uid or (owner.namespace, owner.name))
        disputed = owner.kind == UNKNOWN and owner.scope == UNKNOWN
        return _DISPUTED if disputed else _OTHER


def is_unicast(address: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which addresses (n, 2), in network order, belong to one host. (n,)"""
    high, low = address.byteswap().T
    return ~(_is_group(high, low) | _is_unassigned(high, low))


def _is_ipv4(high: NDArray[np.uint64], low: NDArray[np.uint64]) -> NDArray[np.bool_]:
    is_ipv4: NDArray[np.bool_] = (high == 0) & (low >> np.uint64(32) == _MAPPED)
    return is_ipv4


def _families(high: NDArray[np.uint64], low: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return 0 for IPv6, 1 for IPv4, 2 for link-local IPv6, a family of its own. (n,)"""
    six = np.where(high >> np.uint64(54) == _LINK_LOCAL6, 2, 0)
    return np.where(_is_ipv4(high, low), 1, six).astype(np.int64)


def _is_group(high: NDArray[np.uint64], low: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which are multicast or broadcast addresses. (n,)"""
    last = low & np.uint64(_BROADCAST4)
    four = _is_ipv4(high, low) & ((last >> np.uint64(28) == _GROUP4) | (last == _BROADCAST4))
    is_group: NDArray[np.bool_] = four | (high >> np.uint64(56) == _GROUP6)
    return is_group


def _is_unassigned(high: NDArray[np.uint64], low: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which are unspecified or link-local addresses. (n,)"""
    ipv4 = _is_ipv4(high, low)
    last = low & np.uint64(0xFFFFFFFF)
    four = ipv4 & ((last == 0) | (last >> np.uint64(16) == _LINK_LOCAL4))
    six = (high | low == 0) | (high >> np.uint64(54) == _LINK_LOCAL6)
    unassigned: NDArray[np.bool_] = four | (~ipv4 & six)
    return unassigned
