# SPDX-License-Identifier: Apache-2.0
"""Finds the addresses of an endpoint's namespace, and which of them this host routes there.

A process in a namespace may configure any address: it is the endpoint's only where this
host sends what is for it to the endpoint's interface, or to the bridge that this is a port
of. On a bridge in which the host has no address the host knows no better than the ports: an
address counts if it is of a network that another port has as well.

Every endpoint's share of the work is bounded: how many addresses are queried, and how much
of a core listing them may take over and over.
"""

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from podtally.netlink.links import AddressMessage
from podtally.netlink.model import Link
from podtally.netlink.namespaces import NOT_ASSIGNED, Namespaces
from podtally.netlink.netlink import Requests
from podtally.netlink.routes import Route, route_to

MAX_ADDRESSES = 64  # of one endpoint
_SHARE = 0.02  # of a core, for listing the addresses of one namespace and their routes
_LINK_LOCAL_IPV6 = b"\xfe\x80"
_MAPPED = bytes(10) + b"\xff\xff"

LinkOf = Callable[[int], Link | None]  # by its ifindex
Networks = frozenset[tuple[int, int]]  # see Address.network


class Had(NamedTuple):
    """Addresses behind one interface, see ``model.AddressesChanged``."""

    addresses: tuple[bytes, ...]
    networks: tuple[tuple[int, int], ...]  # of each
    routed: frozenset[bytes]
    on_link: frozenset[bytes]
    excess: int


class AddressReader:
    """For one thread."""

    def __init__(self, requests: Requests, namespaces: Namespaces) -> None:
        self._requests = requests
        self._namespaces = namespaces
        self._not_before: dict[int, float] = {}  # by nsid, CLOCK_MONOTONIC in seconds
        self._addressed: set[tuple[int, bool]] = set()  # links of this host, and if by IPv4

    def free_at(self, nsid: int) -> float:
        """Return when a namespace's share allows to look again: CLOCK_MONOTONIC, seconds."""
        return self._not_before.get(nsid, 0.0)

    def forget(self, nsid: int) -> None:
        """A namespace has gone, or its id may be another's."""
        self._not_before.pop(nsid, None)

    def read(self, nsid: int) -> list[AddressMessage] | None:
        """Return a namespace's addresses; None when it is gone."""
        began = time.thread_time()
        found = self._namespaces.addresses(nsid)
        self._spend(nsid, began)
        return found

    def _spend(self, nsid: int, began: float) -> None:
        now = time.monotonic()
        cost = time.thread_time() - began
        self._not_before[nsid] = max(now, self.free_at(nsid)) + cost / _SHARE

    def look_at_host(self) -> None:
        """Take in which links of this host have addresses of their own."""
        self._addressed = {
            (each.ifindex, _is_ipv4(each.address))
            for each in self._namespaces.addresses(NOT_ASSIGNED) or ()
            if not each.address.startswith(_LINK_LOCAL_IPV6)
        }

    def had(self, found: list[AddressMessage], link: Link, before: Iterable[bytes]) -> Had:
        """Choose what is looked at of a namespace's addresses: first those known ``before``."""
        there = {each.address: each for each in found}
        chosen = sorted(there)
        if len(chosen) > MAX_ADDRESSES:
            known = dict.fromkeys(address for address in before if address in there)
            chosen = sorted(list(known | dict.fromkeys(chosen))[:MAX_ADDRESSES])
        on_link = frozenset(a for a in chosen if there[a].ifindex == link.peer_ifindex)
        excess = sum(each.ifindex == link.peer_ifindex for each in there.values()) - len(on_link)
        networks = tuple(there[address].network for address in chosen)
        return Had(tuple(chosen), networks, frozenset(), on_link, excess)

    def routed(self, had: Had, link: Link, link_of: LinkOf, beside: Networks) -> frozenset[bytes]:
        """Return which of the addresses this host routes to a link now.

        ``beside`` are the networks of other ports of the same bridge. Addresses of one link
        (fe80::/10) have no route. OSError where the kernel cannot be asked.
        """
        began = time.thread_time()
        try:
            return frozenset(
                address
                for address, network in zip(had.addresses, had.networks, strict=True)
                if address.startswith(_LINK_LOCAL_IPV6)
                or _leads_to(route_to(self._requests, address), link, link_of)
                or (network in beside and not self._is_addressed(link, address, link_of))
            )
        finally:
            self._spend(link.peer_nsid, began)

    def _is_addressed(self, port: Link, address: bytes, link_of: LinkOf) -> bool:
        """Return whether this host has addresses in a port's bridge of the same IP version."""
        ipv4 = _is_ipv4(address)
        return any(
            version == ipv4 and _is_bridge(ifindex, port, link_of)
            for ifindex, version in self._addressed
        )


def _leads_to(route: Route, link: Link, link_of: LinkOf) -> bool:
    """Return whether a route leads to an interface itself, or directly into the bridge it is in."""
    if route.ifindex == link.ifindex:
        return True
    return route.direct and _is_bridge(route.ifindex, link, link_of)


def _is_bridge(ifindex: int, port: Link, link_of: LinkOf) -> bool:
    """Return whether a link is the bridge that another is a port of, or a VLAN of it."""
    if not port.master:
        return False
    link = link_of(ifindex)
    return ifindex == port.master or (
        link is not None and link.kind == "vlan" and link.peer_ifindex == port.master
    )


def _is_ipv4(address: bytes) -> bool:
    return address.startswith(_MAPPED)
