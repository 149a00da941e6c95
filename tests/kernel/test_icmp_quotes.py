# SPDX-License-Identifier: Apache-2.0
"""bpf/quote.h: which flow an ICMP error is about, and what only looks like one."""

import struct

import pytest

from podtally.ledger.connections.connections import flags_of
from podtally.ledger.connections.icmp_errors import errors_among, quoted_fingerprints
from tests.kernel.driver import FROM, NOTHING, OTHER, TO, Kernel
from tests.kernel.packets import (
    A4,
    A6,
    B4,
    B6,
    DESTINATION,
    FRAGMENT,
    ICMP,
    ICMPV6,
    MORE_FRAGMENTS,
    SCTP,
    TCP,
    TYPE_8021AD,
    UDP,
    ipv4,
    ipv6,
    ipv6_with,
    ports,
    reversed_ends,
    tcp,
    vlan,
)

DIRECTION = {"from_pod": FROM, "to_pod": TO, "from_host": FROM, "to_host": TO}
ROUTER4, ROUTER6 = "198.18.0.1", "2001:db8:23::1"
BACK4, BACK6 = (B4, A4), (B6, A6)

ECHO4, ECHO6 = ipv4(ICMP, bytes([8, *bytes(7)])), ipv6(ICMPV6, bytes([128, *bytes(7)]))
ASKED = {
    "v4 tcp":           ipv4(TCP, tcp()),
    "v4 udp":           ipv4(UDP, ports()),
    "v4 sctp":          ipv4(SCTP, ports()),
    "v4 options":       ipv4(UDP, ports(), options=bytes(8)),
    "v4 echo":          ECHO4,
    "v4 first fragment": ipv4(UDP, ports(), MORE_FRAGMENTS),
    "v6 tcp":           ipv6(TCP, tcp()),
    "v6 udp":           ipv6(UDP, ports()),
    "v6 echo":          ECHO6,
    "v6 first fragment": ipv6_with([FRAGMENT], UDP, ports(), 1),
}  # fmt: skip
ERRORS4, ERRORS6 = (3, 4, 5, 11, 12), (1, 2, 3, 4)


def is_v4(frame: bytes) -> bool:
    return frame[12:14] == b"\x08\x00"


def error(
    asked: bytes, kind: int | None = None, sender: str | None = None, quoted: int = 500
) -> bytes:
    """What ``asked`` is answered with, quoting some bytes of it."""
    packet = asked[14:][:quoted]
    if is_v4(asked):
        message = struct.pack("!BBHI", ERRORS4[0] if kind is None else kind, 3, 0, 0) + packet
        return ipv4(ICMP, message, ends=(sender or B4, A4))
    message = struct.pack("!BBHI", ERRORS6[0] if kind is None else kind, 4, 0, 0) + packet
    return ipv6(ICMPV6, message, ends=(sender or B6, A6))


def opposite(program: str) -> str:
    return program.replace("from", "TO").replace("to", "from").replace("TO", "to")


def is_about(kernel: Kernel, program: str, asked: bytes, frame: bytes) -> bool:
    """Send both; return whether the second is in a row of errors about the first's flow."""
    kernel.send(opposite(program), asked)
    ((flow,),) = [rows.fingerprint for rows in kernel.table.read(kernel.table.epoch & 1)]
    kernel.send(program, frame)
    (rows,) = kernel.table.read(kernel.table.epoch & 1)
    flags = flags_of(kernel.layout)
    found = errors_among(rows.seen, flags)
    direction = DIRECTION[program]
    assert kernel.account(direction, OTHER) == NOTHING
    assert rows.bytes[:, direction].sum() == len(frame)
    if not found.any():
        return False
    cold = kernel.table.cold(rows.place)[found]
    assert cold["protocol"].tolist() == [ICMP if is_v4(asked) else ICMPV6]
    assert (cold["local_port"][0], cold["remote_port"][0]) == (0, 0)
    return bool(quoted_fingerprints(rows, flags)[found] == [flow])


@pytest.mark.parametrize("program", DIRECTION)
@pytest.mark.parametrize("name", ASKED)
def test_an_error_is_about_what_it_quotes(kernel: Kernel, program: str, name: str) -> None:
    asked = ASKED[name]
    assert is_about(kernel, program, asked, error(asked))


@pytest.mark.parametrize("kind", [*ERRORS4, *ERRORS6])
def test_all_kinds_of_errors(kernel: Kernel, kind: int) -> None:
    assert is_about(kernel, "to_pod", ASKED["v4 udp"], error(ASKED["v4 udp"], kind)) == (
        kind in ERRORS4
    )
    kernel.reset()
    assert is_about(kernel, "to_pod", ASKED["v6 udp"], error(ASKED["v6 udp"], kind)) == (
        kind in ERRORS6
    )


@pytest.mark.parametrize("program", DIRECTION)
@pytest.mark.parametrize("name", ["v4 udp", "v6 udp"])
def test_a_pod_sends_no_errors_for_others(kernel: Kernel, program: str, name: str) -> None:
    """A router on the way sends errors, from outside, or as the host."""
    asked = ASKED[name]
    sender = ROUTER4 if is_v4(asked) else ROUTER6
    assert is_about(kernel, program, asked, error(asked, sender=sender)) == (program != "from_pod")


