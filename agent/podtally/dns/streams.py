# SPDX-License-Identifier: Apache-2.0
"""Cuts DNS over TCP into messages (RFC 7766 8): several in a segment, or one over several."""

from collections import OrderedDict
from collections.abc import Hashable

MAX_STREAMS = 4096  # the longest idle one goes first
MAX_STREAMS_OF_ONE = 256  # of one owner
MAX_BUFFERED = 1 << 22  # bytes, of all streams
_Place = tuple[int, Hashable]
_WORD = 0xFFFFFFFF


class _Stream:
    __slots__ = ("buffer", "is_lost", "next")

    def __init__(self, sequence: int) -> None:
        self.next = sequence
        self.buffer = b""
        self.is_lost = False


class DnsStreams:
    """One direction of each connection is a stream; all are bounded."""

    def __init__(self) -> None:
        self._streams: OrderedDict[_Place, _Stream] = OrderedDict()
        self._of_owner: dict[int, int] = {}
        self._buffered = 0
        self.gaps = 0  # segments that did not follow their stream

    def add(self, owner: int, key: Hashable, sequence: int, data: bytes) -> list[bytes]:
        """Return the messages that a segment completes. A gap loses what it touches."""
        place = (owner, key)
        stream = self._streams.get(place)
        if stream is None:
            stream = self._begin(owner, place, sequence)
        else:
            self._streams.move_to_end(place)
        ahead = (sequence - stream.next) & _WORD
        if ahead > _WORD // 2:  # repeated bytes
            data = data[_WORD + 1 - ahead :]
        elif ahead:
            self.gaps += 1
            self._buffer(stream, b"")
            stream.is_lost = True
            stream.next = sequence
        if not data:
            return []
        stream.next = (stream.next + len(data)) & _WORD
        if stream.is_lost:  # continues where a segment is a message
            if len(data) < 2 or int.from_bytes(data[:2]) != len(data) - 2:
                return []
            stream.is_lost = False
        return self._cut(stream, stream.buffer + data)

    def _cut(self, stream: _Stream, data: bytes) -> list[bytes]:
        messages, at = [], 0
        while len(data) - at >= 2:
            size = int.from_bytes(data[at : at + 2])
            if len(data) - at - 2 < size:
                break
            messages.append(data[at + 2 : at + 2 + size])
            at += 2 + size
        self._buffer(stream, data[at:])
        return messages

    def _begin(self, owner: int, place: _Place, sequence: int) -> _Stream:
        if self._of_owner.get(owner, 0) >= MAX_STREAMS_OF_ONE:
            self._drop(next(each for each in self._streams if each[0] == owner))
        while len(self._streams) >= MAX_STREAMS or self._buffered > MAX_BUFFERED:
            self._drop(next(iter(self._streams)))
        stream = self._streams[place] = _Stream(sequence)
        self._of_owner[owner] = self._of_owner.get(owner, 0) + 1
        return stream

    def _drop(self, place: _Place) -> None:
        self._buffer(self._streams.pop(place), b"")
        owner = place[0]
        self._of_owner[owner] -= 1
        if not self._of_owner[owner]:
            del self._of_owner[owner]

    def _buffer(self, stream: _Stream, data: bytes) -> None:
        self._buffered += len(data) - len(stream.buffer)
        stream.buffer = data
