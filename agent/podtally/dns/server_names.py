# SPDX-License-Identifier: Apache-2.0
"""Server names that clients sent in TLS, by connection. The table is immutable.

A ClientHello passes after its connection's first packet, and once; it may take several segments.
"""

import os
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.dns.client_hello import NoHelloError, parse_hello
from podtally.kernel.captured import Captured

MAX_UNFINISHED = 1024  # ClientHellos that are not complete
MAX_UNFINISHED_OF_ONE = 128  # of one endpoint
UNFINISHED_NS = 10_000_000_000
MAX_NAMES = 65_536
MAX_NAMES_OF_ONE = 8192  # of one endpoint
KEPT_NS = 60_000_000_000  # longer than any connection waits for names

KEY = np.dtype(
    [
        ("local", np.uint64, (2,)),  # addresses in network order, as in flow rows
        ("remote", np.uint64, (2,)),
        ("endpoint", np.uint32),
        ("local_port", np.uint16),
        ("remote_port", np.uint16),
    ]
)
RECORD = np.dtype(
    [
        ("hash", np.uint64),
        ("at_ns", np.int64),
        ("name", np.int32),
        ("outer", np.int32),
        ("key", KEY),
    ]
)
_WORDS = KEY.itemsize // 8
_ODD = np.frombuffer(os.urandom(8 * _WORDS), np.uint64) | np.uint64(1)
NO_NAME = -1


class SentName(NamedTuple):
    """A server name that an endpoint sent on one connection."""

    captured: Captured
    name: str
    is_outer: bool


class HelloTracker:
    """ClientHellos that are not complete, and the names since the last ``take``."""

    def __init__(self) -> None:
        self._unfinished: OrderedDict[tuple[int, tuple[object, ...]], Captured] = OrderedDict()
        self._names: list[SentName] = []
        self.damaged = 0

    def add(self, captured: Captured) -> None:
        """Take in a segment that begins or continues a ClientHello."""
        place = (captured.endpoint, captured[2:6])
        before = self._unfinished.pop(place, None)
        whole = captured
        if before is not None:
            behind = (before.sequence + len(before.data)) & 0xFFFFFFFF
            if captured.sequence == behind:
                whole = before._replace(data=before.data + captured.data)
            elif captured.sequence == before.sequence:
                whole = before if len(before.data) > len(captured.data) else captured
        try:
            found = parse_hello(whole.data)
        except NoHelloError:
            self.damaged += 1
            return
        if found is not None:
            if found.name:
                self._names.append(SentName(whole._replace(data=b""), found.name, found.is_outer))
            return
        self._make_room(captured.endpoint)
        self._unfinished[place] = whole

    def _make_room(self, endpoint: int) -> None:
        own = [place for place in self._unfinished if place[0] == endpoint]
        if len(own) >= MAX_UNFINISHED_OF_ONE:
            del self._unfinished[own[0]]
        elif len(self._unfinished) >= MAX_UNFINISHED:
            self._unfinished.popitem(last=False)

    def take(self, now_ns: int) -> list[SentName]:
        """Return the names since the last call; incomplete ones are dropped after a while."""
        for place, captured in list(self._unfinished.items()):
            if captured.at_ns < now_ns - UNFINISHED_NS:
                del self._unfinished[place]
        taken, self._names = self._names, []
        return taken


@dataclass(frozen=True)
class ServerNames:
    """Records sorted by hash of the connection, then time."""

    records: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, RECORD))
    texts: tuple[str, ...] = ()

    def find(self, keys: NDArray[np.void], first_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the first name sent on connections after their first packet: records. (n,)"""
        found = np.full(len(keys), NO_NAME, np.int64)
        if not len(self.records) or not len(keys):
            return found
        wanted, records = _hash(keys), self.records
        place = np.searchsorted(records["hash"], wanted)
        rows = np.arange(len(keys))
        for _ in range(_MAX_REUSES):  # of the same ports
            inside = place < len(records)
            rows, place = rows[inside], place[inside]
            same = (records["hash"][place] == wanted[rows]) & (records["key"][place] == keys[rows])
            rows, place = rows[same], place[same]
            hits = records["at_ns"][place] >= first_ns[rows]
            found[rows[hits]] = place[hits]
            rows, place = rows[~hits], place[~hits] + 1
        return found

    def updated(
        self, sent: Sequence[SentName], now_ns: int, gone: Collection[int] = ()
    ) -> "ServerNames":
        """Return the names with more of them, and without old ones."""
        records = self.records
        keep = records["at_ns"] >= now_ns - KEPT_NS
        if gone:
            keep &= ~np.isin(records["key"]["endpoint"], list(gone))
        if not len(sent) and keep.all():
            return self
        texts = list(self.texts)
        numbers = {text: i for i, text in enumerate(texts)}
        fresh = np.zeros(len(sent), RECORD)
        for row, each in enumerate(sent):
            number = numbers.setdefault(each.name, len(texts))
            if number == len(texts):
                texts.append(each.name)
            captured = each.captured
            key = fresh["key"][row]
            key["local"] = np.frombuffer(captured.local, np.uint64)
            key["remote"] = np.frombuffer(captured.remote, np.uint64)
            key["endpoint"] = captured.endpoint
            key["local_port"], key["remote_port"] = captured.local_port, captured.remote_port
            fresh["at_ns"][row], fresh["name"][row] = captured.at_ns, number
            fresh["outer"][row] = each.is_outer
        fresh["hash"] = _hash(fresh["key"])
        return _made(np.concatenate([records[keep], fresh]), texts)


_MAX_REUSES = 4


def _made(records: NDArray[np.void], texts: list[str]) -> ServerNames:
    """Sort records, keep the newest of each endpoint and of all, and the texts in use."""
    newest = np.argsort(-records["at_ns"], kind="stable")[:MAX_NAMES]
    endpoint = records["key"]["endpoint"][newest]
    order = np.argsort(endpoint, kind="stable")
    ordered = endpoint[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    records = records[newest[order[rank < MAX_NAMES_OF_ONE]]]
    records = records[np.lexsort((records["at_ns"], records["hash"]))]
    used, name = np.unique(records["name"], return_inverse=True)
    records["name"] = name
    return ServerNames(records, tuple(texts[i] for i in used.tolist()))


def restored_names(records: NDArray[np.void], texts: list[str]) -> ServerNames:
    """Return names from the checkpoint; ValueError if they are damaged."""
    if records.dtype != RECORD:
        raise ValueError("server names of another layout")
    if len(records) and not 0 <= int(records["name"].max()) < len(texts):
        raise ValueError("a server name is missing")
    records = records.copy()
    records["hash"] = _hash(records["key"])
    return _made(records, texts)


def keys_of(endpoints: NDArray[np.int64], flow_keys: NDArray[np.void]) -> NDArray[np.void]:
    """Return the keys of connections, from those of flows. (n,)"""
    keys = np.zeros(len(flow_keys), KEY)
    keys["local"], keys["remote"] = flow_keys["local_address"], flow_keys["remote_address"]
    keys["endpoint"] = endpoints
    keys["local_port"], keys["remote_port"] = flow_keys["local_port"], flow_keys["remote_port"]
    return keys


def _hash(keys: NDArray[np.void]) -> NDArray[np.uint64]:
    words = np.ascontiguousarray(keys).view(np.uint64).reshape(len(keys), _WORDS)
    mixed = np.zeros(len(words), np.uint64)
    for word, odd in zip(words.T, _ODD, strict=True):
        mixed = (mixed ^ word) * odd
        mixed ^= mixed >> np.uint64(31)
    return mixed


NO_SERVER_NAMES = ServerNames()
