# SPDX-License-Identifier: Apache-2.0
"""Hostile DNS messages and ClientHellos through the parsers, as an agent reads them."""

import gc
import random
import time
from pathlib import Path
from typing import NamedTuple

from bench.report import progress
from podtally.dns.server_names import HelloTracker
from podtally.dns.tracker import DnsTracker
from podtally.kernel.captured import TCP, Captured
from tests.unit.dns_messages import client_hello, query, received, response, sent

PIECE = 4096  # bytes that the kernel copies at once
EPOCH = 1000  # messages between two takes
SECOND = 1_000_000_000
ENDPOINTS = 50
AGAIN = 5  # times that one is measured again that takes long
CHAIN = (
    "www.example.com. 60 IN CNAME a.example.net.",
    "a.example.net. 60 IN CNAME b.example.org.",
    "b.example.org. 30 IN A 203.0.113.7",
    "b.example.org. 30 IN AAAA 2001:db8::7",
)
_LONG = 0.001  # seconds


class HostileRun(NamedTuple):
    messages: int
    raised: int
    longest_ms: float
    long: int
    average_us: float
    growth_mb: float


class _Maker:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        asked = query("www.example.com")
        self._query, self._response = asked.to_wire(), response(asked, *CHAIN).to_wire()
        self._hello = client_hello("www.example.com")
        self._large = self._looping_64k()

    def pieces(self, now_ns: int) -> list[Captured]:
        """Return one message as the kernel hands it over."""
        endpoint = 1 + self._random.randrange(ENDPOINTS)
        kind = self._random.randrange(500)
        if kind == 0:
            return self._stream(self._random.choice(self._large), endpoint, now_ns)
        if kind < 100:
            data = self._damaged(self._hello)
            made = sent(data, now_ns, endpoint=endpoint, is_hello=True, protocol=TCP)
            cut = self._random.randrange(1, len(data) + 1)
            parts = [made._replace(data=data[:cut], sequence=1, local_port=kind)]
            rest = data[cut:] or b"\0"
            return [*parts, parts[0]._replace(data=rest, sequence=1 + cut)]
        if kind < 200:
            return self._stream(self._damaged(self._response), endpoint, now_ns)
        if kind < 300:
            return [sent(self._damaged(self._query), now_ns, endpoint=endpoint)]
        asked = sent(self._query, now_ns, endpoint=endpoint)
        data = self._damaged(self._response)
        return [asked, received(data, now_ns + 1000, endpoint=endpoint, is_cut=kind < 310)]

    def _stream(self, data: bytes, endpoint: int, now_ns: int) -> list[Captured]:
        stream = len(data).to_bytes(2) + data
        port = 1024 + self._random.randrange(60_000)
        common = {"endpoint": endpoint, "protocol": TCP, "local_port": port}
        asked = len(self._query).to_bytes(2) + self._query
        made = [sent(asked, now_ns, **common)]
        for at in range(0, len(stream), PIECE):
            part = stream[at : at + PIECE]
            made.append(received(part, now_ns + 1000, sequence=at, **common))
        return made

    def _damaged(self, message: bytes) -> bytes:
        some, wire = self._random, bytearray(message)
        match some.randrange(5):
            case 0:
                for _ in range(some.randrange(1, 9)):
                    wire[some.randrange(len(wire))] = some.randrange(256)
            case 1:
                del wire[some.randrange(1, len(wire)) :]
            case 2:
                for _ in range(3):
                    at = some.randrange(min(12, len(wire) - 2), len(wire) - 1)
                    wire[at : at + 2] = bytes((0xC0 | some.randrange(64), some.randrange(256)))
            case 3:
                wire += some.randbytes(some.randrange(2000))
                wire[6:8] = b"\xff\xff"
            case _:
                wire = bytearray(some.randbytes(some.randrange(1, 1500)))
        return bytes(wire)

    def _looping_64k(self) -> list[bytes]:
        """Answers of 64 KiB: long owners, pointers in a row, and many records."""
        head = bytearray(self._query)
        head[2:4], head[6:8] = b"\x81\x80", b"\xff\xff"
        names = b"\x01x" * 126
        record = b"\0\x01\0\x01\0\0\0\x05\0\x04\x01\x02\x03\x04"
        many, chains, alias = bytearray(head + names), bytearray(head), bytearray(head)
        while len(many) < 65_000:
            owner = 0xC000 | 12 + 2 * self._random.randrange(126)
            many += owner.to_bytes(2) + record
        while len(chains) < 65_000:
            chains += (0xC000 | max(12, min(len(chains) - 2, 0x3FFF))).to_bytes(2) + record
        while len(alias) < 65_000:
            target = self._random.randrange(12, 0x3FFF)
            alias += b"\xc0\x0c\0\x05\0\x01\0\0\0\x05\0\x02" + (0xC000 | target).to_bytes(2)
        row = bytearray(head + b"\xc0\x0c\0\x10\0\1\0\0\0\5" + (16_000).to_bytes(2))
        last = 12
        for _ in range(8000):  # pointers to pointers, which many records begin with
            row, last = row + (0xC000 | last).to_bytes(2), len(row)
        for each in range(1000):
            row += (0xC000 | (last - 2 * (each % 600))).to_bytes(2) + record
        return [bytes(each) for each in (many, chains, alias, row)]


def run(messages: int, seed: int) -> HostileRun:
    maker, tracker, hellos = _Maker(seed), DnsTracker(), HelloTracker()
    raised = long = longest = total = 0
    now_ns, early = SECOND, 0.0
    for number in range(messages):
        pieces = maker.pieces(now_ns)
        try:
            took = _add(pieces, tracker, hellos)
        except Exception as error:  # what is measured
            raised, took = raised + 1, 0
            progress(f"{type(error).__name__}: {error}")
        if took > _LONG * SECOND:  # what interrupted it is not the message's
            took = min(_add(pieces, DnsTracker(), HelloTracker()) for _ in range(AGAIN))
        total, longest, long = total + took, max(longest, took), long + (took > _LONG * SECOND)
        if number % EPOCH == 0:
            now_ns += SECOND
            tracker.take(now_ns)
            hellos.take(now_ns)
            tracker.recent = []
        if number == messages // 10:
            early = _memory()
    growth = _memory() - early
    return HostileRun(messages, raised, longest / 1e6, long, total / messages / 1e3, growth)


def _add(pieces: list[Captured], tracker: DnsTracker, hellos: HelloTracker) -> int:
    """Return the CPU time that a message takes, in ns."""
    began = time.thread_time_ns()
    for each in pieces:
        if each.is_hello:
            hellos.add(each)
        else:
            tracker.add(each)
    return time.thread_time_ns() - began


def _memory() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
