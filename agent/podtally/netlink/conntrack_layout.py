# SPDX-License-Identifier: Apache-2.0
"""The layout of ctnetlink's requests and answers, as rows of an array, for ``conntrack``.

Attributes as in ``include/uapi/linux/netfilter/nfnetlink_conntrack.h``, in the order in which
``ctnetlink_fill_info()`` writes them: the two tuples come first, and their parts in one order.
An answer with any other head in it is not readable.
"""

import socket
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podtally.netlink.batches import MESSAGE, Bytes, Rows, address_bytes
from podtally.netlink.netlink import F_REQUEST

CT_NEW, CT_GET = 0x100, 0x101  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_*

# One connection in a request; see ``conntrack.Tuples``.
TUPLE = np.dtype(
    [
        ("local", "u8", (2,)),
        ("remote", "u8", (2,)),
        ("local_port", "u2"),
        ("remote_port", "u2"),
        ("protocol", "u1"),
        ("pad", "u1", (3,)),
    ]
)
_MAPPED = np.array([0] * 10 + [0xFF] * 2, np.uint8)  # ::ffff:0:0/96, RFC 4291 2.5.5.2

_MESSAGE = [  # with struct nfgenmsg
    *MESSAGE,
    ("family", "u1"),
    ("version", "u1"),
    ("resource", ">u2"),
]
_HEAD = ("u2", (2,))  # struct nlattr: length, type
_NESTED = 0x8000
_IP, _PROTO = 1 | _NESTED, 2 | _NESTED  # CTA_TUPLE_*
_CTA_ZONE = 18
_ZONE = [("zone_head", "u2", (2,)), ("zone", ">u2"), ("zone_pad", "u2")]
_ZONE_BYTES = 8
_ORIGINAL, _REPLY = 1 | _NESTED, 2 | _NESTED  # CTA_TUPLE_ORIG, CTA_TUPLE_REPLY


def _layout(address_bytes: int) -> np.dtype[np.void]:
    """One CTA_TUPLE_* with all that is in it, padded as netlink pads."""
    return np.dtype(
        [
            ("tuple_head", *_HEAD),
            ("ip_head", *_HEAD),
            ("source_head", *_HEAD),
            ("source", "u1", (address_bytes,)),
            ("target_head", *_HEAD),
            ("target", "u1", (address_bytes,)),
            ("proto_head", *_HEAD),
            ("number_head", *_HEAD),
            ("number", "u1"),
            ("number_pad", "u1", (3,)),
            ("source_port_head", *_HEAD),
            ("source_port", ">u2"),
            ("source_port_pad", "u2"),
            ("target_port_head", *_HEAD),
            ("target_port", ">u2"),
            ("target_port_pad", "u2"),
        ]
    )


def _fill_heads(part: Any, kind: int, first_address: int) -> None:
    """``first_address``: CTA_IP_V4_SRC or CTA_IP_V6_SRC; the other one follows it."""
    size = part.dtype["source"].itemsize
    part["tuple_head"] = part.dtype.itemsize, kind
    part["ip_head"] = 4 + 2 * (4 + size), _IP
    part["source_head"] = 4 + size, first_address
    part["target_head"] = 4 + size, first_address + 1
    part["proto_head"] = 28, _PROTO
    part["number_head"] = 5, 1  # CTA_PROTO_NUM
    part["source_port_head"] = 6, 2  # CTA_PROTO_SRC_PORT
    part["target_port_head"] = 6, 3  # CTA_PROTO_DST_PORT


