# SPDX-License-Identifier: Apache-2.0
"""Which interfaces are watched, and of what kind."""

import pytest

from podtally.attach.selection import pod_interfaces, refusals
from podtally.netlink.model import Counters, Link, Role

POD = Link(7, "veth1a", "veth", 2, 3, True, 10, 20, True)
PAIR_HERE = POD._replace(peer_nsid=-1)
UPLINK = Link(2, "eth0", "", 0, -1, True, 10, 20, True)
VLAN = UPLINK._replace(name="eth0.5", kind="vlan", peer_ifindex=2)
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
        ("*", UPLINK._replace(name="bond0", kind="bond"), Role.HOST),
        ("*", LOOPBACK, None),
        ("*", TUNNEL, None),
    ],
)
def test_roles(pattern: str | None, link: Link, role: Role | None) -> None:
    assert pod_interfaces(pattern)(link, frozenset) is role


@pytest.mark.parametrize(
    ("pattern", "role"), [(None, None), ("!other", None), ("veth*", Role.HOST), ("eth*", None)]
)
def test_a_pair_that_leads_outside_is_not_a_pods(pattern: str | None, role: Role | None) -> None:
    wanted = pod_interfaces(pattern)
    assert wanted(POD, lambda: {POD.ifindex}) is role
    assert wanted(POD, lambda: {99}) is wanted(POD, frozenset)


def test_counters_are_the_endpoints() -> None:
    assert POD.counters(Role.POD) == Counters(from_endpoint=10, to_endpoint=20)
    assert UPLINK.counters(Role.HOST) == Counters(from_endpoint=20, to_endpoint=10)


@pytest.mark.parametrize(
    ("pattern", "link", "words"),
    [
        ("eth0, vx0", UPLINK._replace(name="vx0", kind="vxlan"), "vx0 cannot be watched: it is a tunnel (vxlan)"),
        ("gre*, eth0", UPLINK._replace(name="gre1", kind="gretap"), "gre1 cannot be watched: it is a tunnel (gretap)"),
        ("*", BRIDGE, "br0 cannot be watched: it is a bridge"),
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
