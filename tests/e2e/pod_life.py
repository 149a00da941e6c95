# SPDX-License-Identifier: Apache-2.0
"""What the processes of a pod do: a short-lived one talks at once, a sink answers.

Each counts for itself what it moved, by peer and protocol, in bytes on the wire. How such a
process comes into its pod is ``pod_host``'s to say.
"""

import fcntl
import random
import selectors
import signal
import socket
import struct
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import msgspec

ECHO_PORT, SERVICE_PORT = 7, 7000  # of sinks; of all others
PATIENCE_SECONDS = 60.0
PING_SECONDS = 0.1
SETTLE_SECONDS = 0.005  # until what was sent has left the queues between the two ends
DATAGRAMS = 23
ETHERNET, UDP_V4, UDP_V6 = 14, 28, 48

# The first byte of each datagram; the name of whom it is from follows.
ECHO, ASK, PROBE, VISIT, LAST_VISIT = b"e", b"a", b"p", b"v", b"l"
NAME_BYTES = 15
LEAST = 1 + NAME_BYTES

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


class Peer(msgspec.Struct, frozen=True):
    name: str
    address: str


class Errand(msgspec.Struct, frozen=True, tag=True):
    """One process to come; without ``sinks`` it is a sink itself, and lives until it is ended."""

    name: str
    cgroup: str  # directories
    netns: str
    sinks: tuple[Peer, ...] = ()
    seconds: float = 0.0  # it lives at least so long
    friend: Peer | None = None  # to be visited
    visitors: int = 0  # to be waited for
    seed: int = 0


class Exchange(msgspec.Struct, frozen=True):
    peer: str
    protocol: str
    sent: int  # bytes on the wire
    received: int


class Report(msgspec.Struct, frozen=True):
    """What a pod says of itself when it goes."""

    name: str
    sent: int = 0  # bytes, as its own eth0 counts
    received: int = 0
    began_ns: int = 0  # CLOCK_MONOTONIC
    ended_ns: int = 0
    exchanges: tuple[Exchange, ...] = ()
    error: str = ""


class Life:
    """Short, and busy from its first moment."""

    def __init__(self, errand: Errand) -> None:
        self._errand = errand
        self._dice = random.Random(errand.seed)
        self._udp: dict[str, list[int]] = defaultdict(lambda: [0, 0])  # by peer: sent, received
        self._probes = self._visitors = 0
        self._probes_wanted = self._dice.randrange(1, DATAGRAMS)
        six = any(":" in sink.address for sink in errand.sinks)
        self._service = _udp("::" if six else "0.0.0.0")
        self._service.bind(("::" if six else "0.0.0.0", SERVICE_PORT))

    def run(self) -> Report:
        errand, began_ns = self._errand, time.monotonic_ns()
        end = time.monotonic() + errand.seconds
        one, other = errand.sinks
        self._talk(one, ECHO_PORT, ECHO)
        self._stream(other)
        self._ask(one)
        if errand.friend is not None:
            self._talk(errand.friend, SERVICE_PORT, VISIT)
            self._talk(errand.friend, SERVICE_PORT, LAST_VISIT, 1)
        self._stay(end, other)
        self._talk(one, ECHO_PORT, ECHO, 1)  # behind all else, so all else has come through
        time.sleep(SETTLE_SECONDS)
        close_link()
        return self._report(began_ns, other)

    def _stay(self, end: float, sink: Peer) -> None:
        limit = max(end, time.monotonic()) + PATIENCE_SECONDS
        while time.monotonic() < end or not self._has_all():
            assert time.monotonic() < limit, (
                f"{self._probes} of {self._probes_wanted} probes, {self._visitors} visitors came"
            )
            self._serve(time.monotonic() + PING_SECONDS)
            self._talk(sink, ECHO_PORT, ECHO, 1)

    def _has_all(self) -> bool:
        visited = self._visitors == self._errand.visitors
        return self._probes == self._probes_wanted and visited

    def _talk(self, peer: Peer, port: int, kind: bytes, times: int = DATAGRAMS) -> None:
        """Send datagrams from a new port, and wait for their echoes."""
        payload = message(kind, self._errand.name, self._dice.randrange(1000))
        wire, moved = on_wire(peer.address, payload), self._udp[peer.name]
        with _udp(peer.address) as to:
            to.connect((peer.address, port))
            for _ in range(times):
                moved[0] += wire
                to.send(payload)
            for _ in range(times):
                to.recv(2048)
                moved[1] += wire

    def _ask(self, sink: Peer) -> None:
        """Let a sink send to the port that is the same in every pod."""
        payload = message(ASK, self._errand.name, self._dice.randrange(1, 1000))
        wire, moved = on_wire(sink.address, payload), self._udp[sink.name]
        with _udp(sink.address) as to:
            for _ in range(self._probes_wanted):
                moved[0] += wire
                to.sendto(payload, (sink.address, ECHO_PORT))

    def _serve(self, until: float) -> None:
        """Answer on the own port."""
        while (left := until - time.monotonic()) > 0:
            self._service.settimeout(left)
            try:
                payload, sender = self._service.recvfrom(2048)
            except TimeoutError:
                return
            kind, name = read_message(payload)
            moved, wire = self._udp[name], on_wire(sender[0], payload)
            moved[0] += wire
            moved[1] += wire
            self._service.sendto(payload, sender)
            self._probes += kind == PROBE
            self._visitors += kind == LAST_VISIT

    def _stream(self, sink: Peer) -> None:
        """A TCP connection, to its end on both sides."""
        data = bytes(self._dice.randrange(1, 50_000))
        family = socket.AF_INET6 if ":" in sink.address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as to:
            to.settimeout(PATIENCE_SECONDS)
            to.connect((sink.address, ECHO_PORT))
            to.sendall(data)
            to.shutdown(socket.SHUT_WR)
            got = 0
            while part := to.recv(65536):
                got += len(part)
        assert got == len(data), f"{got} of {len(data)} bytes came back over TCP"

    def _report(self, began_ns: int, streamed_to: Peer) -> Report:
        """What of its own counters is neither UDP nor multicast was the TCP connection."""
        sent, received = link_counters()
        sent_by_tcp = sent - sum(moved[0] for moved in self._udp.values()) - multicast_bytes()
        received_by_tcp = received - sum(moved[1] for moved in self._udp.values())
        exchanges = [Exchange(name, "udp", *moved) for name, moved in self._udp.items()]
        exchanges.append(Exchange(streamed_to.name, "tcp", sent_by_tcp, received_by_tcp))
        name, ended_ns = self._errand.name, time.monotonic_ns()
        return Report(name, sent, received, began_ns, ended_ns, tuple(exchanges))


