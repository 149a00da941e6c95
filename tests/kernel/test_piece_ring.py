# SPDX-License-Identifier: Apache-2.0
"""DNS messages and ClientHellos in the ring buffer, sent frame by frame through the programs."""

import ipaddress
import socket
import struct
from collections.abc import Iterator

import pytest

from podtally.kernel import piece_ring
from podtally.kernel.captured import HOST, Captured
from podtally.kernel.piece_ring import PieceRing
from podtally.kernel.pins import Options
from tests.kernel.conftest import Load
from tests.kernel.driver import LOOPBACK, Kernel
from tests.kernel.packets import (
    A4,
    A6,
    ACK,
    B4,
    B6,
    MORE_FRAGMENTS,
    PSH,
    TCP,
    UDP,
    context,
    ipv4,
    ipv6,
    vlan,
)

QUERY = b"\x12\x34\x01\0\0\1" + bytes(6) + b"\3www\7example\3com\0\0\1\0\1"
HELLO = b"\x16\x03\x01\x07\x00\x01\x00\x06\xfc" + bytes(range(256)) * 7  # record of 1792 bytes
PORT = 5353


def udp(payload: bytes, source: int = 40000, destination: int = 53) -> bytes:
    return struct.pack("!4H", source, destination, 8 + len(payload), 0) + payload


def tcp(
    payload: bytes,
    *,
    source: int = 40000,
    destination: int = 443,
    sequence: int = 1000,
    flags: int = ACK | PSH,
    words: int = 5,
) -> bytes:
    """``words``: the header's length; options are in front of the payload."""
    header = (source, destination, sequence, 1, words << 4, flags, 0, 0, 0)
    return struct.pack("!HHIIBBHHH", *header) + payload


