# SPDX-License-Identifier: Apache-2.0
"""bpf/podtally.c on real frames with a VLAN tag beside the data, which no test run can make."""

import socket
import time
from collections.abc import Iterator

import pytest

from podtally.kernel.account_map import UNATTRIBUTED
from tests.kernel.conftest import OPTIONS, Load
from tests.kernel.driver import TO
from tests.kernel.links_support import inside
from tests.kernel.packets import MAC, UDP, ipv4, ports, to_mac, vlan
from tests.kernel.uplink import Uplink, watched_host
from tests.patience import deadline

TAGGED = 5


@pytest.fixture
def uplink(load: Load) -> Iterator[Uplink]:
    kernel = load(OPTIONS)
    kernel.reset()
    with watched_host(kernel) as uplink:
        yield uplink


def tagged(uplink: Uplink, direction: int) -> int:
    books = uplink.kernel.books.read()
    rows = (books.ifindex == uplink.ifindex) & (books.direction == direction)
    return int(books.tagged[rows].sum())


def test_frames_with_a_tag_are_counted(uplink: Uplink) -> None:
    """The kernel takes the tag out of the data before the program sees it (skb_vlan_untag())."""
    frame = to_mac(ipv4(UDP, ports()), MAC)
    with inside(uplink.out):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with raw:
        raw.bind(("eth0", 0))
        for sent in [frame, *[vlan(frame)] * TAGGED]:
            raw.send(sent)

    end = deadline(60)
    while tagged(uplink, TO) < TAGGED and time.monotonic() < end:
        time.sleep(0.01)
    assert tagged(uplink, TO) == TAGGED
    assert UNATTRIBUTED not in uplink.kernel.books.read().ifindex
