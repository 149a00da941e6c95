"""Who is behind an interface and an address: what the sources say, and which one wins."""

import ipaddress

import numpy as np
import pytest

from podtally.config import StaticEndpoint
from podtally.identity import table
from podtally.identity.cgroups import Found
from podtally.identity.directory import REMEMBER_NS, Directory
from podtally.identity.model import INTERNET, NOBODY, PRIVATE, Endpoint, Peer
from podtally.identity.table import Names

WEB = Endpoint("shop", "web-0", "web", "Deployment", "static")
NETWORKS = {
    "office": ("203.0.113.0/24", "2001:db8:23::/48"),
    "lab": ("10.99.0.0/16",),
    "printer": ("10.99.23.5",),
}
UID = "1f6c9b1e-5d2a-4e1b-9c3d-0123456789ab"


def packed(text: str) -> bytes:
    address = ipaddress.ip_address(text)
    return address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed


def peer(names: Names, text: str) -> Peer:
    words = np.frombuffer(packed(text), ">u8").astype(np.uint64)
    return names.peers[int(names.look_up(words[:1], words[1:])[0])]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("198.18.0.1", INTERNET),
        ("2001:db8::1", INTERNET),
        ("10.98.0.1", PRIVATE),
        ("172.16.0.1", PRIVATE),
        ("172.32.0.1", INTERNET),
        ("192.168.255.255", PRIVATE),
        ("100.64.0.1", PRIVATE),
        ("fd00::1", PRIVATE),
        ("127.0.0.1", Peer("external", "", "loopback", "private")),
        ("::1", Peer("external", "", "loopback", "private")),
        ("169.254.0.1", Peer("external", "", "link-local", "private")),
        ("169.254.169.254", Peer("external", "", "metadata", "private")),
        ("fd00:ec2::254", Peer("external", "", "metadata", "private")),
        ("224.0.0.251", Peer("external", "", "multicast", "private")),
        ("ff02::fb", Peer("external", "", "multicast", "private")),
        ("255.255.255.255", Peer("external", "", "broadcast", "private")),
        ("203.0.113.9", Peer("external", "", "office", "internet")),
        ("2001:db8:23::9", Peer("external", "", "office", "internet")),
        ("10.99.0.9", Peer("external", "", "lab", "private")),
        ("10.99.23.5", Peer("external", "", "printer", "private")),
        ("10.99.0.7", Peer("pod", "shop", "web", "node")),
    ],
)
def test_peers(address: str, expected: Peer) -> None:
    addresses = [("10.99.0.7", Peer("pod", "shop", "web", "node"))]
    assert peer(table.build({}, addresses, NETWORKS), address) == expected


def test_an_address_wins_over_a_network_of_the_same_size() -> None:
    pod = Peer("pod", "shop", "web", "node")
    assert peer(table.build({}, [("10.99.23.5", pod)], NETWORKS), "10.99.23.5") == pod


def test_endpoints_nobody_knows_are_unknown_and_never_guessed() -> None:
    names = table.build({7: WEB}, [], {})
    assert names.endpoint(7) == WEB
    assert names.endpoint(9) == NOBODY
    assert set(NOBODY[:5]) == {"unknown"}


def directory(*static: StaticEndpoint) -> Directory:
    made = Directory(static, NETWORKS)
    made.appeared(7, "veth7", "", host=False)
    made.addresses_changed(7, [packed("10.99.0.7"), packed("2001:db8::7")])
    return made


def endpoint(made: Directory, ifindex: int = 7) -> Endpoint:
    made.refresh(1)
    return made.names.endpoint(ifindex)


def test_the_stronger_source_wins() -> None:
    static = StaticEndpoint("web-0", "shop", "web", "Deployment", interface="veth7")
    for made, chosen in ((directory(), None), (directory(static), WEB)):
        assert endpoint(made) == (chosen or NOBODY)
        made.process_found(7, Found("docker", "0123456789ab"))
        container = Endpoint("docker", "0123456789ab", "0123456789ab", "Docker", "docker")
        assert endpoint(made) == (chosen or container)
        made.netns_named(7, "blue")
        assert endpoint(made) == (chosen or Endpoint("netns", "blue", "blue", "Netns", "netns"))


