# SPDX-License-Identifier: Apache-2.0
"""Counts the addresses that endpoints configure although they belong to others."""

import logging
from collections.abc import Iterable, Set

import numpy as np

from podtally.identity.cluster.state import ClusterState
from podtally.identity.interface_endpoints import InterfaceEndpoint, address_number, address_text
from podtally.identity.local.address_claims import SETTLED_NS, has_known_owner, unrouted_addresses
from podtally.identity.model import FOREVER
from podtally.identity.name_table import Names

log = logging.getLogger(__name__)

_WORD = (1 << 64) - 1

ConflictCounts = dict[tuple[str, str], int]  # by namespace and workload


class ClaimConflicts:
    """Counts conflicts, and logs each interface once when its conflicts start."""

    def __init__(self) -> None:
        self._reported: set[int] = set()

    def count(
        self,
        interfaces: Iterable[InterfaceEndpoint],
        names: Names,
        cluster: ClusterState | None,
        now_ns: int,
    ) -> ConflictCounts:
        found: ConflictCounts = {}
        behind = [each for each in interfaces if not (each.host or each.gone_ns)]
        first = _first_holders(behind)
        conflicting = set()
        for interface in behind:
            others = _of_others(interface, names, cluster, now_ns)
            others += _disputed(interface, first, names, now_ns)
            count = len(others) + interface.excess
            if not count:
                continue
            endpoint = names.endpoint(interface.ifindex)
            key = (endpoint.namespace, endpoint.workload)
            found[key] = found.get(key, 0) + count
            conflicting.add(interface.ifindex)
            if interface.ifindex not in self._reported:
                self._report(interface, names, others, count)
        self._reported = conflicting
        return found

    def _report(
        self, interface: InterfaceEndpoint, names: Names, others: list[int], count: int
    ) -> None:
        endpoint = names.endpoint(interface.ifindex)
        first = address_text(others[0].to_bytes(16, "big")) if others else "too many addresses"
        log.warning(
            "%s/%s (%s) configures addresses that are not its own: %s, %d in all; they are ignored",
            endpoint.namespace,
            endpoint.name,
            interface.interface,
            first,
            count,
        )


def _of_others(
    interface: InterfaceEndpoint, names: Names, cluster: ClusterState | None, now_ns: int
) -> list[int]:
    """Return addresses that are routed elsewhere and have a known owner there."""
    if all(span.routed for span in interface.addresses):
        return []
    confirmed: Set[int] = frozenset()
    if cluster is not None and interface.owner is not None:
        confirmed = cluster.addresses_of_pod(interface.owner.name)
    suspects = unrouted_addresses(interface, confirmed, now_ns)
    owners = _look_up(names, suspects, now_ns)
    return [
        address
        for address, owner in zip(suspects, owners, strict=True)
        if has_known_owner(names.owners[owner])
    ]


def _first_holders(interfaces: list[InterfaceEndpoint]) -> dict[str, int]:
    """Return since when each present address of endpoints has had a holder."""
    first: dict[str, int] = {}
    for interface in interfaces:
        for span in interface.addresses:
            if span.until_ns == FOREVER and span.routed:
                first[span.address] = min(span.from_ns, first.get(span.address, FOREVER))
    return first


def _disputed(
    interface: InterfaceEndpoint, first: dict[str, int], names: Names, now_ns: int
) -> list[int]:
    """Return addresses that another endpoint had before, and still has."""
    later = [
        address_number(span.address)
        for span in interface.addresses
        if span.until_ns == FOREVER and span.routed and span.from_ns > first[span.address]
        if now_ns >= span.from_ns + SETTLED_NS
    ]
    owners = (names.owners[owner] for owner in _look_up(names, later, now_ns))
    own = names.endpoint(interface.ifindex)
    return [
        address
        for address, owner in zip(later, owners, strict=True)
        if (owner.namespace, owner.name) != (own.namespace, own.name)
    ]


def _look_up(names: Names, addresses: list[int], now_ns: int) -> list[int]:
    if not addresses:
        return []
    high = np.array([address >> 64 for address in addresses], np.uint64)
    low = np.array([address & _WORD for address in addresses], np.uint64)
    owners: list[int] = names.look_up(high, low, np.full(len(addresses), now_ns)).tolist()
    return owners
