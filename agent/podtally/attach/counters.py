# SPDX-License-Identifier: Apache-2.0
"""Read the byte counters of all interfaces at once; mapping them to endpoints is done elsewhere."""

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.netlink.netlink import F_DUMP, F_DUMP_INTR, F_REQUEST, HEADER, open_socket

_NEWSTATS = 92
_GETSTATS = 94
_DONE = 3
_ERROR = 2
# struct if_stats_msg: family, padding, ifindex, filter_mask
_BODY = struct.Struct("=BBHII")
_LINK_64 = 1  # IFLA_STATS_LINK_64, and its bit in the mask
_ROOM = 1 << 16
_TRIES = 5

# Words of struct rtnl_link_stats64: packets, bytes, errors, dropped; each received and sent
_WORDS = 8

Counts = NDArray[np.int64]


class LinkCounters(NamedTuple):
    """Counters of all interfaces, each of shape (links,)."""

    ifindex: Counts
    rx_bytes: Counts
    tx_bytes: Counts
    rx_frames: Counts
    tx_frames: Counts
    rx_dropped: Counts  # frames, as in ``model.Frames``
    tx_dropped: Counts


class CounterReader:
    """Reads every interface's bytes by one RTM_GETSTATS dump: 232 bytes a link, no names."""

    def __init__(self) -> None:
        self._socket = open_socket(1 << 20)
        self._buffer = bytearray(_ROOM)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def read(self) -> LinkCounters:
        for _ in range(_TRIES):
            rows, whole = self._dump()
            if whole:  # else links came or went meanwhile, and one may be missing
                break
        ifindex, rx, tx, rx_bytes, tx_bytes, _, tx_errors, rx_dropped, tx_dropped = rows
        return LinkCounters(ifindex, rx_bytes, tx_bytes, rx, tx, rx_dropped, tx_dropped + tx_errors)

    def _dump(self) -> tuple[Counts, bool]:
        self._sequence += 1
        body = _BODY.pack(0, 0, 0, 0, _LINK_64)
        header = (HEADER.size + len(body), _GETSTATS, F_REQUEST | F_DUMP, self._sequence, 0)
        self._socket.send(HEADER.pack(*header) + body)
        parts = [np.empty((1 + _WORDS, 0), np.int64)]
        whole, done = True, False
        while not done:
            length = self._socket.recv_into(self._buffer)
            rows, intact, done = _parse(memoryview(self._buffer)[:length], self._sequence)
            parts.append(rows)
            whole &= intact
        return np.concatenate(parts, axis=1), whole


def _parse(data: memoryview, sequence: int) -> tuple[Counts, bool, bool]:
    """One datagram: rows (9, n), whether no change cut in, whether the dump ends here.

    All messages of a datagram have one size, but for the one that ends it.
    """
    size, kind, flags, number, _ = HEADER.unpack_from(data)
    nothing = np.empty((1 + _WORDS, 0), np.int64)
    if number != sequence:
        return nothing, True, False
    if kind == _ERROR:
        code = -struct.unpack_from("=i", data, HEADER.size)[0]
        raise OSError(code, "reading the interfaces' counters")
    if kind != _NEWSTATS:
        return nothing, not flags & F_DUMP_INTR, True
    count = 1
    while (count + 1) * size <= len(data) and _kind(data, count * size) == _NEWSTATS:
        count += 1
    table = np.frombuffer(data, np.uint8, count * size).reshape(count, size)
    stats = _stats_offset(data)
    rows = np.empty((1 + _WORDS, count), np.int64)
    rows[0] = table[:, HEADER.size + 4 : HEADER.size + 8].copy().view(np.uint32)[:, 0]
    rows[1:] = table[:, stats : stats + 8 * _WORDS].copy().view(np.int64).T
    all_flags = table[:, 6:8].copy().view(np.uint16)
    done = len(data) > count * size and _kind(data, count * size) == _DONE
    return rows, not (all_flags & F_DUMP_INTR).any(), done


def _kind(data: memoryview, offset: int) -> int:
    return int(HEADER.unpack_from(data, offset)[1])


def _stats_offset(data: memoryview) -> int:
    """Return where the counters stand: some machines align them by an empty attribute."""
    offset = HEADER.size + _BODY.size
    length, kind = struct.unpack_from("=HH", data, offset)
    while kind != _LINK_64:
        offset += (length + 3) & ~3
        length, kind = struct.unpack_from("=HH", data, offset)
    return offset + 4
