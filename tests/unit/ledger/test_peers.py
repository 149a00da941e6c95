# SPDX-License-Identifier: Apache-2.0
"""Services are named as such, and resolved to the pod that answered; uplinks are shared by sockets."""

from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from podtally.identity import name_table
from podtally.identity.addresses import ClaimBook
from podtally.identity.interface_endpoints import address_number
from podtally.identity.model import UNKNOWN_ENDPOINT, Claim, Endpoint, Owner
from podtally.identity.name_table import Names
from podtally.identity.services import BackendAddress, Services
from podtally.ledger.closed import ClosedConnections
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.connections.new_connections import MAX_TRACKED, new_connections
from podtally.ledger.ledger import Ledger
from podtally.ledger.metrics.families import BOOKS, FLOWS, PODS
from podtally.ledger.peers.peers import PeerFinder
from podtally.netlink.conntrack import Translations, Tuples
from tests.unit.ledger.ledger_support import contents, watched
from tests.unit.rows import (
    FLAGS,
    ICMP,
    NETWORKS,
    SECOND,
    SHOP,
    SYN,
    UDP,
    Flow,
    book,
    columns,
    from_here,
    make_ledger,
    to_here,
    words,
)

DNS = Owner("service", "kube-system", "dns", "dns", "cluster", "Service")
WEB = Owner("service", "shop", "front", "front", "cluster", "Service")
POD = Owner("pod", "kube-system", "coredns-1", "coredns", "cross_zone", "Deployment")
TWIN = POD._replace(name="coredns-2")
OTHER = Owner("pod", "kube-system", "node-dns", "node-dns", "node", "DaemonSet")
NODE = Owner("node", "", "node2", "node2", "zone")
HOST = Owner("host", "", "host", "host", "node")
OWNERS = {
    "10.99.200.10": DNS,
    "10.99.1.1": POD,
    "10.99.1.2": TWIN,
    "10.99.1.3": OTHER,
    "198.18.0.2": NODE,
    "198.18.0.1": HOST,
}
ASKED = Flow("10.99.200.10", UDP, 40123, 53)
HOST_SIDE = Endpoint("host", "host", "host", "Host", "host")
SSH = Endpoint("systemd", "ssh.service", "ssh.service", "Systemd", "systemd")


class Answer(NamedTuple):
    """What the tracker says of everything that is asked."""

    address: str = ""
    port: int = 0

    def translate(self, tuples: Tuples) -> Translations:
        n = len(tuples.protocol)
        found = np.full(n, bool(self.address))
        address = np.tile(words(self.address or "::"), (n, 1))
        return Translations(found, address, np.full(n, self.port, np.uint16))


def names(sockets: dict[int, Endpoint] | None = None) -> Names:
    networks = name_table.build_networks(NETWORKS)
    claimed = ClaimBook(networks.owners)
    for address, owner in OWNERS.items():
        claimed.put(address, [Claim(address_number(address), owner, 0)])
    return name_table.build_names({**SHOP, 2: HOST_SIDE}, sockets or {}, claimed.table(), networks)


def services(*addresses: str, ports: tuple[int, ...] = (5353,)) -> Services:
    backends = tuple(
        BackendAddress(address_number(address), port) for address in addresses for port in ports
    )
    return Services({(UDP, 30053): DNS}, {("kube-system", "dns"): {(UDP, 53): backends}})


def ended(flow: Flow, present: EpochContext) -> ClosedConnections:
    ledger = watched(7)
    book(ledger, present, [flow])
    ledger.settle(present, ())
    (one,) = ledger.settle(present._replace(now_ns=10_000 * SECOND), ())
    return one


