# SPDX-License-Identifier: Apache-2.0
"""Requests and answers of ctnetlink, held against bytes that a kernel took and gave."""

import errno
import ipaddress
import socket
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podtally.netlink.batches import Bytes, Rows, failures, is_mapped, sequences
from podtally.netlink.conntrack_layout import IPV4, IPV6, ROOM, TUPLE, TupleLayout

# 127.0.0.1:20000 -> 127.0.0.1:9999, UDP, not translated; kernel 6.18, sequence 7
ANSWER = bytes.fromhex(
    "a400000000010200070000008a190000020000003400018014000180080001007f000001080002007f000001"
    "1c0002800500010011000000060002004e20000006000300270f00003400028014000180080001007f000001"
    "080002007f0000011c000280050001001100000006000200270f0000060003004e2000000800030000000188"
    "080008000000000008000c009c6d851708000b000000000208000700"
)
REFUSAL = bytes.fromhex("2400000002000001080000008a190000feffffff48000000010101000800000000000000")
ADDRESSES4 = st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address)
ADDRESSES6 = st.integers(2**48, 2**128 - 1).map(ipaddress.IPv6Address)
PORTS = st.integers(0, 65535)


def row_of(local: bytes, remote: bytes, local_port: int, remote_port: int, protocol: int) -> Rows:
    row = np.zeros(1, TUPLE)
    for name, address in (("local", local), ("remote", remote)):
        whole = bytes(10) + b"\xff\xff" + address if len(address) == 4 else address
        row[name] = np.frombuffer(whole, np.uint64)
    row["local_port"], row["remote_port"], row["protocol"] = local_port, remote_port, protocol
    return row


def data_of(*messages: bytes) -> Bytes:
    """As they are received: cut to the room there is."""
    rows = np.zeros((len(messages), ROOM), np.uint8)
    for row, message in zip(rows, messages, strict=True):
        row[: len(message[:ROOM])] = np.frombuffer(message[:ROOM], np.uint8)
    return rows


def test_a_request_is_what_the_kernel_took() -> None:
    home = socket.inet_aton("127.0.0.1")
    request = IPV4.requests(row_of(home, home, 20000, 9999, 17), 7).tobytes()
    header = struct.pack("=IHHIIBBH", 72, 0x101, 1, 7, 0, socket.AF_INET, 0, 0)
    assert request == header + ANSWER[20:72]


def test_an_answer_is_read() -> None:
    data = data_of(ANSWER, REFUSAL)
    answers, readable = IPV4.read(data)
    assert readable.tolist() == [True, False]
    assert sequences(data).tolist() == [7, 8]
    assert failures(data).tolist() == [0, errno.ENOENT]
    reply = answers["reply"][:1]
    assert IPV4.words(reply["source"]).tobytes() == bytes(10) + b"\xff\xff\x7f\0\0\1"
    assert reply["source_port"].tolist() == [9999]


@pytest.mark.parametrize("at", [4, 16, 20, 22, 24, 28, 36, 44, 48, 56, 64, 72, 76, 96, 100, 116])
def test_with_any_other_head_it_is_not(at: int) -> None:
    changed = bytearray(ANSWER)
    changed[at] ^= 1
    assert not IPV4.read(data_of(bytes(changed)))[1].any()


def test_cut_short_it_is_not_either() -> None:
    """What another answer has left in the row is not taken for the rest of this one."""
    short = struct.pack("=I", 123) + ANSWER[4:]
    assert not IPV4.read(data_of(short))[1].any()
    assert not IPV6.read(data_of(ANSWER))[1].any()


def mirrored(version: TupleLayout, request: Rows) -> bytes:
    """An answer without translation, as the kernel would give it."""
    original = request["original"][0]
    reply = original.copy()
    reply["tuple_head"][1] = 2 | 0x8000
    reply["source"], reply["target"] = original["target"], original["source"]
    reply["source_port"], reply["target_port"] = original["target_port"], original["source_port"]
    body = original.tobytes() + reply.tobytes()
    header = struct.pack("=IHHII", 20 + len(body), 0x100, 2, int(request["sequence"][0]), 0)
    family = request.tobytes()[16:20]
    return bytes(header + family + body)


@given(st.sampled_from((ADDRESSES4, ADDRESSES6)).flatmap(lambda s: st.tuples(s, s)), PORTS, PORTS)
def test_what_is_asked_for_comes_back(
    ends: tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...], ours: int, theirs: int
) -> None:
    version = IPV4 if ends[0].version == 4 else IPV6
    row = row_of(ends[0].packed, ends[1].packed, ours, theirs, 6)
    assert (is_mapped(row["local"]) == (version is IPV4)).all()
    request = version.requests(row, 23)
    answers, readable = version.read(data_of(mirrored(version, request)))
    assert readable.all()
    assert version.same(answers, request).all()
    assert (version.words(answers["reply"]["source"]) == row["remote"]).all()
    assert answers["reply"]["source_port"].tolist() == [theirs]
    other = version.requests(row_of(ends[0].packed, ends[1].packed, ours ^ 1, theirs, 6), 23)
    assert not version.same(answers, other).any()
