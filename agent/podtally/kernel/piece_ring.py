# SPDX-License-Identifier: Apache-2.0
"""Reads captured pieces from the ring buffer, which is a journal like the flow table.

What is read stays in the ring buffer until ``release``, after the checkpoint: the next
agent finds what this one did not keep. Only the part that is read is mapped, and only
meanwhile: all of it mapped would count as the agent's memory, twice.

Layout: kernel/bpf/ringbuf.c: a page with the consumer's position, one with the producer's, the
data twice. A record has a header of 8 bytes: length with two flags, and an offset.
"""

import mmap
import os
import struct
from collections.abc import Iterator

import numpy as np

from podtally.kernel import abi, bpf
from podtally.kernel.captured import HOST, Captured
from podtally.kernel.header_text import read_constants
from podtally.kernel.pins import Generation

PROGRAMS = {  # entries of `captures`: by kind, direction, and whether it is an uplink
    "dns_from_pod": 0,
    "dns_from_host": 1,
    "dns_to_pod": 2,
    "dns_to_host": 3,
    "tls_from_pod": 4,
    "tls_from_host": 5,
}
_HEADER = struct.Struct("=II")
_BUSY, _DISCARDED = 1 << 31, 1 << 30
_WINDOW = 1 << 16  # bytes that are mapped at once, at least


class PieceRing:
    """The map ``messages`` of one generation."""

    def __init__(self, generation: Generation) -> None:
        """Raises OSError naming the pin."""
        layout = generation.about.layout
        assert layout.piece is not None
        self._fd = generation.map_fd("messages")
        self._size = layout.ring_bytes
        self._piece = _piece_struct(layout.piece)
        constants = read_constants(layout.text)
        self._sent, self._host = constants["PIECE_SENT"], constants["PIECE_HOST"]
        self._hello, self._cut = constants["PIECE_HELLO"], constants["PIECE_CUT"]
        self._consumer = mmap.mmap(self._fd, mmap.PAGESIZE, mmap.MAP_SHARED)
        self._producer = mmap.mmap(
            self._fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ, offset=mmap.PAGESIZE
        )
        self.position = self.released

    def close(self) -> None:
        self._consumer.close()
        self._producer.close()
        os.close(self._fd)

    @property
    def released(self) -> int:
        """Up to where the kernel may overwrite."""
        return int.from_bytes(self._consumer[:8], "little")

    @property
    def written(self) -> int:
        return int.from_bytes(self._producer[:8], "little")

    def skip_to(self, position: int) -> None:
        """Continue at a checkpoint's position, if it is still to be read."""
        if self.position <= position <= self.written:
            self.position = position

    def release(self, position: int) -> None:
        """Give back what was read up to a position."""
        self._consumer[:8] = position.to_bytes(8, "little")

    def read(self, until: int) -> Iterator[Captured]:
        """Yield the pieces up to a position; ``position`` moves along."""
        while self.position < until:
            start = self.position % self._size
            first = start // mmap.PAGESIZE * mmap.PAGESIZE
            wanted = min(until - self.position, _WINDOW) + start - first
            # The data are there twice: a record that wraps is whole behind the end.
            size = (-(-wanted // mmap.PAGESIZE) + 2) * mmap.PAGESIZE  # one record more
            size = min(size, 2 * self._size - first)
            with mmap.mmap(
                self._fd,
                size,
                mmap.MAP_SHARED,
                mmap.PROT_READ,
                offset=2 * mmap.PAGESIZE + first,
            ) as window:
                yield from self._records(window, start - first, until)
            if self.position % self._size == start and self.position < until:
                return  # a record that is being written

    def _records(self, window: mmap.mmap, at: int, until: int) -> Iterator[Captured]:
        while self.position < until and at + _HEADER.size <= len(window):
            length, _ = _HEADER.unpack_from(window, at)
            if length & _BUSY:
                return
            size = length & ~_DISCARDED
            end = at + _HEADER.size + size
            if end > len(window):
                return
            if not length & _DISCARDED:
                yield self._captured(window, at + _HEADER.size)
            step = -(-(_HEADER.size + size) // 8) * 8
            at += step
            self.position += step

    def _captured(self, window: mmap.mmap, at: int) -> Captured:
        fields = self._piece.unpack_from(window, at)
        at_ns, tick_ns, local, remote, ifindex, via, sequence = fields[:7]
        _, local_port, remote_port, size, protocol, facts = fields[7:]
        is_hello = bool(facts & self._hello)
        data = at + self._piece.size
        return Captured(
            HOST if facts & self._host else ifindex,
            at_ns if is_hello else tick_ns,
            local,
            remote,
            local_port,
            remote_port,
            protocol,
            bool(facts & self._sent),
            sequence,
            bool(facts & self._cut),
            window[data : data + size],
            is_hello,
            via,
            at_ns,
        )


def _piece_struct(layout: abi.Struct) -> struct.Struct:
    """Return what unpacks a piece; ValueError if the fields are others than are read here."""
    fields = (
        *("at_ns", "tick_ns", "local_address", "remote_address", "ifindex", "via", "sequence"),
        *("pad", "local_port", "remote_port", "size", "protocol", "facts"),
    )
    found = struct.Struct("=QQ16s16sIIIIHHHBB")
    if layout.names != fields or layout.itemsize != found.size:
        raise ValueError("struct piece has other fields")
    return found


def enable(generation: Generation, names: frozenset[str]) -> frozenset[str]:
    """Turn on the capture of ``dns`` and ``tls``; return those that the kernel offers.

    Others are turned off: the entries of ``captures`` say which programs run, and the word
    ``always`` of ``control`` whether packets are looked at.
    """
    if "captures" not in generation.maps:
        return frozenset()
    found: set[str] = set()
    with bpf.owned(generation.map_fd("captures")) as captures:
        for program, entry in PROGRAMS.items():
            key, kind = np.array([entry], np.uint32), program.split("_")[0]
            if kind in names and program in generation.programs and "messages" in generation.maps:
                with bpf.owned(bpf.obj_get(generation.root / "progs" / program)) as fd:
                    bpf.update(captures, key, np.array([fd], np.uint32))
                found.add(kind)
            else:
                bpf.delete(captures, key)
    _set_always(generation, bool(found))
    return frozenset(found)


def _set_always(generation: Generation, is_on: bool) -> None:
    layout = generation.about.layout
    plain = 1 << read_constants(layout.text)["SEEN_PLAIN_BIT"]
    with (
        bpf.owned(generation.map_fd("control")) as fd,
        mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED) as memory,
    ):
        words = np.frombuffer(memory, layout.control, 1)
        words["always"] = plain if is_on else 0
        del words  # the mapping cannot be closed before