@pytest.mark.parametrize(
    ("why", "tracked", "known", "scope", "backend"),
    [
        ("tracked", Answer("10.99.1.1", 5300), (), "cross_zone", ("kube-system", "coredns", 5300)),
        ("no one knows", Answer(), (), "cluster", ("", "unknown", 0)),
        ("not translated", Answer("10.99.200.10", 53), (), "cluster", ("", "unknown", 0)),
        ("one backend", Answer(), ("10.99.1.1",), "cross_zone", ("kube-system", "coredns", 5353)),
        (
            "two that say the same",
            Answer(),
            ("10.99.1.1", "10.99.1.2"),
            "cross_zone",
            ("kube-system", "coredns", 5353),
        ),
        (
            "two that agree on the port",
            Answer(),
            ("10.99.1.1", "10.99.1.3"),
            "cluster",
            ("", "unknown", 5353),
        ),
        (
            "the tracker before the endpoints",
            Answer("10.99.1.3", 5353),
            ("10.99.1.1",),
            "node",
            ("kube-system", "node-dns", 5353),
        ),
    ],
)
def test_a_service_is_resolved(
    why: str, tracked: Answer, known: tuple[str, ...], scope: str, backend: tuple[str, str, int]
) -> None:
    present = EpochContext(names(), SECOND, services(*known), tracked.translate)
    (account,) = ended(ASKED, present).accounts.values()
    peer = (account.peer_kind, account.peer_namespace, account.peer_workload, account.scope)
    assert peer == ("service", "kube-system", "dns", scope), why
    assert account.backend == backend, why
    assert account.port == 53, why  # what was asked for; the pod's port is the backend's


@pytest.mark.parametrize("address", ["198.18.0.2", "198.18.0.1"])
def test_a_node_port_is_a_service_and_the_nodes_other_ports_are_not(address: str) -> None:
    present = EpochContext(names(), SECOND, services(), Answer("10.99.1.1", 5353).translate)
    (asked,) = ended(ASKED._replace(remote=address, remote_port=30053), present).accounts.values()
    assert (asked.peer_kind, asked.peer_workload, asked.port) == ("service", "dns", 30053)
    assert asked.backend == ("kube-system", "coredns", 5353)
    (other,) = ended(ASKED._replace(remote=address, remote_port=53), present).accounts.values()
    assert other.peer_kind == OWNERS[address].kind
    assert other.backend is None


def test_a_backend_of_a_service_address_is_no_client_of_it() -> None:
    """A pod that another pod asks through a hairpin: the port is the pod's own."""
    flow = Flow("10.99.200.10", 6, 8080, 40123, seen=to_here(SYN))
    (account,) = ended(flow, EpochContext(names(), SECOND, services("10.99.1.1"))).accounts.values()
    assert (account.port, account.backend) == (8080, None)


# -- uplinks -----------------------------------------------------------------------------

UP = Flow("203.0.113.5", 6, 40123, 443, 2, "198.18.0.1", seen=from_here(SYN))
SOCKET_HERE, SOCKET_THERE = FLAGS.socket, FLAGS.socket << FLAGS.shift


def asking(cgroup: int) -> "Sockets":
    return Sockets(cgroup)


class Sockets(NamedTuple):
    cgroup: int

    def of(self, tuples: Tuples, _: NDArray[np.uint32]) -> NDArray[np.int64]:
        return np.full(len(tuples.protocol), self.cgroup)


def on_uplink(flow: Flow, present: EpochContext) -> Ledger:
    ledger = make_ledger()
    ledger.interfaces.appeared(2, "eth0", (0, 0), host=True)
    ledger.interfaces.attached(2, True, (0, 0))
    book(ledger, present, [flow])
    ledger.settle(present, ())
    return ledger


