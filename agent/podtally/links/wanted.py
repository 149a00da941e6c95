"""Which interfaces are to be watched, and in which role; pure."""

from collections.abc import Callable, Collection
from fnmatch import fnmatchcase

from podtally.links.model import Link, Role

_PAIRS = ("veth", "netkit")
# A bridge sees what its ports see, and counts what it takes in without the Ethernet
# header (br_pass_frame_up() in net/bridge/br_input.c): its books could not close.
_NEVER = ("bridge",)


Uplinks = Callable[[], Collection[int]]  # ifindexes through which the host reaches the world
Wanted = Callable[[Link, Uplinks], Role | None]


def pod_interfaces(pattern: str | None) -> Wanted:
    """Choose by ``--interfaces``: comma-separated shell globs on the name, ``!glob`` excludes.

    Without a glob to include: every pair whose other end is in another namespace, as a
    pod's. With one: every Ethernet interface it matches; what is no pair is the host's
    own. Loopback, bridges and tunnels without Ethernet headers are never watched. A pair
    that is an uplink is the host's own as well: a node may be a container itself.
    """
    globs = [glob for part in (pattern or "").split(",") if (glob := part.strip())]
    excluded = [glob[1:] for glob in globs if glob.startswith("!")]
    included = [glob for glob in globs if not glob.startswith("!")]

    def role(link: Link, uplinks: Uplinks) -> Role | None:
        if not link.ethernet or link.kind in _NEVER or _matches(link.name, excluded):
            return None
        if included and not _matches(link.name, included):
            return None
        if link.kind in _PAIRS:
            if link.peer_nsid < 0:  # a pair with both ends here is about to be parted
                return None
            if link.ifindex not in uplinks():
                return Role.POD
        return Role.HOST if included else None

    return role


def _matches(name: str, globs: list[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)
