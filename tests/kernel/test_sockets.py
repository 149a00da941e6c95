# SPDX-License-Identifier: Apache-2.0
"""bpf/podtally.c on an uplink, with real sockets in real cgroups: the owners of packets."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from podtally.runtimes import cgroup_ids
from podtally.runtimes.cgroup_ids import ROOT_ID, CgroupIds
from tests.kernel.conftest import OPTIONS, Load
from tests.kernel.driver import FROM, TO
from tests.kernel.links_support import inside, sh
from tests.kernel.packets import ICMP, ICMPV6, TCP, UDP
from tests.kernel.uplink import (
    HOST4,
    HOST6,
    OUT4,
    OUT6,
    POD4,
    POD6,
    UPLINK,
    Uplink,
    cgroup,
    forward,
    watched_host,
)
from tests.kernel_version import VERSION

SERVICE = "198.18.0.1"  # translated on its way out
STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


class Ends(NamedTuple):
    family: socket.AddressFamily
    host: str
    out: str
    pod: str
    any: str


V4 = Ends(socket.AF_INET, HOST4, OUT4, POD4, "0.0.0.0")
V6 = Ends(socket.AF_INET6, HOST6, OUT6, POD6, "::")
both = pytest.mark.parametrize("ends", [V4, V6], ids=["v4", "v6"])


@pytest.fixture(scope="module")
def host(load: Load) -> Iterator[Uplink]:
    """One host for the tests of this module; the calling thread lives there."""
    kernel = load(OPTIONS)
    kernel.reset()
    with watched_host(kernel) as uplink:
        yield uplink


@pytest.fixture
def uplink(host: Uplink) -> Uplink:
    host.forget()
    return host


@pytest.fixture
def ours() -> Iterator[int]:
    """A cgroup that this process lives in during the test; its id."""
    with cgroup() as number:
        yield number


class Sockets:
    """Sockets of one test, in the namespace that they are asked for in."""

    def __init__(self, stack: ExitStack, uplink: Uplink) -> None:
        self._stack = stack
        self._uplink = uplink

    def make(self, family: int, kind: int, local: tuple[str, int] | None = None) -> socket.socket:
        made = self._stack.enter_context(socket.socket(family, kind))
        made.settimeout(3)
        if local is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(local)
        return made

    def listen(self, family: int, local: tuple[str, int]) -> socket.socket:
        listener = self.make(family, STREAM, local)
        listener.listen()
        return listener

    def connect(self, family: int, remote: tuple[str, int]) -> socket.socket:
        client = self.make(family, STREAM)
        client.connect(remote)
        return client

    def accept(self, listener: socket.socket) -> socket.socket:
        return self._stack.enter_context(listener.accept()[0])

    def out(self, make: Callable[[], socket.socket]) -> socket.socket:
        with inside(self._uplink.out):
            return make()

    def pod(self, make: Callable[[], socket.socket]) -> socket.socket:
        with inside(self._uplink.pod):
            return make()


@pytest.fixture
def sockets(uplink: Uplink) -> Iterator[Sockets]:
    with ExitStack() as stack:
        yield Sockets(stack, uplink)


@both
def test_a_client(uplink: Uplink, ours: int, sockets: Sockets, ends: Ends) -> None:
    sockets.out(lambda: sockets.listen(ends.family, (ends.out, 80)))

    sockets.connect(ends.family, (ends.out, 80))

    row = uplink.row(TCP, remote_port=80)
    assert (row.first_direction, row.cgroup, row.sent) == (FROM, ours, True)
    assert not row.received  # sockets are looked for by the packet that claims the row


@both
def test_a_client_whose_answer_begins_the_row(
    uplink: Uplink, ours: int, sockets: Sockets, ends: Ends
) -> None:
    listener = sockets.out(lambda: sockets.listen(ends.family, (ends.out, 80)))
    sockets.connect(ends.family, (ends.out, 80))
    server = sockets.accept(listener)
    uplink.settle()

    server.send(b"23")

    row = uplink.row(TCP, remote_port=80)
    assert (row.first_direction, row.received) == (TO, True)
    assert uplink.row_of_sender(TCP, remote_port=80).cgroup == ours  # with the ACK


@both
@pytest.mark.parametrize("bound", [True, False], ids=["bound", "all addresses"])
def test_a_server(uplink: Uplink, ours: int, sockets: Sockets, ends: Ends, bound: bool) -> None:
    """The SYN finds the listener, the SYN/ACK is of the request, the rest of what it accepted."""
    listener = sockets.listen(ends.family, (ends.host if bound else ends.any, 8080))
    client = sockets.out(lambda: sockets.connect(ends.family, (ends.host, 8080)))

    row = uplink.row_of_sender(TCP, local_port=8080)
    assert (row.first_direction, row.cgroup, row.received) == (TO, ours, True)

    accepted = sockets.accept(listener)
    uplink.settle()
    accepted.send(b"23")
    assert client.recv(2) == b"23"
    row = uplink.row(TCP, local_port=8080)
    assert (row.first_direction, row.cgroup, row.sent) == (FROM, ours, True)


def test_an_ipv4_client_of_a_dual_stack_server(uplink: Uplink, ours: int, sockets: Sockets) -> None:
    sockets.listen(socket.AF_INET6, ("::", 8080))

    sockets.out(lambda: sockets.connect(socket.AF_INET, (HOST4, 8080)))

    row = uplink.row_of_sender(TCP, local_port=8080)
    assert (row.local, row.cgroup, row.received) == (HOST4, ours, True)


@both
@pytest.mark.parametrize("connected", [True, False], ids=["connected", "unconnected"])
def test_udp_out(uplink: Uplink, ours: int, sockets: Sockets, ends: Ends, connected: bool) -> None:
    sender = sockets.make(ends.family, DATAGRAM)
    if connected:
        sender.connect((ends.out, 5353))
        sender.send(b"23")
    else:
        sender.sendto(b"23", (ends.out, 5353))

    row = uplink.row(UDP, remote_port=5353)
    assert (row.first_direction, row.cgroup, row.sent) == (FROM, ours, True)


@both
@pytest.mark.parametrize("bound", [True, False], ids=["bound", "all addresses"])
def test_udp_in(uplink: Uplink, ours: int, sockets: Sockets, ends: Ends, bound: bool) -> None:
    """What is never answered has no cgroup: a tc program cannot ask the socket it finds."""
    receiver = sockets.make(ends.family, DATAGRAM, (ends.host if bound else ends.any, 5000))
    sender = sockets.out(lambda: sockets.make(ends.family, DATAGRAM, (ends.out, 5001)))

    sender.sendto(b"23", (ends.host, 5000))

    row = uplink.row(UDP, local_port=5000)
    assert (row.first_direction, row.cgroup, row.sent, row.received) == (TO, 0, False, True)

    receiver.sendto(b"23", (ends.out, 5001))
    assert uplink.row_of_sender(UDP, local_port=5000).cgroup == ours


@both
def test_a_host_that_forwards_nothing(
    uplink: Uplink, ours: int, sockets: Sockets, ends: Ends
) -> None:
    sockets.make(ends.family, DATAGRAM, (ends.any, 5000))
    sender = sockets.out(lambda: sockets.make(ends.family, DATAGRAM))
    forward(False)
    try:
        sender.sendto(b"23", (ends.host, 5000))
        assert uplink.row(UDP, local_port=5000).received
    finally:
        forward(True)


def test_multicast_and_broadcast_in(uplink: Uplink, sockets: Sockets) -> None:
    """No route is asked where to: the default route would seem to lead them on."""
    sockets.make(socket.AF_INET, DATAGRAM, ("", 5000))
    sender = sockets.out(lambda: sockets.make(socket.AF_INET, DATAGRAM))
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    for address in ("224.0.0.251", "255.255.255.255", "10.99.23.255"):
        sender.sendto(b"23", (address, 5000))
        row = uplink.row(UDP, local_port=5000)
        assert row.received, address
        uplink.settle()


def test_the_maker_of_a_socket_counts(uplink: Uplink, sockets: Sockets) -> None:
    """He may have gone elsewhere since, and his cgroup away."""
    mount = cgroup_ids.find_mount()
    ids = CgroupIds(mount)
    with cgroup() as number:
        sender = sockets.make(socket.AF_INET, DATAGRAM)
        path = ids.path_of(number)
    sender.sendto(b"23", (OUT4, 5353))

    assert uplink.row(UDP, remote_port=5353).cgroup == number
    assert path is not None
    assert path.startswith("/")
    assert ids.path_of(number) is None
    ids.close()


@pytest.mark.parametrize(("protocol", "to"), [(ICMP, HOST4), (ICMPV6, HOST6)], ids=["v4", "v6"])
def test_the_kernels_answer_to_a_ping(
    uplink: Uplink, ours: int, sockets: Sockets, protocol: int, to: str
) -> None:
    with inside(uplink.out):
        sh(f"ping -c 1 -W 3 {to}")

    rows = [row for row in uplink.rows() if row.protocol == protocol and row.local == to]
    assert {row.cgroup for row in rows} == {ROOT_ID}
    assert all(row.sent for row in rows)


def test_a_ping_of_the_host(uplink: Uplink, ours: int) -> None:
    sh(f"ping -c 1 -W 3 {OUT4}")
    row = uplink.row(ICMP)
    assert (row.first_direction, row.cgroup, row.sent) == (FROM, ours, True)


@both
def test_refused(uplink: Uplink, ours: int, sockets: Sockets, ends: Ends) -> None:
    """The RST is of no socket, or of one of the kernel's: that differs."""
    with pytest.raises(ConnectionRefusedError):
        sockets.out(lambda: sockets.connect(ends.family, (ends.host, 9999)))

    row = uplink.row(TCP, local_port=9999)
    assert (row.first_direction, row.received) == (TO, False)
    assert row.cgroup in (0, ROOT_ID)


