# SPDX-License-Identifier: Apache-2.0
"""DNS over TCP: messages and segments do not match, segments repeat, and some are missing."""

from podtally.dns.streams import MAX_STREAMS, MAX_STREAMS_OF_ONE, DnsStreams

MESSAGES = [bytes([i]) * (20 + i) for i in range(23)]
STREAM = b"".join(len(each).to_bytes(2) + each for each in MESSAGES)
START = 0xFFFFFFF0  # wraps


def segments(size: int) -> list[tuple[int, bytes]]:
    return [
        ((START + at) & 0xFFFFFFFF, STREAM[at : at + size]) for at in range(0, len(STREAM), size)
    ]


def test_segments_of_any_size() -> None:
    for size in (1, 2, 3, 7, 50, len(STREAM)):
        streams = DnsStreams()
        assert [
            m for seq, data in segments(size) for m in streams.add(1, "c", seq, data)
        ] == MESSAGES


def test_repeated_segments() -> None:
    streams, found = DnsStreams(), []
    for sequence, data in segments(17):
        found += streams.add(1, "c", sequence, data)
        found += streams.add(1, "c", sequence, data)
    assert found == MESSAGES
    assert streams.gaps == 0


def test_a_gap_loses_what_it_touches() -> None:
    streams, found = DnsStreams(), []
    parts = [STREAM[:30], STREAM[200:210]]
    found += streams.add(1, "c", 100, parts[0])
    found += streams.add(1, "c", 300, parts[1])
    found += streams.add(1, "c", 310, b"\0\x05hello")
    assert found == [MESSAGES[0], b"hello"]
    assert streams.gaps == 1


def test_streams_are_bounded() -> None:
    streams = DnsStreams()
    for i in range(2 * MAX_STREAMS):
        streams.add(i % 8, i, 0, b"\xff\xff" + bytes(100))
    assert len(streams._streams) <= min(MAX_STREAMS, 8 * MAX_STREAMS_OF_ONE)
    assert streams._buffered == 102 * len(streams._streams)


def test_one_owner_does_not_drop_the_streams_of_others() -> None:
    streams = DnsStreams()
    streams.add(1, "victim", 0, b"\0\x05he")
    for i in range(2 * MAX_STREAMS):
        streams.add(2, i, 0, b"\xff\xff")
    assert streams.add(1, "victim", 4, b"llo") == [b"hello"]