class Reader:
    """The ring buffer of a generation, and its programs."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.ring = PieceRing(kernel.generation)
        self.ring.position = self.ring.written

    def send(self, program: str, *frames: bytes) -> list[Captured]:
        """Return what the programs copied of frames."""
        for frame in frames:
            self.kernel.send(program, frame, context=context(LOOPBACK))
        found = list(self.ring.read(self.ring.written))
        assert self.ring.position == self.ring.written
        self.ring.release(self.ring.position)
        return found


@pytest.fixture
def reader(load: Load) -> Iterator[Reader]:
    kernel = load(Options(slots=131072, books=64, dns_ports=(PORT,)))
    kernel.reset()
    assert piece_ring.enable(kernel.generation, frozenset({"dns", "tls"})) == {"dns", "tls"}
    made = Reader(kernel)
    yield made
    made.ring.close()
    kernel.reset()


def text(address: bytes) -> str:
    parsed = ipaddress.IPv6Address(address)
    return str(parsed.ipv4_mapped or parsed)


QUERIES = {
    "IPv4": (ipv4(UDP, udp(QUERY)), A4, B4, UDP),
    "IPv6": (ipv6(UDP, udp(QUERY)), A6, B6, UDP),
    "IPv4 options": (ipv4(UDP, udp(QUERY), options=bytes(4)), A4, B4, UDP),
    "tagged": (vlan(ipv4(UDP, udp(QUERY))), A4, B4, UDP),
    "padded": (ipv4(UDP, udp(QUERY[:12])) + b"\x99" * 20, A4, B4, UDP),
    "TCP": (ipv4(TCP, tcp(QUERY, destination=53)), A4, B4, TCP),
    "TCP options": (ipv6(TCP, tcp(bytes(12) + QUERY, destination=53, words=8)), A6, B6, TCP),
}


@pytest.mark.parametrize("name", QUERIES)
def test_a_query(reader: Reader, name: str) -> None:
    frame, local, remote, protocol = QUERIES[name]
    [piece] = reader.send("from_pod", frame)
    assert piece.data == (QUERY[:12] if name == "padded" else QUERY)
    assert (piece.endpoint, text(piece.local), text(piece.remote)) == (LOOPBACK, local, remote)
    assert (piece.local_port, piece.remote_port, piece.protocol) == (40000, 53, protocol)
    assert (piece.is_sent, piece.is_hello, piece.is_cut) == (True, False, False)
    assert piece.sequence == (1000 if protocol == TCP else 0)
    assert 0 <= piece.fine_ns - piece.at_ns < 1_000_000_000


def test_an_answer_is_seen_from_the_endpoint(reader: Reader) -> None:
    [piece] = reader.send("to_pod", ipv4(UDP, udp(QUERY, source=53, destination=40000)))
    assert (text(piece.local), text(piece.remote), piece.local_port, piece.remote_port) == (
        B4,
        A4,
        40000,
        53,
    )
    assert not piece.is_sent


def test_the_servers_side_is_not_copied(reader: Reader) -> None:
    assert not reader.send("to_pod", ipv4(UDP, udp(QUERY)))
    assert not reader.send("from_pod", ipv4(UDP, udp(QUERY, source=53, destination=40000)))


def test_other_ports_are_not_copied_and_a_configured_one_is(reader: Reader) -> None:
    assert not reader.send("from_pod", ipv4(UDP, udp(QUERY, destination=5300)))
    assert reader.send("from_pod", ipv4(UDP, udp(QUERY, destination=PORT)))


def test_the_first_fragment_is_copied_as_cut(reader: Reader) -> None:
    [piece] = reader.send("from_pod", ipv4(UDP, udp(QUERY), fragment=MORE_FRAGMENTS))
    assert piece.is_cut


def test_the_copy_leaves_counting_alone(reader: Reader) -> None:
    frame = ipv4(UDP, udp(QUERY))
    reader.send("from_pod", *[frame] * 23)
    [entry] = reader.kernel.entries()
    assert (entry.bytes[0], entry.packets[0]) == (23 * len(frame), 23)


def test_a_client_hello_is_copied_once(reader: Reader) -> None:
    whole = b"\x16\x03\x01\x00\x20\x01" + bytes(31)
    frames = [
        ipv4(TCP, tcp(b"", flags=ACK)),
        ipv4(TCP, tcp(whole)),
        ipv4(TCP, tcp(whole, sequence=2000)),
    ]
    [piece] = reader.send("from_pod", *frames)
    assert (piece.data, piece.is_hello, piece.endpoint) == (whole, True, LOOPBACK)
    assert piece.at_ns == piece.fine_ns


def test_a_client_hello_in_two_segments(reader: Reader) -> None:
    one, two = HELLO[:1400], HELLO[1400:]
    frames = [
        ipv6(TCP, tcp(one, flags=ACK)),
        ipv6(TCP, tcp(two, sequence=2400)),
        ipv6(TCP, tcp(b"\x17more", sequence=3000)),
    ]
    pieces = reader.send("from_pod", *frames)
    assert [piece.data for piece in pieces] == [one, two]
    assert [piece.sequence for piece in pieces] == [1000, 2400]


def test_a_client_hello_in_one_large_segment(reader: Reader) -> None:
    """As TSO leaves it: larger than any frame on the wire, with data behind the record."""
    for port, more in enumerate((b"", b"\x17" * 1000), 1000):
        frame = ipv4(TCP, tcp(HELLO + more, source=port))
        reader.kernel.send("from_pod", frame, context=context(LOOPBACK, gso_segs=2))
        later = ipv4(TCP, tcp(b"\x17later", source=port, sequence=9000))
        pieces = reader.send("from_pod", later)
        assert b"".join(piece.data for piece in pieces).startswith(HELLO)
        assert {(piece.is_hello, piece.is_cut) for piece in pieces} == {(True, False)}
        assert sum(len(piece.data) for piece in pieces) == len(HELLO + more)


def test_other_data_are_not_copied(reader: Reader) -> None:
    for port, data in enumerate(
        (b"GET / HTTP/1.1", b"\x16\x03\x01\0\4\2\0\0\0", b"\x17\x03\x03\0\1x", b"\x16"), 1000
    ):
        assert not reader.send("from_pod", ipv4(TCP, tcp(data, source=port)))
    assert not reader.send("to_pod", ipv4(TCP, tcp(HELLO)))


@pytest.mark.parametrize("kind", ["dns", "tls"])
def test_either_can_be_turned_off(reader: Reader, kind: str) -> None:
    frames = [ipv4(UDP, udp(QUERY)), ipv4(TCP, tcp(HELLO))]
    assert piece_ring.enable(reader.kernel.generation, frozenset({kind})) == {kind}
    [piece] = reader.send("from_pod", *frames)
    assert piece.is_hello == (kind == "tls")
    piece_ring.enable(reader.kernel.generation, frozenset())
    assert not reader.send("from_pod", *frames)


def test_the_host(reader: Reader) -> None:
    """A test run's packets to leave have a socket; none waits for those that arrive."""
    [piece] = reader.send("from_host", ipv4(UDP, udp(QUERY)))
    assert (piece.endpoint, piece.is_sent) == (HOST, True)
    answer = ipv4(UDP, udp(QUERY, source=53, destination=40000), ends=("127.0.0.2", "127.0.0.1"))
    assert not reader.send("to_host", answer)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waiting:
        waiting.bind(("127.0.0.1", 40000))
        [piece] = reader.send("to_host", answer)
    assert (piece.endpoint, piece.is_sent) == (HOST, False)


def test_a_flood_loses_its_own_messages_and_they_are_counted(reader: Reader) -> None:
    frame, sent = ipv4(UDP, udp(QUERY)), 20_000
    reader.kernel.send("from_pod", frame, repeat=sent, context=context(LOOPBACK))
    copied = len(list(reader.ring.read(reader.ring.written)))
    reader.ring.release(reader.ring.position)
    lost = reader.kernel.books.lost_pieces([LOOPBACK])[LOOPBACK]
    assert copied + lost == sent
    assert copied >= 4096  # the burst of 256 ms


def test_pieces_wrap_around_the_end(reader: Reader) -> None:
    size, seen = 0, 0
    while size < 9 << 20:
        message = bytes(i % 251 for i in range(3000 + seen))
        reader.kernel.books.close_accounts(LOOPBACK)  # a new bound
        reader.kernel.books.open_accounts(LOOPBACK)
        for _ in range(100):
            reader.kernel.send("from_pod", ipv4(UDP, udp(message)), context=context(LOOPBACK))
        pieces = list(reader.ring.read(reader.ring.written))
        assert [piece.data for piece in pieces] == [message] * 100
        reader.ring.release(reader.ring.position)
        size, seen = size + 100 * len(message), seen + 1


def test_what_is_not_released_is_read_again(reader: Reader) -> None:
    reader.kernel.send("from_pod", ipv4(UDP, udp(QUERY)), context=context(LOOPBACK))
    first = list(reader.ring.read(reader.ring.written))
    again = PieceRing(reader.kernel.generation)
    assert list(again.read(again.written)) == first
    again.skip_to(again.written)
    assert not list(again.read(again.written))
    again.close()
    reader.ring.release(reader.ring.position)