@both
def test_a_socket_in_time_wait_is_not_found(
    uplink: Uplink, ours: int, sockets: Sockets, ends: Ends
) -> None:
    listener = sockets.out(lambda: sockets.listen(ends.family, (ends.out, 80)))
    client = sockets.connect(ends.family, (ends.out, 80))
    server = sockets.accept(listener)
    client.close()
    assert server.recv(1) == b""
    uplink.settle()

    server.close()

    row = uplink.row(TCP, remote_port=80)
    assert (row.first_direction, row.received) == (TO, False)
    # before 6.13 the last ACK is of a socket of the kernel's own, in the root cgroup
    assert row.cgroup == 0 or (VERSION < (6, 13) and row.cgroup == ROOT_ID)


@both
def test_a_socket_on_all_addresses_is_not_meant_by_a_pods(
    uplink: Uplink, ours: int, sockets: Sockets, ends: Ends
) -> None:
    """The look-up finds it, whatever the address: only the route decides."""
    sockets.listen(ends.family, (ends.any, 8080))
    sockets.make(ends.family, DATAGRAM, (ends.any, 8080))
    sockets.pod(lambda: sockets.listen(ends.family, (ends.pod, 8080)))
    receiver = sockets.pod(lambda: sockets.make(ends.family, DATAGRAM, (ends.pod, 8080)))

    sockets.out(lambda: sockets.connect(ends.family, (ends.pod, 8080)))
    sender = sockets.out(lambda: sockets.make(ends.family, DATAGRAM))
    sender.sendto(b"23", (ends.pod, 8080))
    assert receiver.recv(2) == b"23"

    for protocol in (TCP, UDP):
        row = uplink.row(protocol, local_port=8080)
        assert (row.local, row.first_direction) == (ends.pod, TO)
        assert (row.cgroup, row.sent, row.received) == (0, False, False)


