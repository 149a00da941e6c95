# SPDX-License-Identifier: Apache-2.0
"""Finds the socket that takes an incoming packet: real sockets in real cgroups, and real packets."""

import socket
import time

import numpy as np
import pytest

from podtally.netlink.sock_diag import SocketDiag
from podtally.netlink.sock_diag_layout import TCP, UDP
from tests.kernel.links_support import ifindex, inside, sh
from tests.kernel.sock_diag_support import (
    KINDS,
    OUT,
    V4,
    V6,
    Ends,
    Sockets,
    ask,
    diag,
    host,
    in_new_cgroup,
    port_of,
    sockets,
)
from tests.kernel.test_conntrack import tuples
from tests.kernel.uplink import HOST4, HOST6, OUT4, OUT6
from tests.patience import deadline

__all__ = ["diag", "host", "sockets"]

STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
SCTP, ICMP = 132, 1
both = pytest.mark.parametrize("ends", [V4, V6], ids=["v4", "v6"])
protocols = pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])


def who_gets(
    receivers: dict[int, socket.socket], sender: socket.socket, to: tuple[str, int]
) -> int:
    """The cgroup of the one socket that a datagram reaches."""
    for receiver in receivers.values():
        receiver.settimeout(0)
    sender.sendto(b"23", to)
    end = deadline(60)
    while time.monotonic() < end:
        for number, receiver in receivers.items():
            try:
                receiver.recv(16)
            except BlockingIOError:
                continue
            return number
    raise AssertionError("the datagram has not come")


@both
@protocols
@pytest.mark.parametrize("bound", [True, False], ids=["bound", "all addresses"])
def test_who_waits(
    diag: SocketDiag, sockets: Sockets, protocol: int, ends: Ends, bound: bool
) -> None:
    local = (ends.host if bound else ends.any, 5000)
    number, sock = in_new_cgroup(lambda: sockets.make(protocol, ends.family, local))
    known = (ends.host, 5000, ends.out, 40000, protocol)
    assert ask(diag, known) == number > 1
    assert ask(diag, (ends.host, 5001, ends.out, 40000, protocol)) == 0
    assert ask(diag, (ends.host, 40000, ends.out, 5000, protocol)) == 0
    assert ask(diag, (ends.host, 5000, ends.out, 40000, TCP + UDP - protocol)) == 0
    if bound:
        assert ask(diag, (ends.out, 5000, ends.host, 40000, protocol)) == 0
    sock.close()
    assert ask(diag, known) == 0


@both
def test_a_connection_to_the_host(diag: SocketDiag, sockets: Sockets, ends: Ends) -> None:
    """What is accepted stays when the listener has gone."""
    number, listener = in_new_cgroup(lambda: sockets.make(TCP, ends.family, (ends.any, 8080)))
    client = sockets.there(TCP, ends)
    client.connect((ends.host, 8080))
    accepted = sockets.enter_context(listener.accept()[0])
    listener.close()
    port = port_of(client)
    assert port_of(accepted) == 8080
    assert ask(diag, (ends.host, 8080, ends.out, port, TCP)) == number
    assert ask(diag, (ends.host, 8080, ends.out, port ^ 1, TCP)) == 0


@both
def test_a_connection_of_the_host(diag: SocketDiag, sockets: Sockets, ends: Ends) -> None:
    """Its port has a listener too, of another."""
    server = sockets.there(TCP, ends, 80)
    server.listen()

    def call() -> socket.socket:
        made = sockets.enter_context(socket.socket(ends.family, STREAM))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((ends.host, 5000))
        made.connect((ends.out, 80))
        return made

    caller, _ = in_new_cgroup(call)
    waiting, _ = in_new_cgroup(
        lambda: sockets.make(TCP, ends.family, (ends.any, 5000), socket.SO_REUSEPORT)
    )
    assert ask(diag, (ends.host, 5000, ends.out, 80, TCP)) == caller
    assert ask(diag, (ends.host, 5000, ends.out, 81, TCP)) == waiting != caller


