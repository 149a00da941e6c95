# SPDX-License-Identifier: Apache-2.0
"""Requests and answers of inet_diag, held against bytes that a kernel took and gave."""

import errno
import socket
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podtally.netlink.batches import Bytes, Rows, failures, sequences
from podtally.netlink.sock_diag_layout import (
    PACKET,
    ROOM,
    TCP,
    UDP,
    are_sockets,
    cgroup_ids,
    requests,
)

CGROUP = 123354
# All from kernel 6.18, sequence 7, and of that cgroup. 127.0.0.1:45547, listening:
LISTENER = bytes.fromhex(
    "7c0000001400000007000000dd500000020a0000b1eb00007f00000100000000000000000000000000000000"
    "00000000000000000000000000000000080000000000000000000000000000008000000000000000adde0700"
    "050008000000000008000f00000000000c001500dae10100000000000600160052000000"
)
# [::]:33929, UDP, and SO_MARK looks like the head of the attribute that is wanted
MARKED = bytes.fromhex(
    "840000001400000007000000dd5000000a070000848900000000000000000000000000000000000000000000"
    "00000000000000000000000000000000090000000000000000000000000000000000000000000000aede0700"
    "050008000000000005000b000000000008000f000c0015000c001500dae10100000000000600160010000000"
)
TIME_WAIT = bytes.fromhex(
    "600000001400000007000000dd50000002060300b1ebed747f0000010000000000000000000000007f000001"
    "000000000000000000000000000000000a0000000000000060ea000000000000000000000000000000000000"
    "08000f0000000000"
)
# No socket at [::1]:1, UDP; the request follows the error code
REFUSAL = bytes.fromhex(
    "5c0000000200000007000000dd500000feffffff480000001400010007000000000000000a110000ffffffff"
    "00010001000000000000000000000000000000010000000000000000000000000000000100000000ffffffff"
    "ffffffff"
)
HOME4, HOME6 = socket.inet_aton("127.0.0.1"), socket.inet_pton(socket.AF_INET6, "::1")


def data_of(*messages: bytes) -> Bytes:
    """As they are received, over what was there before."""
    rows = np.full((len(messages), ROOM), 0xEE, np.uint8)
    for row, message in zip(rows, messages, strict=True):
        row[: len(message[:ROOM])] = np.frombuffer(message[:ROOM], np.uint8)
    return rows


def packet(local: bytes, remote: bytes, protocol: int, interface: int = 0) -> Rows:
    row = np.zeros(1, PACKET)
    for name, address in (("local", local), ("remote", remote)):
        whole = bytes(10) + b"\xff\xff" + address if len(address) == 4 else address
        row[name] = np.frombuffer(whole, np.uint64)
    row["local_port"], row["remote_port"] = 5000, 5001
    row["protocol"], row["interface"] = protocol, interface
    return row


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize(
    ("family", "local", "remote"),
    [
        (socket.AF_INET, HOME4, socket.inet_aton("10.99.0.2")),
        (socket.AF_INET6, HOME6, socket.inet_pton(socket.AF_INET6, "2001:db8::2")),
    ],
    ids=["v4", "v6"],
)
def test_a_request(protocol: int, family: int, local: bytes, remote: bytes) -> None:
    """A header and a struct inet_diag_req_v2; UDP has the ends in the packet's order."""
    ends = [(5000, local), (5001, remote)]
    if protocol == UDP:
        ends.reverse()
    (source_port, source), (target_port, target) = ends
    wanted = struct.pack("=IHHII", 72, 20, 1, 7, 0)
    wanted += struct.pack("=BBBBI", family, protocol, 0, 0, 0)
    wanted += struct.pack("!HH16s16s", source_port, target_port, source, target)
    wanted += struct.pack("=III", 3, 0xFFFFFFFF, 0xFFFFFFFF)
    assert requests(packet(local, remote, protocol, 3), 7).tobytes() == wanted


def test_requests_are_numbered() -> None:
    rows = np.repeat(packet(HOME4, HOME4, TCP), 3)
    assert requests(rows, 23)["sequence"].tolist() == [23, 24, 25]


def test_answers_are_read() -> None:
    data = data_of(LISTENER, MARKED, TIME_WAIT, REFUSAL, LISTENER)
    assert cgroup_ids(data).tolist() == [CGROUP, CGROUP, 0, 0, CGROUP]
    assert are_sockets(data).tolist() == [True, True, True, False, True]
    assert failures(data).tolist() == [0, 0, 0, errno.ENOENT, 0]
    assert sequences(data).tolist() == [7] * 5


def test_nothing_is_read() -> None:
    assert cgroup_ids(data_of()).tolist() == []


def test_ids_of_more_than_32_bits() -> None:
    """Of 32-bit kernels and of inode numbers that came round: the generation is in the high half."""
    changed = LISTENER.replace(struct.pack("=Q", CGROUP), struct.pack("=Q", CGROUP | 5 << 32))
    assert cgroup_ids(data_of(changed)).tolist() == [CGROUP | 5 << 32]


def test_cut_short_it_is_not_read() -> None:
    """What another answer has left in the row is not taken for the rest of this one."""
    end = LISTENER.index(struct.pack("=Q", CGROUP)) + 8
    for length in range(len(LISTENER)):
        data = data_of(LISTENER)
        data[0, :4].view(np.uint32)[0] = length
        assert cgroup_ids(data).tolist() == [CGROUP if length >= end else 0], length
        assert are_sockets(data).tolist() == [length >= 88]


@pytest.mark.parametrize("length", [0, 3, 11, 13, 0xFFFF])
def test_an_attribute_of_another_length_is_not_it(length: int) -> None:
    """And one that is shorter than its head ends the message."""
    at = LISTENER.index(struct.pack("=HH", 12, 21))
    changed = LISTENER[:at] + struct.pack("=H", length) + LISTENER[at + 2 :]
    assert cgroup_ids(data_of(changed)).tolist() == [0]


@given(st.lists(st.binary(max_size=ROOM - 88), min_size=1, max_size=4))
def test_whatever_follows_each_row_is_read_alone(tails: list[bytes]) -> None:
    messages = [
        struct.pack("=IH", 88 + len(tail), 20) + LISTENER[6:88] + tail for tail in tails
    ] + [LISTENER]
    together = cgroup_ids(data_of(*messages)).tolist()
    assert together == [int(cgroup_ids(data_of(message))[0]) for message in messages]
    assert together[-1] == CGROUP
