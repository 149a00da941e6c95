# SPDX-License-Identifier: Apache-2.0
"""Which interfaces are watched, and of what kind."""

import pytest

from podtally.attach.selection import counted_below, pod_interfaces, refusals
from podtally.attach.surroundings import surroundings
from podtally.netlink.model import Counters, Link, Role

POD = Link(7, "veth1a", "veth", 2, 3, True, 10, 20, True)
PAIR_HERE = POD._replace(peer_nsid=-1)
UPLINK = Link(2, "eth0", "", 0, -1, True, 10, 20, True)
VLAN = UPLINK._replace(name="eth0.5", ifindex=3, kind="vlan", peer_ifindex=2)
BOND = UPLINK._replace(name="bond0", ifindex=4, kind="bond")
PORTS = [UPLINK._replace(name=f"ens{i}", ifindex=5 + i, master=4) for i in (0, 1)]
BOND_VLAN = VLAN._replace(name="bond0.5", ifindex=8, peer_ifindex=4)
IN_VRF = POD._replace(name="eth1", ifindex=9, master=10)
HOST = [UPLINK, VLAN, BOND, *PORTS, BOND_VLAN, IN_VRF, UPLINK._replace(name="blue", ifindex=10, kind="vrf")]  # fmt: skip
BRIDGE = UPLINK._replace(name="br0", kind="bridge")
LOOPBACK = UPLINK._replace(name="lo", ethernet=False)
TUNNEL = UPLINK._replace(name="wg0", kind="wireguard", ethernet=False)


@pytest.mark.parametrize(
    ("pattern", "link", "role"),
    [
        (None, POD, Role.POD),
        (None, POD._replace(kind="netkit"), Role.POD),
        (None, POD._replace(up=False), Role.POD),
        (None, PAIR_HERE, None),
        (None, UPLINK, None),
        ("", POD, Role.POD),
        ("!veth*", POD, None),
        ("!other", POD, Role.POD),
        ("!other", UPLINK, None),
        ("veth*", POD, Role.POD),
        ("veth*", UPLINK, None),
        ("veth*, eth*", UPLINK, Role.HOST),
        ("eth*,!*.5", VLAN, None),
        ("eth*", VLAN, Role.HOST),
        ("*", PAIR_HERE, None),
        ("*", BRIDGE, None),
        ("*", UPLINK._replace(name="vx0", kind="vxlan"), None),
        ("*", UPLINK._replace(name="gre1", kind="gretap"), None),
        ("*", UPLINK._replace(name="gen0", kind="geneve"), None),
        ("*", UPLINK._replace(name="bond0", kind="bond"), None),
        ("*", UPLINK._replace(name="blue", kind="vrf"), None),
        ("*", LOOPBACK, None),
        ("*", TUNNEL, None),
    ],
)
def test_roles(pattern: str | None, link: Link, role: Role | None) -> None:
    assert pod_interfaces(pattern)(link, surroundings([link], lambda _: ())) is role


@pytest.mark.parametrize(
    ("pattern", "watched", "notes"),
    [
        ("eth0,eth0.5", ["eth0"], ["eth0.5 is not watched: eth0 below it counts its frames"]),
        ("eth0.5", ["eth0.5"], []),
        ("*.5,!eth0", ["eth0.5", "bond0.5"], []),
        ("bond0", ["ens0", "ens1"], ["bond0 is counted on its ports ens0, ens1"]),
        ("bond0,ens0", ["ens0", "ens1"], ["bond0 is counted on its ports ens0, ens1"]),
        ("bond0,!ens1", ["ens0"], ["bond0 is counted on its ports ens0"]),
        ("bond0,!ens*", [], ["bond0 is counted on its ports, of which none is watched"]),
        ("ens0", ["ens0"], []),
        ("bond0.5", ["bond0.5"], []),
        (
            "bond0*",
            ["ens0", "ens1"],
            [
                "bond0 is counted on its ports ens0, ens1",
                "bond0.5 is not watched: ens0 below it counts its frames",
            ],
        ),
        (None, ["eth1"], []),
    ],
)
def test_no_frame_is_counted_twice(
    pattern: str | None, watched: list[str], notes: list[str]
) -> None:
    wanted, host = pod_interfaces(pattern), surroundings(HOST, lambda _: ())
    assert [link.name for link in HOST if wanted(link, host)] == watched
    assert counted_below(pattern, HOST) == notes


@pytest.mark.parametrize(
    ("pattern", "role"), [(None, None), ("!other", None), ("veth*", Role.HOST), ("eth*", None)]
)
def test_a_pair_that_leads_outside_is_not_a_pods(pattern: str | None, role: Role | None) -> None:
    wanted = pod_interfaces(pattern)
    assert wanted(POD, surroundings([POD], lambda _: {POD.ifindex})) is role
    elsewhere = surroundings([POD], lambda _: {99})
    assert wanted(POD, elsewhere) is wanted(POD, surroundings([POD], lambda _: ()))


@pytest.mark.parametrize("kind", ["vlan", "bond", "vrf"])
def test_a_pair_below_an_uplink_is_no_pods(kind: str) -> None:
    below = IN_VRF._replace(master=0 if kind == "vlan" else 10)
    above = UPLINK._replace(name="up", ifindex=10, kind=kind, peer_ifindex=9 * (kind == "vlan"))
    host = surroundings([below, above], lambda vrf: {9} if vrf else {10})
    wanted = pod_interfaces("eth1")
    assert wanted(below, host) is Role.HOST
    assert wanted(below, surroundings([below, above], lambda _: ())) is Role.POD


def test_counters_are_the_endpoints() -> None:
    assert POD.counters(Role.POD) == Counters(from_endpoint=10, to_endpoint=20)
    assert UPLINK.counters(Role.HOST) == Counters(from_endpoint=20, to_endpoint=10)


@pytest.mark.parametrize(
    ("pattern", "link", "words"),
    [
        ("eth0, vx0", UPLINK._replace(name="vx0", kind="vxlan"), "vx0 cannot be watched: it is a tunnel (vxlan)"),
        ("gre*, eth0", UPLINK._replace(name="gre1", kind="gretap"), "gre1 cannot be watched: it is a tunnel (gretap)"),
        ("*", BRIDGE, "br0 cannot be watched: it is a bridge"),
        ("*", BRIDGE._replace(name="blue", kind="vrf"), "blue cannot be watched: it is a VRF"),
        ("eth0,wg0", TUNNEL, "wg0 cannot be watched: its frames have no Ethernet header (kind wireguard)"),
        ("eth0,ppp0", TUNNEL._replace(name="ppp0", kind=""), "ppp0 cannot be watched: its frames have no Ethernet header"),
        ("eth0,nosuch0", VLAN, "there is no interface 'nosuch0'"),
        ("eth0,!wg0,*", TUNNEL, ""),
        ("eth0,nosuch*", VLAN, ""),
        (None, BRIDGE, ""),
        ("!veth*", TUNNEL, ""),
        ("*", LOOPBACK, ""),
        ("*", PAIR_HERE, ""),
    ],
)  # fmt: skip
def test_what_is_named_and_cannot_be_watched_is_reported(
    pattern: str | None, link: Link, words: str
) -> None:
    said = refusals(pattern, [UPLINK, POD, link])
    assert len(said) == bool(words)
    assert all(each.startswith(words) for each in said)