@pytest.mark.parametrize(
    ("what", "entry"),
    [
        ("interface", StaticEndpoint("a", interface="veth7")),
        ("netns", StaticEndpoint("a", netns="blue")),
        ("address", StaticEndpoint("a", address="10.99.0.7")),
        ("IPv6 address", StaticEndpoint("a", address="2001:DB8:0::7")),
    ],
)
def test_static_entries_are_found_by(what: str, entry: StaticEndpoint) -> None:
    made = directory(entry)
    made.netns_named(7, "blue")
    made.appeared(9, "veth9", "green", host=False)
    assert endpoint(made) == Endpoint("static", "a", "a", "Static", "static"), what
    assert endpoint(made, 9).name == "green", what


def test_all_that_a_cgroup_tells_of_a_pod_is_its_uid() -> None:
    made = directory()
    made.process_found(7, Found("pod", UID))
    assert endpoint(made) == Endpoint("unknown", UID, "unknown", "unknown", "pod")


def test_the_host_is_an_endpoint() -> None:
    made = directory()
    made.appeared(2, "eth0", "", host=True)
    made.host_addresses(["198.18.0.1"])
    assert endpoint(made, 2) == Endpoint("host", "host", "host", "Host", "host")
    assert peer(made.names, "198.18.0.1") == Peer("host", "", "host", "node")


def test_unnamed_are_those_of_which_only_the_interface_is_known() -> None:
    made = directory()
    made.appeared(9, "veth9", "green", host=False)
    assert made.unnamed() == [7]
    made.process_found(7, Found("systemd", "web.service"))
    assert made.unnamed() == []


def test_addresses_outlive_their_endpoint_for_a_while() -> None:
    made = directory()
    made.netns_named(7, "blue")
    made.refresh(1)
    made.gone(7, 100)
    assert made.refresh(100)
    assert peer(made.names, "10.99.0.7").workload == "blue"
    assert made.names.endpoint(7).name == "blue"
    assert not made.refresh(100 + REMEMBER_NS)
    assert made.refresh(101 + REMEMBER_NS)
    assert peer(made.names, "10.99.0.7").workload == "lab"
    assert made.names.endpoint(7) == NOBODY


def test_an_address_that_somebody_else_takes_is_the_new_ones_at_once() -> None:
    made = directory()
    made.netns_named(7, "blue")
    made.appeared(9, "veth9", "green", host=False)
    made.addresses_changed(9, [packed("10.99.0.7")])
    made.refresh(1)
    assert peer(made.names, "10.99.0.7").workload == "green"
    assert peer(made.names, "2001:db8::7").workload == "blue"
    made.addresses_changed(7, [packed("10.99.0.7")])
    made.refresh(2)
    assert peer(made.names, "10.99.0.7").workload == "blue"
    made.gone(7, 100)  # the living before the dead
    made.refresh(100)
    assert peer(made.names, "10.99.0.7").workload == "green"


def test_a_table_is_made_only_when_something_changed() -> None:
    made = directory()
    assert made.refresh(1)
    before = made.names
    assert not made.refresh(2)
    made.host_addresses([])
    made.netns_named(99, "nobody")
    assert not made.refresh(3)
    assert made.names is before
    made.renamed(7, "web")
    assert made.refresh(4)
    assert made.names is not before


def test_a_later_agent_remembers() -> None:
    made = directory()
    made.netns_named(7, "blue")
    made.gone(7, 100)
    again = Directory((), NETWORKS)
    again.restore(made.residents())
    again.refresh(101)
    assert again.names.endpoint(7).name == "blue"
    again.appeared(7, "veth7", "blue", host=False)  # it is there after all
    assert not again.refresh(101 + REMEMBER_NS) or again.names.endpoint(7).name == "blue"
    again.appeared(7, "veth7", "green", host=False)  # and this is another
    again.refresh(102 + REMEMBER_NS)
    assert again.names.endpoint(7).name == "green"
    assert peer(again.names, "2001:db8::7") == INTERNET
