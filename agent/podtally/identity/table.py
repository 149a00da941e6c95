"""The immutable table of names that flows are named by; a new one replaces it whole."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from podtally.identity.model import INTERNET, NOBODY, PRIVATE, Endpoint, Peer
from podtally.identity.ranges import Prefix, RangeTable, prefix

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


@dataclass(frozen=True)
class Names:
    """Endpoints by interface, peers by address."""

    endpoints: Mapping[int, Endpoint]  # by ifindex
    peers: tuple[Peer, ...]
    ranges: RangeTable

    def endpoint(self, ifindex: int) -> Endpoint:
        return self.endpoints.get(ifindex, NOBODY)

    def look_up(self, high: NDArray[np.uint64], low: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Indexes into ``peers`` for addresses as upper and lower halves, both (n,)."""
        return self.ranges.look_up(high, low)


def build(
    endpoints: Mapping[int, Endpoint],
    addresses: Iterable[tuple[str, Peer]],
    networks: Mapping[str, tuple[str, ...]],
) -> Names:
    """Make a table; ``addresses`` win over ``networks``, those over what is built in."""
    peers: dict[Peer, int] = {INTERNET: 0}
    prefixes: dict[tuple[int, int], Prefix] = {}

    def add(text: str, peer: Peer) -> None:
        entry = prefix(text, peers.setdefault(peer, len(peers)))
        prefixes[entry.first, entry.bits] = entry

    for text in PRIVATE_NETWORKS:
        add(text, PRIVATE)
    for name, texts in WELL_KNOWN.items():
        for text in texts:
            add(text, Peer("external", "", name, "private"))
    plain = RangeTable(prefixes.values())
    for name, texts in networks.items():
        for text in texts:
            add(text, Peer("external", "", name, _scope(text, plain, tuple(peers))))
    for text, peer in addresses:
        add(text, peer)
    return Names(dict(endpoints), tuple(peers), RangeTable(prefixes.values()))


def _scope(network: str, plain: RangeTable, peers: tuple[Peer, ...]) -> str:
    """A named network is as far away as its first address is without the name."""
    first = prefix(network, 0).first
    halves = (np.array([half], np.uint64) for half in (first >> 64, first & ((1 << 64) - 1)))
    return peers[int(plain.look_up(*halves)[0])].scope
