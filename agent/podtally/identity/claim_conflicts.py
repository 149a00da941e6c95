# SPDX-License-Identifier: Apache-2.0
"""Counts, by endpoint, the addresses that it configures and that are another's."""

import logging
from collections.abc import Iterable, Set

import numpy as np

from podtally.identity.address_claims import SETTLED_NS, has_known_owner, unrouted_addresses
from podtally.identity.cluster.state import ClusterState
from podtally.identity.interface_endpoints import InterfaceEndpoint, address_number, address_text
from podtally.identity.model import FOREVER
from podtally.identity.name_table import Names

log = logging.getLogger(__name__)

_WORD = (1 << 64) - 1

ConflictCounts = dict[tuple[str, str], int]  # by namespace and workload


class ClaimConflicts:
    """Reports each interface once in the log, when it begins to contradict others."""

    def __init__(self) -> None:
        self._reported: set[int] = set()

    def count(
        self,
        residents: Iterable[InterfaceEndpoint],
        names: Names,
        cluster: ClusterState | None,
        now_ns: int,
    ) -> ConflictCounts:
        found: ConflictCounts = {}
        behind = [each for each in residents if not (each.host or each.gone_ns)]
        first = _first_holders(behind)
        contradicting = set()
        for resident in behind:
            others = _of_others(resident, names, cluster, now_ns)
            others += _disputed(resident, first, names, now_ns)
            count = len(others) + resident.excess
            if not count:
                continue
            endpoint = names.endpoint(resident.ifindex)
            key = (endpoint.namespace, endpoint.workload)
            found[key] = found.get(key, 0) + count
            contradicting.add(resident.ifindex)
            if resident.ifindex not in self._reported:
                self._report(resident, names, others, count)
        self._reported = contradicting
        return found

    def _report(
        self, resident: InterfaceEndpoint, names: Names, others: list[int], count: int
    ) -> None:
        endpoint = names.endpoint(resident.ifindex)
        first = address_text(others[0].to_bytes(16, "big")) if others else "more than it can need"
        log.warning(
            "%s/%s (%s) configures addresses that are not its own: %s, %d in all; they are not "
            "believed",
            endpoint.namespace,
            endpoint.name,
            resident.interface,
            first,
            count,
        )


def _of_others(
    resident: InterfaceEndpoint, names: Names, cluster: ClusterState | None, now_ns: int
) -> list[int]:
    """Addresses that are routed elsewhere, and known to be somebody's there."""
    if all(held.routed for held in resident.addresses):
        return []
    told: Set[int] = frozenset()
    if cluster is not None and resident.found is not None:
        told = cluster.addresses_of_pod(resident.found.name)
    suspects = unrouted_addresses(resident, told, now_ns)
    owners = _look_up(names, suspects, now_ns)
    return [
        address
        for address, owner in zip(suspects, owners, strict=True)
        if has_known_owner(names.owners[owner])
    ]


def _first_holders(residents: list[InterfaceEndpoint]) -> dict[str, int]:
    """Since when somebody has each address that endpoints have now."""
    first: dict[str, int] = {}
    for resident in residents:
        for held in resident.addresses:
            if held.until_ns == FOREVER and held.routed:
                first[held.address] = min(held.from_ns, first.get(held.address, FOREVER))
    return first


def _disputed(
    resident: InterfaceEndpoint, first: dict[str, int], names: Names, now_ns: int
) -> list[int]:
    """Addresses that another had before, and still has."""
    later = [
        address_number(held.address)
        for held in resident.addresses
        if held.until_ns == FOREVER and held.routed and held.from_ns > first[held.address]
        if now_ns >= held.from_ns + SETTLED_NS
    ]
    owners = (names.owners[owner] for owner in _look_up(names, later, now_ns))
    mine = names.endpoint(resident.ifindex)
    return [
        address
        for address, owner in zip(later, owners, strict=True)
        if (owner.namespace, owner.name) != (mine.namespace, mine.name)
    ]


def _look_up(names: Names, addresses: list[int], now_ns: int) -> list[int]:
    if not addresses:
        return []
    high = np.array([address >> 64 for address in addresses], np.uint64)
    low = np.array([address & _WORD for address in addresses], np.uint64)
    owners: list[int] = names.look_up(high, low, np.full(len(addresses), now_ns)).tolist()
    return owners
