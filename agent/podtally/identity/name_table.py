# SPDX-License-Identifier: Apache-2.0
"""The immutable table of names for flows; every change makes a new table."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from podtally.identity.addresses import AddressTable
from podtally.identity.model import INTERNET, PRIVATE, UNKNOWN, UNKNOWN_ENDPOINT, Endpoint, Owner
from podtally.identity.networks import Prefix, PrefixTable, parse_prefix

# RFC 1918, RFC 6598, RFC 4193: not routed on the internet.
PRIVATE_NETWORKS = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")

# Special addresses (RFC 6890, RFC 5771, RFC 4291); the clouds' metadata service has a name
# since alerts refer to it.
WELL_KNOWN = {
    "loopback": ("127.0.0.0/8", "::1/128"),
    "link-local": ("169.254.0.0/16", "fe80::/10"),
    "metadata": ("169.254.169.254/32", "fd00:ec2::254/128"),
    "multicast": ("224.0.0.0/4", "ff00::/8"),
    "broadcast": ("255.255.255.255/32",),
    "unspecified": ("0.0.0.0/8", "::/128"),
}


UNRESOLVED_POD = Owner(UNKNOWN, "", "", "", "cluster", final=False)
UNRESOLVED = Owner(UNKNOWN, "", "", "", UNKNOWN, final=False)  # may belong to a pod or a Service


@dataclass(frozen=True)
class Networks:
    """Owners of addresses without a claim: named networks, otherwise INTERNET."""

    owners: tuple[Owner, ...]
    ranges: PrefixTable  # its values are indexes into ``owners``


@dataclass(frozen=True)
class Names:
    """Endpoints by interface and by socket, owners by address and time."""

    endpoints: Mapping[int, Endpoint]  # by ifindex
    sockets: Mapping[int, Endpoint]  # by cgroup id: of host sockets
    addresses: AddressTable
    networks: Networks

    @property
    def owners(self) -> Sequence[Owner]:
        """Return the owners of networks and addresses; AddressTable says how long indexes hold."""
        return self.addresses.owners

    def endpoint(self, ifindex: int) -> Endpoint:
        return self.endpoints.get(ifindex, UNKNOWN_ENDPOINT)

    def look_up(
        self, high: NDArray[np.uint64], low: NDArray[np.uint64], at_ns: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return indexes into ``owners`` for addresses as upper and lower halves; all are (n,)."""
        owner = self.addresses.look_up(high, low, at_ns)
        unclaimed = np.flatnonzero(owner < 0)
        owner[unclaimed] = self.networks.ranges.look_up(high[unclaimed], low[unclaimed])
        return owner


def build_networks(
    networks: Mapping[str, tuple[str, ...]],
    pod_networks: Iterable[str] = (),
    cluster_unknown: bool = False,
) -> Networks:
    """Make the networks; configured ones win over built-in ones, narrower over wider ones.

    Addresses of ``pod_networks`` are unresolved until the API reports their pods. With
    ``cluster_unknown`` (pods and Services not listed yet), all private addresses are. ``owners``
    are the same in all cases.
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
    plain = Networks(tuple(owners), PrefixTable(prefixes.values()))
    owners.setdefault(UNRESOLVED_POD, len(owners))
    owners.setdefault(UNRESOLVED, len(owners))
    for text in PRIVATE_NETWORKS if cluster_unknown else ():
        add(text, UNRESOLVED)
    for text in pod_networks:
        add(text, UNRESOLVED_POD)
    for name, texts in networks.items():
        for text in texts:
            add(text, _external(name, _scope(text, plain)))
    return Networks(tuple(owners), PrefixTable(prefixes.values()))


def build_names(
    endpoints: Mapping[int, Endpoint],
    sockets: Mapping[int, Endpoint],
    addresses: AddressTable,
    networks: Networks,
) -> Names:
    """Make a table; claimed addresses win over ``networks``.

    ValueError if the addresses' ClaimBook was not made with the networks' owners.
    """
    if tuple(addresses.owners[: len(networks.owners)]) != networks.owners:
        raise ValueError("the addresses are of a ClaimBook that was not made with networks.owners")
    return Names(dict(endpoints), dict(sockets), addresses, networks)


def _external(name: str, scope: str) -> Owner:
    return Owner("external", "", name, name, scope)


def _scope(network: str, plain: Networks) -> str:
    """Return the scope of a named network: that of its first address without the name."""
    first = parse_prefix(network, 0).first
    halves = (np.array([half], np.uint64) for half in (first >> 64, first & ((1 << 64) - 1)))
    return plain.owners[int(plain.ranges.look_up(*halves)[0])].scope
