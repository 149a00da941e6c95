# SPDX-License-Identifier: Apache-2.0
"""Which addresses count as an endpoint's: whoever is in a namespace may configure any."""

import os
import resource
import subprocess
import time
from collections.abc import Iterator

import pytest

from podtally.attach.attacher import Attacher
from podtally.attach.selection import pod_interfaces
from podtally.attach.watcher import LinkWatcher
from podtally.netlink.links import all_links
from podtally.netlink.model import AddressesChanged, Mode
from podtally.netlink.namespace_addresses import MAX_ADDRESSES, AddressReader
from podtally.netlink.namespaces import Namespaces
from podtally.netlink.netlink import Requests
from tests.kernel.links_support import (
    Inbox,
    give_addresses,
    make_pod,
    named_netns,
    own_netns,
    pin_directory,
    programs,
    sh,
)
from tests.kernel.test_links_watcher import mapped

PODS = ("ptl-la0", "ptl-la1")
CPU_SECONDS = 2.0  # 0.6 where it was measured


@pytest.fixture
def inbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inbox]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    state = tmp_path_factory.mktemp("state")
    with own_netns(), named_netns(*PODS), pin_directory() as pins, programs() as fds:
        made = Inbox()
        attacher = Attacher(pins, dict(fds), Mode.CLSACT, state)
        wanted = pod_interfaces("v*")
        watcher = LinkWatcher(attacher, wanted, lambda _: None, made.queue)
        try:
            watcher.start()
            yield made
            assert watcher.alive
        finally:
            watcher.stop()
            attacher.close()


def routed(inbox: Inbox, *addresses: str, seconds: float = 5) -> AddressesChanged:
    """Wait until exactly these, and no others of IPv4, are routed to a pod."""
    wanted = {mapped(each) for each in addresses}

    def holds(event: AddressesChanged) -> bool:
        assert event.routed is not None
        ipv4 = {each for each in event.routed if each.startswith(bytes(10) + b"\xff\xff")}
        return ipv4 == wanted

    return inbox.wait(AddressesChanged, holds, seconds)


def test_an_address_that_the_host_reaches_elsewhere(inbox: Inbox) -> None:
    """Its own; one of the internet; the host's; and one that gets its route a moment later."""
    pod = PODS[0]
    sh("ip link add up0 type veth peer name up1")
    sh("ip addr add 203.0.113.1/24 dev up0")
    sh("ip link set up1 up")
    sh("ip link set up0 up")
    sh("ip route add default via 203.0.113.9")
    make_pod("v0", pod)
    give_addresses("v0", pod, 1)
    routed(inbox, "10.99.1.2")
    for address in ("198.18.7.7", "203.0.113.1", "10.99.1.1"):
        inbox.clear()
        sh(f"ip -n {pod} addr add {address}/32 dev eth0")
        result = routed(inbox, "10.99.1.2")
        assert mapped(address) in result.addresses
        assert mapped(address) in result.on_link
    sh("ip route add 198.18.7.7/32 dev v0")
    routed(inbox, "10.99.1.2", "198.18.7.7")


def test_addresses_on_a_bridge(inbox: Inbox) -> None:
    """Of the bridge's network if the host is in it; else of a network that others have, too."""
    sh("ip link add br0 type bridge")
    sh("ip link set br0 up")
    for number, pod in enumerate(PODS):
        make_pod(f"v{number}", pod)
        sh(f"ip link set v{number} master br0 up")
        sh(f"ip -n {pod} link set eth0 up")
    sh(f"ip -n {PODS[0]} addr add 10.99.0.2/24 dev eth0")
    routed(inbox)
    sh(f"ip -n {PODS[1]} addr add 10.99.0.3/24 dev eth0")
    routed(inbox, "10.99.0.3")
    routed(inbox, "10.99.0.2")
    inbox.clear()
    sh(f"ip -n {PODS[1]} addr add 198.18.7.7/32 dev eth0")
    routed(inbox, "10.99.0.3")
    for pod in PODS:
        sh(f"ip -n {pod} addr add 198.18.0.{pod[-1]}/24 dev eth0")
    routed(inbox, "10.99.0.3", "198.18.0.1")
    inbox.clear()
    sh("ip addr add 10.99.0.1/24 dev br0")
    sh(f"ip -n {PODS[1]} addr add 10.99.0.4/24 dev eth0")
    routed(inbox, "10.99.0.3", "10.99.0.4")


def test_ten_thousand_addresses(inbox: Inbox) -> None:
    """Own CPU time, of this process: the watcher's thread does all of it."""
    pod = PODS[0]
    make_pod("v0", pod)
    give_addresses("v0", pod, 1)
    routed(inbox, "10.99.1.2")
    before = resource.getrusage(resource.RUSAGE_SELF)
    lines = "".join(
        f"addr add 198.18.{number >> 8}.{number & 255}/32 dev eth0\n" for number in range(1, 10_001)
    )
    subprocess.run(["ip", "-n", pod, "-force", "-batch", "-"], input=lines.encode(), check=True)
    result = inbox.wait(AddressesChanged, lambda e: e.excess > 10_000 - MAX_ADDRESSES, 30)
    time.sleep(3)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert mapped("10.99.1.2") in result.addresses
    assert len(result.addresses) == MAX_ADDRESSES
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{spent:.2f} s of CPU")
    assert spent < CPU_SECONDS


def test_the_share_of_a_namespace(inbox: Inbox) -> None:
    make_pod("v0", PODS[0])
    requests = Requests()
    try:
        (link,) = [each for each in all_links(requests) if each.name == "v0"]
        reader = AddressReader(requests, Namespaces(requests))
        assert reader.free_at(link.peer_nsid) == 0.0
        before = time.monotonic()
        assert reader.read(link.peer_nsid) is not None
        assert reader.free_at(link.peer_nsid) > before
        assert reader.free_at(link.peer_nsid + 1) == 0.0
        reader.forget(link.peer_nsid)
        assert reader.free_at(link.peer_nsid) == 0.0
        assert reader.read(12345) is None
    finally:
        requests.close()
