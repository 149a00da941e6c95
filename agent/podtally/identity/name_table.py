# SPDX-License-Identifier: Apache-2.0
"""The immutable table of names that flows are named by; a new one replaces it whole."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from podtally.identity.addresses import AddressTable
from podtally.identity.model import INTERNET, PRIVATE, UNKNOWN, UNKNOWN_ENDPOINT, Endpoint, Owner
from podtally.identity.networks import Prefix, RangeTable, parse_prefix

# RFC 1918, RFC 6598, RFC 4193: not routed on the internet.
PRIVATE_NETWORKS = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")

# Addresses with a meaning of their own (RFC 6890, RFC 5771, RFC 4291); the metadata
# service of the clouds has a name because people are alerted on it.
WELL_KNOWN = {
    "loopback": ("127.0.0.0/8", "::1/128"),
    "link-local": ("169.254.0.0/16", "fe80::/10"),
    "metadata": ("169.254.169.254/32", "fd00:ec2::254/128"),
    "multicast": ("224.0.0.0/4", "ff00::/8"),
    "broadcast": ("255.255.255.255/32",),
    "unspecified": ("0.0.0.0/8", "::/128"),
}


UNRESOLVED_POD = Owner(UNKNOWN, "", "", "", "cluster", final=False)
UNRESOLVED = Owner(UNKNOWN, "", "", "", UNKNOWN, final=False)  # perhaps a pod's or a Service's


@dataclass(frozen=True)
class Networks:
    """Who is behind addresses that nobody claims: networks with a name, then INTERNET."""

    owners: tuple[Owner, ...]
    ranges: RangeTable  # its values are indexes into ``owners``


@dataclass(frozen=True)
class Names:
    """Endpoints by interface and by socket, owners by address and time."""

    endpoints: Mapping[int, Endpoint]  # by ifindex
    sockets: Mapping[int, Endpoint]  # by cgroup id: who is behind a socket of the host
    addresses: AddressTable
    networks: Networks

    @property
    def owners(self) -> Sequence[Owner]:
        """Those of networks and addresses; see AddressTable for how long an index holds."""
        return self.addresses.owners

    def endpoint(self, ifindex: int) -> Endpoint:
        return self.endpoints.get(ifindex, UNKNOWN_ENDPOINT)

    def look_up(
        self, high: NDArray[np.uint64], low: NDArray[np.uint64], at_ns: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Indexes into ``owners`` for addresses as upper and lower halves; all are (n,)."""
        owner = self.addresses.look_up(high, low, at_ns)
        unclaimed = np.flatnonzero(owner < 0)
        owner[unclaimed] = self.networks.ranges.look_up(high[unclaimed], low[unclaimed])
        return owner


def build_networks(
    networks: Mapping[str, tuple[str, ...]],
    pod_networks: Iterable[str] = (),
    cluster_unknown: bool = False,
) -> Networks:
    """Networks by name win over those that are built in, narrower ones over wider ones.

    Who has an address of ``pod_networks`` the API will tell. ``cluster_unknown``: until it has
    told of pods and Services, any private address may be one's. ``owners`` are the same with
    and without them.
    """
    owners: dict[Owner, int] = {INTERNET: 0}
    prefixes: dict[tuple[int, int], Prefix] = {}

    def add(text: str, owner: Owner) -> None:
        entry = parse_prefix(text, owners.setdefault(owner, len(owners)))
        prefixes[entry.first, entry.bits] = entry

    for text in PRIVATE_NETWORKS:
        add(text, PRIVATE)
    for name, texts in WELL_KNOWN.items():
        for text in texts:
            add(text, _external(name, "private"))
    plain = Networks(tuple(owners), RangeTable(prefixes.values()))
    owners.setdefault(UNRESOLVED_POD, len(owners))
    owners.setdefault(UNRESOLVED, len(owners))
    for text in PRIVATE_NETWORKS if cluster_unknown else ():
        add(text, UNRESOLVED)
    for text in pod_networks:
        add(text, UNRESOLVED_POD)
    for name, texts in networks.items():
        for text in texts:
            add(text, _external(name, _scope(text, plain)))
    return Networks(tuple(owners), RangeTable(prefixes.values()))


def build_names(
    endpoints: Mapping[int, Endpoint],
    sockets: Mapping[int, Endpoint],
    addresses: AddressTable,
    networks: Networks,
) -> Names:
    """Put a table together; claimed addresses win over ``networks``.

    ValueError if the addresses' book was not begun with the networks' owners.
    """
    if tuple(addresses.owners[: len(networks.owners)]) != networks.owners:
        raise ValueError("the addresses are of a book that was not made with networks.owners")
    return Names(dict(endpoints), dict(sockets), addresses, networks)


def _external(name: str, scope: str) -> Owner:
    return Owner("external", "", name, name, scope)


def _scope(network: str, plain: Networks) -> str:
    """A named network is as far away as its first address is without the name."""
    first = parse_prefix(network, 0).first
    halves = (np.array([half], np.uint64) for half in (first >> 64, first & ((1 << 64) - 1)))
    return plain.owners[int(plain.ranges.look_up(*halves)[0])].scope