@both
def test_a_closed_connection_has_no_owner(diag: SocketDiag, sockets: Sockets, ends: Ends) -> None:
    listener = sockets.make(TCP, ends.family, (ends.any, 8080))
    client = sockets.there(TCP, ends)
    client.connect((ends.host, 8080))
    accepted, _ = listener.accept()
    asked = (ends.host, 8080, ends.out, port_of(client), TCP)
    assert ask(diag, asked) > 0
    accepted.close()
    assert client.recv(1) == b""
    client.close()
    end = deadline(60)
    while not sh("ss -Htn state time-wait sport = :8080"):
        assert time.monotonic() < end, "the connection is not in TIME_WAIT"
    listener.close()
    assert ask(diag, asked) == 0
    assert sh("ss -Htn state time-wait sport = :8080")


@both
def test_connected_udp_goes_before_bound(diag: SocketDiag, sockets: Sockets, ends: Ends) -> None:
    waiting, receiver = in_new_cgroup(lambda: sockets.make(UDP, ends.family, (ends.any, 5000)))
    friend, stranger = sockets.there(UDP, ends), sockets.there(UDP, ends)
    connected, channel = in_new_cgroup(lambda: sockets.make(UDP, ends.family, (ends.host, 5000)))
    channel.connect((ends.out, port_of(friend)))
    receivers = {waiting: receiver, connected: channel}
    for sender, wanted in ((friend, connected), (stranger, waiting)):
        asked = (ends.host, 5000, ends.out, port_of(sender), UDP)
        assert ask(diag, asked) == who_gets(receivers, sender, (ends.host, 5000)) == wanted


@protocols
@pytest.mark.parametrize("only", [False, True], ids=["dual stack", "IPv6 only"])
def test_ipv4_to_an_ipv6_socket(
    diag: SocketDiag, sockets: Sockets, protocol: int, only: bool
) -> None:
    def make() -> socket.socket:
        made = sockets.enter_context(socket.socket(socket.AF_INET6, KINDS[protocol]))
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        made.bind(("::", 5000))
        if protocol == TCP:
            made.listen()
        return made

    number, _ = in_new_cgroup(make)
    assert ask(diag, (HOST6, 5000, OUT6, 40000, protocol)) == number
    assert ask(diag, (HOST4, 5000, OUT4, 40000, protocol)) == (0 if only else number)


def test_an_accepted_ipv4_connection_of_a_dual_stack_server(
    diag: SocketDiag, sockets: Sockets
) -> None:
    number, listener = in_new_cgroup(lambda: sockets.make(TCP, socket.AF_INET6, ("::", 8080)))
    client = sockets.there(TCP, V4)
    client.connect((HOST4, 8080))
    accepted = sockets.enter_context(listener.accept()[0])
    listener.close()
    assert accepted.getsockname()[0] == f"::ffff:{HOST4}"
    assert ask(diag, (HOST4, 8080, OUT4, port_of(client), TCP)) == number


@both
@protocols
def test_of_several_on_one_port_the_one_that_gets_it(
    diag: SocketDiag, sockets: Sockets, protocol: int, ends: Ends
) -> None:
    """SO_REUSEPORT: a hash of the addresses and ports decides, reuseport_select_sock()."""
    receivers = dict(
        in_new_cgroup(
            lambda: sockets.make(protocol, ends.family, (ends.any, 5000), socket.SO_REUSEPORT)
        )
        for _ in range(3)
    )
    result, true = [], []
    for _ in range(40):
        sender = sockets.there(protocol, ends)
        result.append(ask(diag, (ends.host, 5000, ends.out, port_of(sender), protocol)))
        if protocol == UDP:
            true.append(who_gets(receivers, sender, (ends.host, 5000)))
        else:
            sender.connect((ends.host, 5000))
            true.append(who_accepts(receivers))
    assert result == true
    assert set(true) == set(receivers)


