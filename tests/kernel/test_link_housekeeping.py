# SPDX-License-Identifier: Apache-2.0
"""bpf/link.h: what hosts say to keep a link going is `other`, and nothing else passes for it."""

import pytest

from podtally.kernel.pins import PROGRAMS
from tests.kernel.driver import FROM, NOTHING, OTHER, TO, Account, Kernel
from tests.kernel.link_frames import FROM_ROUTERS, HOUSEKEEPING, LOOKALIKES
from tests.kernel.packets import (
    BROADCAST_MAC,
    GROUP_MAC,
    ICMP,
    ICMPV6,
    MAC,
    TCP,
    TYPE_8021AD,
    UDP,
    ipv4,
    ipv6,
    ipv6_with,
    ports,
    tcp,
    to_mac,
    vlan,
)

DIRECTION = {"from_pod": FROM, "to_pod": TO, "from_host": FROM, "to_host": TO}
TIMES = 23
ROUTED = ("to_pod", "from_host", "to_host")  # where routers and servers may be


def tagged(frames: dict[str, bytes]) -> dict[str, bytes]:
    """The same frames behind VLAN tags."""
    once = {f"802.1Q {name}": vlan(frame) for name, frame in frames.items()}
    twice = {f"two tags {name}": vlan(vlan(each), TYPE_8021AD) for name, each in frames.items()}
    return once | twice


def is_other(kernel: Kernel, program: str, frame: bytes) -> bool:
    kernel.send(program, frame, TIMES)
    entries = kernel.entries()
    booked = kernel.account(DIRECTION[program], OTHER)
    assert (booked == Account(TIMES * len(frame), TIMES) and not entries) or (
        booked == NOTHING and len(entries) == 1
    )
    return not entries


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("name", HOUSEKEEPING)
def test_housekeeping_is_no_flow(kernel: Kernel, program: str, name: str) -> None:
    assert is_other(kernel, program, HOUSEKEEPING[name])


@pytest.mark.parametrize("name", tagged(HOUSEKEEPING))
def test_nor_is_it_behind_tags(kernel: Kernel, name: str) -> None:
    assert is_other(kernel, "from_pod", tagged(HOUSEKEEPING)[name])


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("name", FROM_ROUTERS)
def test_a_pod_is_no_router(kernel: Kernel, program: str, name: str) -> None:
    assert is_other(kernel, program, FROM_ROUTERS[name]) == (program in ROUTED)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("name", LOOKALIKES)
def test_a_lookalike_is_a_flow(kernel: Kernel, program: str, name: str) -> None:
    assert not is_other(kernel, program, LOOKALIKES[name])


@pytest.mark.parametrize("name", tagged(LOOKALIKES))
def test_a_lookalike_behind_tags_is_a_flow(kernel: Kernel, name: str) -> None:
    assert not is_other(kernel, "from_pod", tagged(LOOKALIKES)[name])


@pytest.mark.parametrize("name", HOUSEKEEPING)
def test_housekeeping_cut_short_is_a_flow(kernel: Kernel, name: str) -> None:
    """Its length says more than there is."""
    frame = HOUSEKEEPING[name].rstrip(b"\0")
    header = 14 + (20 if frame[12:14] == b"\x08\x00" else 40)
    for length in range(header, min(header + 8, len(frame))):
        kernel.send("from_pod", frame[:length])

    assert kernel.account(FROM, OTHER) == NOTHING


MDNS4 = ipv4(UDP, ports(5353, 5353, 30), ends=("10.99.0.1", "224.0.0.251"))
MDNS6 = ipv6(UDP, ports(5353, 5353, 30), ends=("fe80::1", "ff02::fb"))
GROUPS = {
    "v4 multicast":             to_mac(MDNS4, GROUP_MAC),
    "v6 multicast":             to_mac(MDNS6, GROUP_MAC),
    "v6 multicast, options":    to_mac(ipv6_with([60], UDP, ports()), GROUP_MAC),
    "v4 broadcast":             to_mac(ipv4(UDP, ports(9, 9), ends=("10.99.0.1", "255.255.255.255")), BROADCAST_MAC),
    "v4 broadcast, frame to one": to_mac(vlan(ipv4(UDP, ports(9, 9), ends=("10.99.0.1", "255.255.255.255"))), MAC),
    "v4 multicast, frame to one": to_mac(vlan(ipv4(UDP, ports(9, 9), ends=("10.99.0.1", "239.255.255.255"))), MAC),
    "v4 subnet's broadcast":    to_mac(ipv4(UDP, ports(9, 9), ends=("10.99.0.1", "10.99.0.255")), BROADCAST_MAC),
    "v4 to one, frame to all":  to_mac(ipv4(TCP, tcp()), BROADCAST_MAC),
    "v6 to one, frame to all":  to_mac(ipv6(TCP, tcp()), GROUP_MAC),
    "802.1Q v4 multicast":      to_mac(vlan(MDNS4), GROUP_MAC),
    "802.1Q v6 multicast":      to_mac(vlan(MDNS6), GROUP_MAC),
    "v6 echo to a group":       ipv6(ICMPV6, bytes([128, *bytes(7)]), ends=("fe80::1", "ff02::1")),
    "v4 igmp look-alike":       LOOKALIKES["igmp with payload"],
}  # fmt: skip
SINGLE = {
    "v4":                       to_mac(ipv4(UDP, ports()), MAC),
    "v6":                       to_mac(ipv6(UDP, ports()), MAC),
    "v4 with options":          to_mac(ipv4(UDP, ports(), options=bytes(8)), MAC),
    "802.1Q v6":                to_mac(vlan(ipv6(UDP, ports())), MAC),
    "v4 class E":               to_mac(ipv4(ICMP, bytes(8), ends=("10.99.0.1", "240.0.0.1")), MAC),
    "v4 class E, options":      to_mac(ipv4(UDP, ports(), options=bytes(8), ends=("10.99.0.1", "250.1.2.3")), MAC),
    "v4 class E, last but one": to_mac(vlan(ipv4(UDP, ports(), ends=("10.99.0.1", "255.255.255.254"))), MAC),
}  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("name", [*GROUPS, *SINGLE])
def test_what_goes_to_a_group_says_so(kernel: Kernel, program: str, name: str) -> None:
    """One flow of the sender; those to whom it is flooded show it."""
    kernel.send(program, (GROUPS | SINGLE)[name], TIMES)

    (entry,) = kernel.entries()
    direction = DIRECTION[program]
    said = entry.seen & kernel.layout.seen_group << kernel.layout.seen_shift * direction
    assert bool(said) == (name in GROUPS)
    assert entry.packets[direction] == TIMES
    assert entry.flow.protocol == UDP or not entry.flow.local_port or "one, frame" in name