UDP4, UDP6 = ASKED["v4 udp"], ASKED["v6 udp"]
WHOLE4, WHOLE6 = error(UDP4), error(UDP6)
ELSE4, ELSE6 = ipv4(UDP, ports(), ends=("10.99.0.9", B4)), ipv6(UDP, ports(), ends=(ROUTER6, B6))
LATER = error(UDP4)[14 + 20 :]
# of the same kind, but they are no answers, or carry more than one
LOOKALIKES = {
    "v4 quotes what another sent":  (UDP4, error(ELSE4)),
    "v6 quotes what another sent":  (UDP6, error(ELSE6)),
    "v4 quotes its own packet":     (UDP4, error(reversed_ends(UDP4))),
    "v6 quotes its own packet":     (UDP6, error(reversed_ends(UDP6))),
    "v4 too long":                  (UDP4, error(UDP4 + bytes(600), quoted=600)),
    "v6 too long":                  (UDP6, error(UDP6 + bytes(1300), quoted=1300)),
    "v4 echo":                      (UDP4, error(UDP4, 8)),
    "v6 echo":                      (UDP6, error(UDP6, 128)),
    "v4 quotes too little":         (UDP4, error(UDP4, quoted=23)),
    "v6 quotes too little":         (UDP6, error(UDP6, quoted=43)),
    "v4 quotes half a header":      (UDP4, error(UDP4, quoted=19)),
    "v6 quotes half a header":      (UDP6, error(UDP6, quoted=39)),
    "v4 quotes nothing":            (UDP4, error(UDP4, quoted=0)),
    "v6 quotes nothing":            (UDP6, error(UDP6, quoted=0)),
    "v4 quotes IPv6":               (UDP4, error(UDP4)[: 14 + 20 + 8] + UDP6[14:]),
    "v6 quotes IPv4":               (UDP6, error(UDP6)[: 14 + 40 + 8] + UDP4[14:] + bytes(20)),
    "v4 in fragments":              (UDP4, ipv4(ICMP, LATER, MORE_FRAGMENTS, ends=BACK4)),
    "v4 a later fragment":          (UDP4, ipv4(ICMP, LATER, 1, ends=BACK4)),
    "v6 in fragments":              (UDP6, reversed_ends(ipv6_with([FRAGMENT], ICMPV6, error(UDP6)[54:], 1))),
    "v4 of another protocol":       (UDP4, ipv4(ICMPV6, LATER, ends=BACK4)),
    "v6 of another protocol":       (UDP6, ipv6(ICMP, error(UDP6)[54:], ends=BACK6)),
    "v4 beyond its length":         (UDP4, ipv4(ICMP, LATER, ends=BACK4, length=20 + 8)),
    "v6 beyond its length":         (UDP6, ipv6(ICMPV6, error(UDP6)[54:], ends=BACK6, length=8)),
}  # fmt: skip


@pytest.mark.parametrize("program", DIRECTION)
@pytest.mark.parametrize("name", LOOKALIKES)
def test_a_lookalike_is_icmp(kernel: Kernel, program: str, name: str) -> None:
    asked, frame = LOOKALIKES[name]
    assert not is_about(kernel, program, asked, frame)


@pytest.mark.parametrize(
    "wrapped",
    [
        (UDP4, vlan(WHOLE4)),
        (UDP6, vlan(WHOLE6)),
        (UDP6, vlan(vlan(WHOLE6), TYPE_8021AD)),
        (UDP4, ipv4(ICMP, LATER, ends=BACK4, options=bytes(4))),
    ],
    ids=["802.1Q v4", "802.1Q v6", "two tags v6", "v4 options"],
)
def test_behind_other_headers(kernel: Kernel, wrapped: tuple[bytes, bytes]) -> None:
    assert is_about(kernel, "to_pod", *wrapped)


def test_behind_an_extension_header(kernel: Kernel) -> None:
    message = error(UDP6)[54:]
    frame = ipv6(DESTINATION, bytes([ICMPV6, 0, 1, 4, 0, 0, 0, 0]) + message, ends=BACK6)
    assert is_about(kernel, "to_pod", UDP6, frame)


@pytest.mark.parametrize("frame", [WHOLE4, WHOLE6], ids=["v4", "v6"])
def test_cut_short_at_every_byte(kernel: Kernel, frame: bytes) -> None:
    """No error is about what is not there."""
    needed = len(frame) - 4  # the ports are quoted, and the datagram's length and checksum
    for length in range(14 + (20 if is_v4(frame) else 40), needed):
        kernel.send("to_pod", frame[:length])

    flags = flags_of(kernel.layout)
    (rows,) = kernel.table.read(kernel.table.epoch & 1)
    assert len(rows.seen) == 1
    assert not errors_among(rows.seen, flags).any()


def test_rows_of_different_origin_stay_apart(kernel: Kernel) -> None:
    """Else an error from one who is known could stand for what goes to another."""
    kernel.send("to_pod", error(UDP4))
    kernel.send("to_pod", error(UDP4, sender=ROUTER4))
    kernel.send("from_pod", error(UDP4))
    kernel.send("from_host", error(UDP4, sender=ROUTER4))
    kernel.send("to_pod", error(UDP4))

    entries = kernel.entries()
    assert sorted(entry.packets for entry in entries) == [(0, 1), (0, 2), (1, 0), (1, 0)]
    remote = {entry.flow.remote for entry in entries if entry.packets[TO] == 1}
    assert remote == {ROUTER4}
