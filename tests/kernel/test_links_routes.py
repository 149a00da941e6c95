# SPDX-License-Identifier: Apache-2.0
"""The uplinks are those of the default routes, and only those."""

from collections.abc import Iterator

import pytest

from podtally.netlink.netlink import Requests
from podtally.netlink.routes import uplinks
from tests.kernel.links_support import ifindex, own_netns, sh


@pytest.fixture
def requests() -> Iterator[Requests]:
    with own_netns():
        for name, number in (("up0", 1), ("up1", 2)):
            sh(f"ip link add {name} type veth peer name {name}-far")
            sh(f"ip link set {name}-far up")
            sh(f"ip addr add 10.99.{number}.2/24 dev {name}")
            sh(f"ip addr add 2001:db8:{number}::2/64 dev {name} nodad")
            sh(f"ip link set {name} up")
        made = Requests()
        yield made
        made.close()


def test_the_uplinks_are_those_of_the_default_routes(requests: Requests) -> None:
    assert uplinks(requests) == set()
    sh("ip route add default via 10.99.1.1")
    assert uplinks(requests) == {ifindex("up0")}
    sh("ip -6 route add default via 2001:db8:2::1")
    assert uplinks(requests) == {ifindex("up0"), ifindex("up1")}
    sh("ip route del default")
    assert uplinks(requests) == {ifindex("up1")}
