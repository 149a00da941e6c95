# SPDX-License-Identifier: Apache-2.0
"""Names of interfaces and of namespaces may be any bytes."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from podtally.identity.interface_endpoints import address_text
from podtally.netlink.links import all_links
from podtally.netlink.namespaces import Namespaces
from podtally.netlink.netlink import Requests
from tests.kernel.links_support import own_netns, sh

ODD = b"caf\xe9"
SHOWN = r"caf\xe9"


@pytest.fixture
def requests() -> Iterator[Requests]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with own_netns():
        opened = Requests()
        try:
            yield opened
        finally:
            opened.close()


def test_an_interface(requests: Requests) -> None:
    subprocess.run(
        [b"ip", b"link", b"add", ODD, b"type", b"veth", b"peer", b"name", b"other"], check=True
    )
    assert {link.name for link in all_links(requests)} == {"lo", SHOWN, "other"}


def test_the_hosts_addresses(requests: Requests) -> None:
    """All of them but 127.0.0.0/8 and ::1: also those that loopback was given."""
    subprocess.run(
        [b"ip", b"link", b"add", ODD, b"type", b"veth", b"peer", b"name", b"other"], check=True
    )
    subprocess.run([b"ip", b"addr", b"add", b"198.18.0.1/24", b"dev", ODD], check=True)
    sh("ip addr add 203.0.113.7/32 dev lo")
    assert set(map(address_text, Namespaces(requests).own_addresses())) == {
        "198.18.0.1",
        "203.0.113.7",
    }


def test_a_namespace(requests: Requests) -> None:
    path = Path(os.fsdecode(b"/run/netns/podtally-" + ODD))
    name = os.fsencode(path.name)
    subprocess.run([b"ip", b"netns", b"add", name], check=True)
    try:
        subprocess.run(
            [b"ip", b"link", b"add", b"ptl0", b"type", b"veth", b"peer", b"name", b"eth0", b"netns", name],
            check=True,
        )  # fmt: skip
        (link,) = [link for link in all_links(requests) if link.name == "ptl0"]
        assert Namespaces(requests).name_of(link.peer_nsid) == f"podtally-{SHOWN}"
    finally:
        subprocess.run([b"ip", b"netns", b"del", name], check=True)