class TupleLayout:
    """The messages about connections of one IP version."""

    def __init__(self, family: int, address_bytes: int, first_address: int) -> None:
        self._first_byte = 16 - address_bytes  # of 16, where an address stands in its words
        part = _layout(address_bytes)
        self.answer = np.dtype([*_MESSAGE, ("original", part), ("reply", part)])
        self._request = np.zeros(1, [*_MESSAGE, ("original", part)])
        self._request["length"] = self._request.dtype.itemsize
        self._request["kind"] = CT_GET
        self._request["flags"] = F_REQUEST
        self._request["family"] = family
        _fill_heads(self._request["original"], _ORIGINAL, first_address)
        self._in_zone = np.zeros(1, [*self._request.dtype.descr, *_ZONE])
        self._original_end = self._request.dtype.itemsize  # where its zone stands, if it has one
        pattern = np.zeros(1, self.answer)
        pattern["family"] = family
        _fill_heads(pattern["original"], _ORIGINAL, first_address)
        _fill_heads(pattern["reply"], _REPLY, first_address)
        as_bytes = pattern.view(np.uint8)
        self._heads_at = np.flatnonzero(_heads(self.answer))
        self._heads = as_bytes[self._heads_at]

    def requests(self, tuples: Rows, sequence: int, zone: int = 0) -> Rows:
        """One request for each tuple in a zone, numbered from ``sequence`` on.

        Not every kernel takes a zone (CONFIG_NF_CONNTRACK_ZONES), so the default one is not named.
        """
        requests = np.repeat(self._request, len(tuples))
        requests["sequence"] = sequence + np.arange(len(tuples), dtype=np.int64)
        original = requests["original"]
        original["source"] = address_bytes(tuples["local"])[:, self._first_byte :]
        original["target"] = address_bytes(tuples["remote"])[:, self._first_byte :]
        original["number"] = tuples["protocol"]
        original["source_port"] = tuples["local_port"]
        original["target_port"] = tuples["remote_port"]
        return self._zoned(requests, zone) if zone else requests

    def _zoned(self, requests: Rows, zone: int) -> Rows:
        zoned = np.zeros(len(requests), self._in_zone.dtype)
        for name in requests.dtype.names or ():
            zoned[name] = requests[name]
        zoned["length"] = zoned.dtype.itemsize
        zoned["zone_head"] = 6, _CTA_ZONE
        zoned["zone"] = zone
        return zoned

    def read(self, data: Bytes) -> tuple[Rows, NDArray[np.bool_]]:
        """Answers, one a row of bytes (n, room), and which of them can be read."""
        data = self._without_zones(data)
        answers = data[:, : self.answer.itemsize].copy().view(self.answer)[:, 0]
        readable = (answers["kind"] == CT_NEW) & (answers["length"] >= self.answer.itemsize)
        readable &= (data[:, self._heads_at] == self._heads).all(axis=1)
        return answers, readable

    def _without_zones(self, data: Bytes) -> Bytes:
        """Return the same answers without zones of one direction (CTA_TUPLE_ZONE).

        The attribute follows the parts of a tuple and adds to its length.
        """
        part, first = self.answer["original"].itemsize, self._original_end
        at = first - part
        for start, end in ((at, first), (first, first + part)):
            lengths = data[:, start : start + 2].copy().view(np.uint16)[:, 0]
            longer = np.flatnonzero(lengths == part + _ZONE_BYTES)
            if len(longer):
                data = data.copy()
                data[longer, start : start + 2] = np.frombuffer(np.uint16(part).tobytes(), np.uint8)
                data[longer, end:-_ZONE_BYTES] = data[longer, end + _ZONE_BYTES :]
        return data

    def same(self, answers: Rows, requests: Rows) -> NDArray[np.bool_]:
        """Return which answers have the requested tuple as their original one. (n,)"""
        pairs = (np.ascontiguousarray(rows["original"]) for rows in (answers, requests))
        ours, theirs = (pair.view(np.uint8).reshape(len(pair), pair.itemsize) for pair in pairs)
        same: NDArray[np.bool_] = (ours == theirs).all(axis=1)
        return same

    def words(self, address: Bytes) -> NDArray[np.uint64]:
        """Addresses of this version as words in network order. (n, 2)"""
        whole = np.empty((len(address), 16), np.uint8)
        whole[:, :12] = _MAPPED
        whole[:, self._first_byte :] = address
        return whole.view(np.uint64)


def _heads(dtype: np.dtype[np.void]) -> Bytes:
    """Return which bytes of an answer have a known meaning: not zero. (itemsize,)"""
    marked = np.zeros(1, dtype)
    marked["family"] = 0xFF
    for part in (marked["original"], marked["reply"]):
        for name in part.dtype.names or ():
            if name.endswith("_head"):
                part[name] = 0xFFFF
    return marked.view(np.uint8)


IPV4 = TupleLayout(socket.AF_INET, 4, 1)
IPV6 = TupleLayout(socket.AF_INET6, 16, 3)
# What follows the tuples is not wanted; each may have a zone of its own.
ROOM = IPV6.answer.itemsize + 2 * _ZONE_BYTES