def who_accepts(listeners: dict[int, socket.socket]) -> int:
    end = deadline(60)
    while time.monotonic() < end:
        for number, listener in listeners.items():
            listener.settimeout(0)
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                continue
            return number
    raise AssertionError("no one has a connection")


@both
def test_sockets_of_an_interface(diag: SocketDiag, sockets: Sockets, ends: Ends) -> None:
    def bound() -> socket.socket:
        made = sockets.enter_context(socket.socket(ends.family, DATAGRAM))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"up0")
        made.bind((ends.any, 5000))
        return made

    own, one = in_new_cgroup(bound)
    uplink, sender = ifindex("up0"), sockets.there(UDP, ends)
    asked = (ends.host, 5000, ends.out, port_of(sender), UDP)
    assert [ask(diag, asked), ask(diag, asked, ifindex("lo")), ask(diag, asked, uplink)] == [
        0,
        0,
        own,
    ]
    assert who_gets({own: one}, sender, (ends.host, 5000)) == own
    assert diag.cgroups(tuples([asked])).tolist() == [0]  # of any interface
    both_at_once = diag.cgroups(tuples([asked, asked]), np.array([uplink, 0]))
    assert both_at_once.tolist() == [own, 0]


def test_a_link_local_connection(diag: SocketDiag, sockets: Sockets) -> None:
    with inside(OUT):
        sh("ip addr add fe80::2323/64 dev eth0 nodad")
    sh("ip addr add fe80::2324/64 dev up0 nodad")
    uplink = ifindex("up0")
    number, receiver = in_new_cgroup(
        lambda: sockets.enter_context(socket.socket(socket.AF_INET6, DATAGRAM))
    )
    receiver.bind(("fe80::2324", 5000, 0, uplink))
    asked = ("fe80::2324", 5000, "fe80::2323", 40000, UDP)
    assert [ask(diag, asked), ask(diag, asked, uplink)] == [0, number]


@both
@protocols
def test_another_namespaces_socket_is_not_found(
    diag: SocketDiag, sockets: Sockets, protocol: int, ends: Ends
) -> None:
    with inside(OUT):
        sockets.make(protocol, ends.family, (ends.any, 5000))
        there = SocketDiag()
        sockets.callback(there.close)
    for local, remote in ((ends.host, ends.out), (ends.out, ends.host)):
        asked = (local, 5000, remote, 40000, protocol)
        assert ask(diag, asked) == 0
        assert ask(there, asked) > 0


def test_a_namespace_without_loopback(sockets: Sockets) -> None:
    with inside(OUT):
        assert "state DOWN" in sh("ip link show lo")
        diag = SocketDiag()
        sockets.callback(diag.close)
    assert (diag.available, diag.reason) == (True, "")


def test_what_is_sent_to_many_has_no_owner(diag: SocketDiag, sockets: Sockets) -> None:
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        first = sockets.enter_context(socket.socket(family, DATAGRAM))
        first.bind((address, 5353 if family == socket.AF_INET else 5354))
    for local, remote, port in (
        ("224.0.0.251", OUT4, 5353),
        ("239.255.255.255", OUT4, 5353),
        ("255.255.255.255", OUT4, 5353),
        ("ff02::fb", OUT6, 5354),
    ):
        assert ask(diag, (local, port, remote, port, UDP)) == 0, local
    assert ask(diag, ("223.0.0.1", 5353, OUT4, 5353, UDP)) > 0
    assert ask(diag, ("240.0.0.1", 5353, OUT4, 5353, UDP)) > 0


def test_what_cannot_be_evaluated_for(diag: SocketDiag, sockets: Sockets) -> None:
    sockets.make(UDP, socket.AF_INET6, ("::", 5000))
    for asked in (
        (HOST4, 5000, OUT4, 40000, SCTP),
        (HOST4, 0, OUT4, 0, ICMP),
        (HOST4, 5000, OUT6, 40000, UDP),
        (HOST6, 5000, OUT4, 40000, UDP),
    ):
        assert ask(diag, asked) == 0
    assert diag.cgroups(tuples([])).shape == (0,)