class Sink:
    """Echoes over UDP and TCP, and sends probes to who asks for them, until SIGTERM."""

    def __init__(self, errand: Errand) -> None:
        self._name = errand.name
        self._ready = selectors.DefaultSelector()
        self._is_over = False
        for any_address in ("0.0.0.0", "::"):
            udp = _udp(any_address)
            udp.bind((any_address, ECHO_PORT))
            self._on(udp, self._datagram)
            tcp = socket.create_server(
                (any_address, ECHO_PORT),
                family=socket.AF_INET6 if ":" in any_address else socket.AF_INET,
                backlog=128,
            )
            self._on(tcp, self._connection)

    def run(self) -> Report:
        began_ns = time.monotonic_ns()
        signal.signal(signal.SIGTERM, self._end)
        while not self._is_over:
            for key, _ in self._ready.select(timeout=0.1):
                key.data(key.fileobj)
        return Report(self._name, *link_counters(), began_ns, time.monotonic_ns())

    def _end(self, *_: object) -> None:
        self._is_over = True

    def _on(self, each: socket.socket, act: Callable[[socket.socket], None]) -> None:
        self._ready.register(each, selectors.EVENT_READ, act)

    def _datagram(self, udp: socket.socket) -> None:
        payload, sender = udp.recvfrom(2048)
        kind, _ = read_message(payload)
        if kind != ASK:
            udp.sendto(payload, sender)
            return
        probe = _udp(sender[0])
        probe.connect((sender[0], SERVICE_PORT))
        probe.send(message(PROBE, self._name, len(payload) - LEAST))
        self._on(probe, self._answered)

    def _answered(self, probe: socket.socket) -> None:
        self._ready.unregister(probe)
        probe.close()

    def _connection(self, server: socket.socket) -> None:
        connection, _ = server.accept()
        connection.settimeout(PATIENCE_SECONDS)
        self._on(connection, self._stream)

    def _stream(self, connection: socket.socket) -> None:
        if data := connection.recv(65536):
            connection.sendall(data)
            return
        self._ready.unregister(connection)
        connection.close()


def message(kind: bytes, name: str, more: int) -> bytes:
    return kind + name.encode().ljust(NAME_BYTES) + bytes(more)


def read_message(payload: bytes) -> tuple[bytes, str]:
    """Kind, and who sent it."""
    return payload[:1], payload[1:LEAST].decode().rstrip()


def on_wire(address: str, payload: bytes) -> int:
    return ETHERNET + (UDP_V6 if ":" in address else UDP_V4) + len(payload)


def link_counters() -> tuple[int, int]:
    """Bytes that eth0 of the own namespace has sent and received."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "eth0":
            return int(counts.split()[8]), int(counts.split()[0])
    raise AssertionError("there is no eth0")


def multicast_bytes() -> int:
    """What the kernel sent by itself: its reports on groups (RFC 3810)."""
    path = Path("/proc/self/net/dev_snmp6/eth0")
    counts = dict(line.split() for line in path.read_text().splitlines())
    octets, packets = counts["Ip6OutMcastOctets"], counts["Ip6OutMcastPkts"]
    return int(octets) + ETHERNET * int(packets)


def close_link() -> None:
    """Nothing goes or comes any more, so the counters are the last ones."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH22x", b"eth0", 0)  # struct ifreq
        answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request)
        (flags,) = struct.unpack_from("H", answer, 16)
        request = struct.pack("16sH22x", b"eth0", flags & ~_IFF_UP)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


def _udp(address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.settimeout(PATIENCE_SECONDS)
    return made