@pytest.mark.parametrize(
    ("what", "flow", "tracked", "taken", "pod"),
    [
        ("a unit's socket", UP._replace(cgroup=4357, seen=SOCKET_HERE), Answer(), 0, "ssh.service"),
        ("the kernel's own", UP._replace(cgroup=1, protocol=ICMP), Answer(), 0, "host"),
        ("forwarded", UP, Answer(), 0, None),
        ("the kernel's IGMP", UP._replace(protocol=2), Answer(), 0, "host"),
        (
            "a server's",
            UP._replace(cgroup=4357, first_direction=1, seen=to_here(SYN) | SOCKET_HERE),
            Answer(),
            0,
            "ssh.service",
        ),
        (
            "a host port that leads to a pod, and its answers",
            UP._replace(first_direction=1, seen=SOCKET_THERE),
            Answer(),
            4357,
            None,
        ),
        (
            "what a socket takes and never answers",
            UP._replace(first_direction=1, packets=(0, 1), bytes=(0, 23), seen=SOCKET_THERE),
            Answer(),
            4357,
            "ssh.service",
        ),
        (
            "refused in silence",
            UP._replace(first_direction=1, packets=(0, 1), bytes=(0, 23)),
            Answer(),
            0,
            "host",
        ),
        (
            "for another address",
            UP._replace(local="10.99.0.7", first_direction=1, packets=(0, 1), bytes=(0, 23)),
            Answer(),
            0,
            None,
        ),
        (
            "sent on to a pod that is silent",
            UP._replace(first_direction=1, packets=(0, 1), bytes=(0, 23)),
            Answer("10.99.0.7", 80),
            0,
            None,
        ),
    ],
)
def test_an_uplink_is_shared_by_sockets(
    what: str, flow: Flow, tracked: Answer, taken: int, pod: str | None
) -> None:
    sockets = {4357: SSH, 1: HOST_SIDE}
    present = EpochContext(names(sockets), SECOND, services(), tracked.translate, asking(taken).of)
    ledger = on_uplink(flow, present)
    view = ledger.view()
    pods = {labels.pod: values[0] for labels, values in contents(view[PODS]).items() if values[0]}
    assert pods == ({pod: 23} if pod else {}), what
    assert view[FLOWS].values[:, 0].sum() == (23 if pod else 0), what
    assert view[BOOKS].values[:, 0].sum() == 23, what


def test_a_socket_of_an_unknown_cgroup_waits_until_it_is_known() -> None:
    flow = UP._replace(cgroup=4357, seen=SOCKET_HERE | from_here(SYN))
    ledger = on_uplink(flow, EpochContext(names(), SECOND))
    assert ledger.attribution.take_unknown_cgroups() == {4357}
    assert ledger.attribution.take_unknown_cgroups() == set()
    assert ledger.view().waiting == 1
    ledger.settle(EpochContext(names({4357: SSH}), 2 * SECOND), ())
    view = ledger.view()
    pods = {labels.pod: values[0] for labels, values in contents(view[PODS]).items() if values[0]}
    assert pods == {"ssh.service": 23}
    assert {labels.workload for labels in view[FLOWS].labels} == {"ssh.service"}


def test_programs_that_look_for_no_sockets_say_nothing_of_them() -> None:
    """Rows of an older release: the host's, as it was then."""
    before = Ledger(FLAGS._replace(socket=0), make_ledger().limits)
    before.interfaces.appeared(2, "eth0", (0, 0), host=True)
    book(before, EpochContext(names(), SECOND), [UP])
    before.settle(EpochContext(names(), SECOND), ())
    assert {labels.pod for labels in before.view()[PODS].labels} == {"host"}
    assert UNKNOWN_ENDPOINT.final


class CountedAnswer:
    """A tracker that counts what it is asked, by interface's address."""

    def __init__(self) -> None:
        self.asked: dict[int, int] = {}

    def translate(self, tuples: Tuples) -> Translations:
        for local in tuples.local[:, 1].tolist():
            self.asked[local] = self.asked.get(local, 0) + 1
        return Answer().translate(tuples)


def test_a_flood_asks_the_tracker_no_more_than_its_share() -> None:
    tracker = CountedAnswer()
    present = EpochContext(names(), SECOND, services("10.99.1.1"), tracker.translate)
    flood = [ASKED._replace(local_port=port) for port in range(1, 3 * MAX_TRACKED)]
    other = [ASKED._replace(ifindex=9, local="10.99.0.9", local_port=port) for port in range(99)]
    ledger = watched(7, 9)
    book(ledger, present, [*flood, *other])
    assert sorted(tracker.asked.values()) == [99, MAX_TRACKED]


def test_a_scan_of_a_services_ports_is_one_question() -> None:
    """None of them is one of the Service's; each would look up its backends by itself."""
    remotes = PeerFinder()
    present = EpochContext(names(), SECOND, services("10.99.1.1"))
    for first in range(1, 60_001, 10_000):
        scan = [ASKED._replace(remote_port=port) for port in range(first, first + 10_000)]
        found = remotes.find(new_connections(columns(scan)), present)
        kinds = {found.kinds[kind] for kind in found.kind.tolist()}
        assert {kind.peer.workload for kind in kinds} == {"dns"}
    assert len(remotes._services) == 2  # port 53 among them
    resolved = remotes.find(new_connections(columns([ASKED])), present)
    assert resolved.port.tolist() == [5353]
