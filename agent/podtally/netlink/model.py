# SPDX-License-Identifier: Apache-2.0
"""The values of this package: links, counters, and the events the agent drains each epoch."""

import enum
from typing import NamedTuple, Protocol

# A counter without a known last value: see Gone.
UNKNOWN = -1


class Role(enum.StrEnum):
    """The kind of an interface: the host's end of a pod's pair, or an uplink of the host itself."""

    POD = "pod"
    HOST = "host"


class Hook(enum.StrEnum):
    """The two tc hooks, as the interface sees them."""

    INGRESS = "ingress"
    EGRESS = "egress"


class Mode(enum.StrEnum):
    """How a program gets onto a hook."""

    TCX = "tcx"
    CLSACT = "clsact"


XDP = "xdp"  # where others' programs may be, and never ours

# What arrives on the host's end of a pair is what the pod sent; what arrives on an
# uplink is for the host.
PROGRAMS = {
    (Role.POD, Hook.INGRESS): "from_pod",
    (Role.POD, Hook.EGRESS): "to_pod",
    (Role.HOST, Hook.INGRESS): "to_host",
    (Role.HOST, Hook.EGRESS): "from_host",
}


class Counters(NamedTuple):
    """Bytes as the endpoint behind the interface sees them."""

    from_endpoint: int
    to_endpoint: int


class Frames(NamedTuple):
    """Cumulative counts of frames, as the interface sees them (struct rtnl_link_stats64)."""

    rx: int = 0
    tx: int = 0
    rx_dropped: int = 0  # counted as received, and dropped before a program saw them, at most
    tx_dropped: int = 0  # not counted as sent


class Link(NamedTuple):
    """One interface, as one netlink message describes it."""

    ifindex: int
    name: str
    kind: str  # IFLA_INFO_KIND; "" where it has none
    peer_ifindex: int  # IFLA_LINK: the other end of a pair, or the device below; 0 for none
    peer_nsid: int  # IFLA_LINK_NETNSID; -1 for none, or the same namespace
    ethernet: bool
    rx_bytes: int
    tx_bytes: int
    up: bool
    frames: Frames = Frames()
    qdisc: str = ""  # the kind at its root; "noqueue" where nothing can wait
    largest: int = 0  # bytes of the largest frame that a tc program can see on it
    xdp: int = 0  # the program at XDP, which sees its frames first
    master: int = 0  # the bridge that it is a port of, or what else holds it; 0 for none
    moved: bool = False  # it continues in another network namespace

    def counters(self, role: Role) -> Counters:
        """Turn the interface's own counters to the endpoint's view."""
        if role is Role.POD:
            return Counters(self.rx_bytes, self.tx_bytes)
        return Counters(self.tx_bytes, self.rx_bytes)


class Attachment(NamedTuple):
    """One of our programs on a hook."""

    ifindex: int
    hook: Hook
    mode: Mode
    prog_id: int


class ForeignProgram(NamedTuple):
    """Another owner's program on a hook; ``prog_id`` is 0 for a filter that is no BPF program."""

    ifindex: int
    hook: Hook
    mode: str  # a Mode, or XDP
    name: str
    prog_id: int
    before_ours: bool


class Appeared(NamedTuple):
    """An interface to be watched; put before the attaching begins, so no flow can precede it.

    ``low`` is the oldest reading known. ``netns`` is the name of the endpoint's
    namespace under /run/netns, "" if it has none. ``at_ns`` is CLOCK_MONOTONIC.
    """

    link: Link
    role: Role
    netns: str
    low: Counters
    at_ns: int


class Attached(NamedTuple):
    """Our programs are on both hooks; ``high`` was read right after.

    ``fresh`` is False when ours, or an older one replaced in place, was on both
    hooks already: then counting was never interrupted.
    """

    ifindex: int
    mode: Mode
    fresh: bool
    high: Counters


class Detached(NamedTuple):
    """Our programs were removed from an interface that still exists; Attached follows."""

    ifindex: int
    name: str


class AttachFailed(NamedTuple):
    """An interface that exists could not be watched; tried again when it next changes."""

    ifindex: int
    name: str
    reason: str


class AddressesChanged(NamedTuple):
    """All addresses of the endpoint's namespace but those of loopback, 16 bytes each.

    IPv4 is written ::ffff:a.b.c.d. For Role.HOST the namespace is the host's own.
    ``at_ns`` is CLOCK_MONOTONIC, when the message came. ``routed`` are those that this host routes
    to the interface (None: it is not asked): a process in the namespace may give it any address,
    and more of them than are reported here (``excess``). ``on_link`` are those of the
    interface's own other end, which must be routed here or are wrong.
    """

    ifindex: int
    addresses: tuple[bytes, ...]
    at_ns: int
    routed: frozenset[bytes] | None = None
    on_link: frozenset[bytes] = frozenset()
    excess: int = 0


class Renamed(NamedTuple):
    ifindex: int
    name: str


class NetnsNamed(NamedTuple):
    """The namespace behind a watched interface got its name after the interface appeared."""

    ifindex: int
    netns: str


class Gone(NamedTuple):
    """A watched interface is no more.

    ``final`` comes from the kernel's final message, after the last packet; None
    if that was missed. A field is UNKNOWN where the message does not say: the two ends
    of a veth count for each other and are separated before the message
    (``veth_dellink()`` in drivers/net/veth.c), so what a pod sent is known only if its
    own end could be seen closing, and it cannot once its namespace is dying.
    """

    ifindex: int
    final: Counters | None
    at_ns: int
    frames: Frames | None = None  # of the same message
    moved: bool = False  # to another network namespace, so it continues elsewhere


Event = (
    Appeared | Attached | Detached | AttachFailed | AddressesChanged | Renamed | NetnsNamed | Gone
)


class Sink(Protocol):
    """Where events are put; it must take them from any thread, and without waiting."""

    def put(self, event: Event) -> None: ...
