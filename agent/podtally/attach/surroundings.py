# SPDX-License-Identifier: Apache-2.0
"""How a host's interfaces stand on each other; pure."""

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from podtally.netlink.model import Link

_OF_PORTS = ("bond", "team", "bridge")
_PAIRS = ("veth", "netkit")

Uplinks = Callable[[int], Collection[int]]


class Surroundings(NamedTuple):
    """What else a host has; asked only where it matters.

    ``uplinks`` are the ifindexes through which the host, or a VRF of it, reaches the world;
    ``ports`` those of a bond, a bridge.
    """

    uplinks: Uplinks  # of a VRF's ifindex; 0: of the host
    link: Callable[[int], Link | None]
    ports: Callable[[int], list[Link]]

    def below(self, link: Link) -> list[Link]:
        """Return what an interface stands on: its ports, or the device that it was made on."""
        if link.kind in _OF_PORTS:
            return self.ports(link.ifindex)
        if link.kind in _PAIRS or link.peer_nsid >= 0 or not link.peer_ifindex:
            return []
        lower = self.link(link.peer_ifindex)
        return [lower] if lower is not None and lower.ifindex != link.ifindex else []

    def leads_out(self, link: Link) -> bool:
        """Say whether an interface is an uplink, or an uplink stands on it (a bond, a VLAN)."""
        master = self.link(link.master) if link.master else None
        of_vrf = master.ifindex if master is not None and master.kind == "vrf" else 0
        own = {link.ifindex}
        if master is not None and master.kind in ("bond", "team"):
            own.add(master.ifindex)
        return any(self._stands_on(uplink, own) for uplink in self.uplinks(of_vrf))

    def _stands_on(self, ifindex: int, lowers: Collection[int]) -> bool:
        while ifindex not in lowers:
            link = self.link(ifindex)
            if link is None or link.kind in (*_PAIRS, *_OF_PORTS) or link.peer_nsid >= 0:
                return False
            if link.peer_ifindex in (0, ifindex):
                return False
            ifindex = link.peer_ifindex
        return True


def surroundings(links: Iterable[Link], uplinks: Uplinks) -> Surroundings:
    """Return the surroundings that a full list of links is."""
    known = {link.ifindex: link for link in links}
    return Surroundings(
        uplinks,
        known.get,
        lambda master: [link for link in known.values() if link.master == master],
    )