@both
def test_what_a_pod_sends_has_no_owner_here(
    uplink: Uplink, ours: int, sockets: Sockets, ends: Ends
) -> None:
    """The veth hands the pod's socket over with the packet; ip_rcv_core() orphans it."""
    listener = sockets.out(lambda: sockets.listen(ends.family, (ends.out, 80)))
    client = sockets.pod(lambda: sockets.connect(ends.family, (ends.out, 80)))
    server = sockets.accept(listener)

    row = uplink.row(TCP, remote_port=80)
    assert (row.first_direction, row.cgroup, row.sent) == (FROM, 0, False)

    uplink.settle()
    server.send(b"23")
    assert client.recv(2) == b"23"
    row = uplink.row(TCP, remote_port=80)
    assert (row.first_direction, row.cgroup, row.sent, row.received) == (TO, 0, False, False)


@pytest.fixture
def translated(uplink: Uplink) -> Iterator[None]:
    """Pods leave as the host, port 8081 of the host is the pod's 80, SERVICE is OUT4."""
    rules = (
        "chain post { type nat hook postrouting priority 100 ; }",
        "chain pre { type nat hook prerouting priority -100 ; }",
        "chain out { type nat hook output priority -100 ; }",
        f"rule post oifname {UPLINK} ip saddr {POD4} masquerade",
        f"rule pre iifname {UPLINK} tcp dport 8081 dnat to {POD4}:80",
        f"rule out ip daddr {SERVICE} dnat to {OUT4}",
    )
    sh("nft add table ip ptl")
    for rule in rules:
        kind, _, rest = rule.partition(" ")
        sh(f"nft add {kind} ip ptl {rest}")
    sh(f"ip route add {SERVICE} via {OUT4}")
    yield
    sh(f"ip route del {SERVICE}")
    sh("nft delete table ip ptl")


