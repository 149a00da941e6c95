# SPDX-License-Identifier: Apache-2.0
"""Selects the interfaces to watch, and their roles; pure."""

from collections.abc import Callable, Collection, Iterable
from fnmatch import fnmatchcase

from podtally.attach.surroundings import Surroundings, surroundings
from podtally.netlink.model import Link, Role

_PAIRS = ("veth", "netkit")
# Devices that stand on others: what crosses them crosses those as well, and would be counted
# twice. They count what they take in, or send, without the Ethernet header that the hook sees
# (br_pass_frame_up() in net/bridge/br_input.c, vxlan_rcv(), ip_tunnel_rcv()), so their books
# could not close.
_TUNNELS = ("vxlan", "geneve", "gretap", "ip6gretap", "erspan", "ip6erspan", "l2tpeth", "batadv")
_NEVER = ("bridge", "vrf", "ifb", "nlmon", *_TUNNELS)
# Their counters are the sums of their ports', which take in frames that never reach the device
# (bond_handle_frame() in drivers/net/bonding/bond_main.c: LACP, duplicates on a backup port), so
# the ports are watched in their place.
_BONDS = ("bond", "team")
_LOOPBACK = "lo"
_GLOB = frozenset("*?[")

Wanted = Callable[[Link, Surroundings], Role | None]


def pod_interfaces(pattern: str | None) -> Wanted:
    """Choose by ``--interfaces``: comma-separated shell globs on the name, ``!glob`` excludes.

    Without a glob to include: every pair with its other end in another namespace, as a
    pod's. With one: every Ethernet interface it matches; what is no pair is the host's
    own. Loopback, bridges, tunnels and links without Ethernet headers are never watched
    (``refusals`` says so). A bond is watched on its ports; what stands on a watched interface
    (a VLAN on its uplink) is not watched again. A pair that is an uplink, or below one, is the
    host's own as well: a node may be a container itself.
    """
    included, excluded = _globs(pattern)

    def named(link: Link, host: Surroundings) -> bool:
        if _matches(link.name, excluded):
            return False
        if not included or _matches(link.name, included):
            return True
        master = host.link(link.master) if link.master else None
        return master is not None and master.kind in _BONDS and _matches(master.name, included)

    def role(link: Link, host: Surroundings) -> Role | None:
        if not link.ethernet or link.kind in (*_NEVER, *_BONDS) or not named(link, host):
            return None
        if link.kind in _PAIRS:
            if link.peer_nsid < 0:  # a pair with both ends here is about to be parted
                return None
            if not host.leads_out(link):
                return Role.POD
        return Role.HOST if included and _watched_below(link, host, role) is None else None

    return role


def refusals(pattern: str | None, links: Iterable[Link]) -> list[str]:
    """Say for each interface that ``--interfaces`` names why it cannot be watched, if so.

    A name that matches nothing is among them; a glob may have to wait for its interfaces.
    """
    included, excluded = _globs(pattern)
    links = [link for link in links if not _matches(link.name, excluded)]
    named = [link for link in links if _matches(link.name, included) and link.name != _LOOPBACK]
    found = [f"{link.name} cannot be watched: {why}" for link in named if (why := _why_not(link))]
    there = {link.name for link in links}
    absent = [glob for glob in included if not _GLOB & set(glob) and glob not in there]
    return found + [f"there is no interface {name!r}" for name in absent]


def counted_below(pattern: str | None, links: Collection[Link]) -> list[str]:
    """Say for each interface that ``--interfaces`` names on which others its frames are counted."""
    included, excluded = _globs(pattern)
    role, host = pod_interfaces(pattern), surroundings(links, lambda _: ())
    found = []
    for link in links:
        if not _matches(link.name, included) or _matches(link.name, excluded) or _why_not(link):
            continue
        if link.kind in _BONDS:
            ports = [port.name for port in host.ports(link.ifindex) if role(port, host)]
            on = f"its ports {', '.join(ports)}" if ports else "its ports, of which none is watched"
            found.append(f"{link.name} is counted on {on}")
        elif (below := _watched_below(link, host, role)) is not None:
            found.append(f"{link.name} is not watched: {below.name} below it counts its frames")
    return found


def _watched_below(link: Link, host: Surroundings, role: Wanted) -> Link | None:
    """Return an interface that is watched, and that what crosses ``link`` crosses as well."""
    for lower in host.below(link):
        chosen = lower if role(lower, host) is Role.HOST else _watched_below(lower, host, role)
        if chosen is not None:
            return chosen
    return None


def _why_not(link: Link) -> str:
    """Return why an interface is never watched; "" for one that is, or may be."""
    if link.kind == "bridge":
        return "it is a bridge; name its ports, or the interface below"
    if link.kind == "vrf":
        return "it is a VRF; name the interfaces in it"
    if link.kind in _TUNNELS:
        return f"it is a tunnel ({link.kind}); name the interface that it goes out by"
    if link.kind in _NEVER:
        return f"it is of kind {link.kind}, which carries copies"
    if not link.ethernet:
        return f"its frames have no Ethernet header{f' (kind {link.kind})' if link.kind else ''}"
    return ""


def _globs(pattern: str | None) -> tuple[list[str], list[str]]:
    """Return what to include, and what to exclude."""
    globs = [glob for part in (pattern or "").split(",") if (glob := part.strip())]
    excluded = [glob[1:] for glob in globs if glob.startswith("!")]
    return [glob for glob in globs if not glob.startswith("!")], excluded


def _matches(name: str, globs: list[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)