def test_a_masqueraded_pod(uplink: Uplink, ours: int, sockets: Sockets, translated: None) -> None:
    listener = sockets.out(lambda: sockets.listen(socket.AF_INET, (OUT4, 80)))
    client = sockets.pod(lambda: sockets.connect(socket.AF_INET, (OUT4, 80)))
    server = sockets.accept(listener)

    row = uplink.row(TCP, remote_port=80)
    assert (row.local, row.first_direction, row.cgroup, row.sent) == (HOST4, FROM, 0, False)

    uplink.settle()
    server.send(b"23")
    assert client.recv(2) == b"23"
    row = uplink.row(TCP, remote_port=80)
    assert (row.local, row.first_direction) == (HOST4, TO)
    assert (row.cgroup, row.sent, row.received) == (0, False, False)


def test_a_port_of_the_host_that_is_a_pods(
    uplink: Uplink, ours: int, sockets: Sockets, translated: None
) -> None:
    """A proxy that listens there, as docker's does, is found; but no answer is of its socket."""
    sockets.listen(socket.AF_INET, ("", 8081))
    listener = sockets.pod(lambda: sockets.listen(socket.AF_INET, (POD4, 80)))

    sockets.out(lambda: sockets.connect(socket.AF_INET, (HOST4, 8081)))
    sockets.accept(listener)

    row = uplink.row(TCP, local_port=8081)
    assert (row.first_direction, row.received) == (TO, True)
    assert (row.cgroup, row.sent) == (0, False)


def test_the_hosts_own_translated_connection(
    uplink: Uplink, ours: int, sockets: Sockets, translated: None
) -> None:
    """What comes back has another address than the socket knows: only what leaves decides."""
    listener = sockets.out(lambda: sockets.listen(socket.AF_INET, (OUT4, 80)))
    client = sockets.connect(socket.AF_INET, (SERVICE, 80))
    server = sockets.accept(listener)
    row = uplink.row(TCP, remote_port=80)
    assert (row.remote, row.first_direction, row.cgroup) == (OUT4, FROM, ours)

    uplink.settle()
    server.send(b"23")
    assert client.recv(2) == b"23"
    row = uplink.row_of_sender(TCP, remote_port=80)
    assert (row.first_direction, row.cgroup, row.received) == (TO, ours, False)
