# SPDX-License-Identifier: Apache-2.0
"""The names by which each endpoint knows addresses, and since when. Immutable.

Key: (endpoint, address). Each record is one answer; a look-up is for a time, so a connection
gets what its endpoint knew at its first packet, however late it is read.
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from podtally.dns.candidates import FORGOTTEN, MESSAGES_LOST, NameCandidates
from podtally.dns.doubts import LONGEST_TTL, NO_DOUBTS, Doubts
from podtally.dns.text_table import TextTable, from_json
from podtally.dns.tracker import Answer

RECORD = np.dtype(
    [
        ("hash", np.uint64),  # of endpoint and address; records are sorted by it, then by time
        ("address", np.uint64, (2,)),  # host order
        ("at_ns", np.int64),  # CLOCK_MONOTONIC
        ("endpoint", np.uint32),
        ("ttl", np.uint32),  # seconds
        ("name", np.int32),  # the queried one: index in ``texts``
        ("chain", np.int32),  # of aliases, joined: index in ``texts``
        ("resolver", np.int32),  # index in ``resolvers``
        ("flags", np.uint32),
    ]
)
HINT = 1  # a flag: an address hint of a service record
GAP = 2  # later answers of the name were dropped: when it expired is not known
MAX_RECORDS = 131_072
MAX_RECORDS_OF_ONE = 8192  # of one endpoint; the oldest go first
MAX_RESOLVERS = 4096  # further ones share a number that is never trusted
MAX_NEWEST = 4  # answers of one name that are kept while there is room
MAX_RECORDS_OF_PAIR = 256  # of one endpoint and address
RECENT_NS = 5_000_000_000  # rows are read so late at most, unless the agent was down
OTHER_RESOLVER = 0
_NO_SENDERS: Mapping[int, Collection[bytes]] = {}
CHAIN_SEPARATOR = " > "
# Secret, because endpoints choose addresses.
_ODD = np.frombuffer(os.urandom(24), np.uint64) | np.uint64(1)


class FoundRecords(NamedTuple):
    """Entries of connections, one for each name, trust and kind, oldest answer first.

    ``row`` (m,) is the connection, ``record`` (m,) the index in ``records``.
    """

    row: NDArray[np.int64]
    record: NDArray[np.int64]


@dataclass(frozen=True)
class DomainTable:
    """Replaced as a whole by ``updated``."""

    records: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, RECORD))
    texts: TextTable = field(default_factory=TextTable)
    resolvers: tuple[bytes, ...] = (b"",)  # address, and the interface by which answers came
    doubts: Doubts = NO_DOUBTS
    forgotten: int = 0  # records dropped at a limit

    def __len__(self) -> int:
        return len(self.records)

    def find(
        self,
        endpoints: NDArray[np.int64],
        addresses: NDArray[np.uint64],
        times_ns: NDArray[np.int64],
        trusted: NDArray[np.bool_],
    ) -> FoundRecords:
        """Return what endpoints (n,) knew of addresses (n, 2), in host order, at times (n,).

        ``trusted`` is by number of the resolver.
        """
        records = self.records
        wanted = _hash(endpoints, addresses)
        start = np.searchsorted(records["hash"], wanted)
        stop = np.searchsorted(records["hash"], wanted, side="right")
        counts = stop - start
        row = np.repeat(np.arange(len(counts)), counts)
        record = np.arange(len(row)) + np.repeat(start - (np.cumsum(counts) - counts), counts)
        some = records[record]
        keep = some["endpoint"] == endpoints[row]
        keep &= (some["address"] == addresses[row]).all(axis=1)
        keep &= some["at_ns"] <= times_ns[row]
        row, record, some = row[keep], record[keep], some[keep]
        # of one name, trust and kind the latest: records of a row are in the order of time
        kind = trusted[some["resolver"]] * 2 + (some["flags"] & HINT)
        order = np.lexsort((record, kind, some["name"], row))
        row, record = row[order], record[order]
        name, kind = some["name"][order], kind[order]
        last = np.ones(len(row), np.bool_)
        if len(row):
            last[:-1] = (row[1:] != row[:-1]) | (name[1:] != name[:-1]) | (kind[1:] != kind[:-1])
        row, record = row[last], record[last]
        order = np.lexsort((records["at_ns"][record], row))
        return FoundRecords(row[order], record[order])

    def candidates(
        self,
        found: FoundRecords,
        times_ns: NDArray[np.int64],
        missing: NDArray[np.uint8],
        trusted: NDArray[np.bool_],
        wall_offset: float,
    ) -> NameCandidates:
        """Return ``found`` as the policies read it.

        ``wall_offset`` is what CLOCK_MONOTONIC lacks of the wall clock, in seconds.
        """
        n, some = len(times_ns), self.records[found.record]
        used, names = np.unique(some["name"], return_inverse=True)
        answered, at = some["at_ns"] / 1e9 + wall_offset, times_ns / 1e9 + wall_offset
        expires = answered + some["ttl"]
        dropped = some["flags"] & GAP != 0
        expires[dropped] = np.maximum(expires, at[found.row])[dropped]
        return NameCandidates(
            table=tuple(self.texts[i] for i in used.tolist()),
            offsets=np.searchsorted(found.row, np.arange(n + 1)).astype(np.int64),
            names=names.astype(np.int32),
            answered=answered,
            expires=expires,
            trusted=trusted[some["resolver"]],
            hint=some["flags"] & HINT != 0,
            at=at,
            missing=missing,
        )

    def trust(
        self, resolvers: Collection[bytes], senders: Mapping[int, Collection[bytes]] = _NO_SENDERS
    ) -> NDArray[np.bool_]:
        """Return which of the table's resolvers are among ``resolvers``, by number.

        ``senders``: the addresses that pods of this host answer from, by their interfaces. What
        comes from a pod with another address is forged.
        """
        found = np.zeros(len(self.resolvers), np.bool_)
        for number, each in enumerate(self.resolvers):
            address, via = each[:16], int.from_bytes(each[16:])
            found[number] = address in resolvers and address in senders.get(via, (address,))
        return found

    # -- changes ---------------------------------------------------------------------------

    def updated(
        self,
        answers: Sequence[Answer],
        now_ns: int,
        missing: Iterable[tuple[int, int]] = (),
        gone: Collection[int] = (),
    ) -> "DomainTable":
        """Return the table with more answers, and without endpoints that are ``gone``."""
        if not (answers or gone or missing):
            return self
        table = self
        if gone:
            records = self.records[~np.isin(self.records["endpoint"], list(gone))]
            table = replace(table, records=records, doubts=self.doubts.without(gone))
        if missing:
            table = table._with_missing(missing, now_ns)
        return table._with(answers, now_ns) if answers else table

    def _with_missing(self, more: Iterable[tuple[int, int]], now_ns: int) -> "DomainTable":
        return replace(self, doubts=self.doubts.with_missing(more, now_ns))

    def _with(self, answers: Sequence[Answer], now_ns: int) -> "DomainTable":
        resolvers = list(self.resolvers)
        known = {address: i for i, address in enumerate(resolvers)}
        chains = [CHAIN_SEPARATOR.join(answer.chain) for answer in answers]
        texts, numbers = self.texts.with_texts([*(each.name for each in answers), *chains])
        rows: list[tuple[int, ...]] = []
        addresses: list[bytes] = []
        for answer, aliases in zip(answers, chains, strict=True):
            source = answer.resolver + answer.via.to_bytes(4)
            resolver = known.get(source, -1)
            if resolver < 0:
                resolver = len(resolvers) if len(resolvers) < MAX_RESOLVERS else OTHER_RESOLVER
                if resolver != OTHER_RESOLVER:
                    known[source] = resolver
                    resolvers.append(source)
            name, chain = numbers[answer.name], numbers[aliases]
            flags = HINT if answer.is_hint else 0
            row = (answer.at_ns, answer.endpoint, answer.ttl, name, chain, resolver, flags)
            rows += [row] * len(answer.addresses)
            addresses += answer.addresses
        fresh = np.zeros(len(rows), RECORD)
        fields = ("at_ns", "endpoint", "ttl", "name", "chain", "resolver", "flags")
        for column, values in zip(fields, np.array(rows, np.int64).T, strict=True):
            fresh[column] = values
        fresh["address"] = np.frombuffer(b"".join(addresses), ">u8").reshape(-1, 2)
        fresh["hash"] = _hash(fresh["endpoint"].astype(np.int64), fresh["address"])
        records = np.concatenate([self.records, fresh])
        records = records[np.lexsort((records["at_ns"], records["hash"]))]
        made = replace(
            self,
            records=_compact(records, now_ns),
            texts=texts,
            resolvers=tuple(resolvers),
            doubts=self.doubts.with_ttls((each.endpoint, each.ttl) for each in answers),
        )
        return made._with_bounded_pairs(now_ns)._bounded(now_ns)._without_unused()

    def _with_bounded_pairs(self, now_ns: int) -> "DomainTable":
        """Keep the newest MAX_RECORDS_OF_PAIR of each pair: they bound what a look-up costs."""
        records = self.records
        behind = np.searchsorted(records["hash"], records["hash"], side="right")
        keep = behind - np.arange(len(records)) <= MAX_RECORDS_OF_PAIR
        if keep.all():
            return self
        endpoints = np.unique(records["endpoint"][~keep]).tolist()
        table = self._with_missing(((each, FORGOTTEN) for each in endpoints), now_ns)
        dropped = int(np.count_nonzero(~keep))
        return replace(table, records=records[keep], forgotten=self.forgotten + dropped)

    def _bounded(self, now_ns: int) -> "DomainTable":
        """Drop the oldest records beyond the limits; count them."""
        records, keep = self.records, np.ones(len(self.records), np.bool_)
        endpoints, place, counts = np.unique(
            records["endpoint"], return_inverse=True, return_counts=True
        )
        most = MAX_RECORDS_OF_ONE
        if len(records) > MAX_RECORDS:  # those with most go first
            most = min(most, _level(counts, MAX_RECORDS))
        full = np.flatnonzero(counts > most)
        for each in full.tolist():
            rows = np.flatnonzero(place == each)
            oldest = np.argsort(records["at_ns"][rows], kind="stable")[: counts[each] - most]
            keep[rows[oldest]] = False
        if not len(full):
            return self
        crowded = ((int(endpoints[i]), FORGOTTEN) for i in full.tolist())
        table = self._with_missing(crowded, now_ns)
        dropped = int(np.count_nonzero(~keep))
        return replace(table, records=records[keep], forgotten=self.forgotten + dropped)

    def _without_unused(self) -> "DomainTable":
        """Renumber texts and resolvers once most are in no record."""
        if len(self.texts) <= 2 * (len(self.records) + 512):
            return self
        records = self.records.copy()
        texts = self.texts.take(_renumber(records, ("name", "chain")))
        used = _renumber(records, ("resolver",))
        resolvers = tuple(self.resolvers[i] for i in used)
        return replace(self, records=records, texts=texts, resolvers=resolvers)

    # -- the checkpoint ------------------------------------------------------------------------

    def values(self) -> "SavedTable":
        """Return what the checkpoint keeps beside ``records``."""
        return SavedTable(
            self.texts.json(),
            [each.hex() for each in self.resolvers],
            self.doubts.bits(),
            self.forgotten,
            [(*key, last_ns) for key, last_ns in self.doubts.last_ns.items()],
            dict(self.doubts.longer),
        )


class SavedTable(msgspec.Struct, frozen=True):
    texts: msgspec.Raw
    resolvers: list[str]
    missing: list[tuple[int, int]]
    forgotten: int
    doubts: list[tuple[int, int, int]] = []  # endpoint, bit, when it was last so
    longer_ttls: dict[int, int] = {}


def restored(
    records: NDArray[np.void], values: SavedTable, now_ns: int, longest_ttl: int = LONGEST_TTL
) -> DomainTable:
    """Return a table of what was saved; ValueError if that is damaged.

    Of an earlier version's doubts the times are not known: they are as of ``now_ns``.
    """
    texts = from_json(values.texts)
    if records.dtype != RECORD:
        raise ValueError("records of another layout")
    for column in ("name", "chain"):
        if len(records) and not 0 <= int(records[column].max()) < len(texts):
            raise ValueError(f"a {column} is missing")
    if len(records) and int(records["resolver"].max()) >= len(values.resolvers):
        raise ValueError("a resolver is missing")
    records = records.copy()
    records["hash"] = _hash(records["endpoint"].astype(np.int64), records["address"])
    known = {(endpoint, bit): last_ns for endpoint, bit, last_ns in values.doubts}
    doubts = Doubts({}, values.longer_ttls, longest_ttl).with_missing(values.missing, now_ns)
    return DomainTable(
        records=records[np.lexsort((records["at_ns"], records["hash"]))],
        texts=texts,
        resolvers=tuple(bytes.fromhex(each) for each in values.resolvers),
        doubts=doubts._replace(last_ns={**doubts.last_ns, **known}),
        forgotten=values.forgotten,
    )


NO_DOMAINS = DomainTable()


def lost(endpoints: Iterable[int]) -> list[tuple[int, int]]:
    """Return ``missing`` for endpoints of which messages were lost."""
    return [(each, MESSAGES_LOST) for each in endpoints]


def _renumber(records: NDArray[np.void], fields: tuple[str, ...]) -> list[int]:
    """Number the values of fields from 0 on; return those that are in use."""
    used = np.unique(np.concatenate([np.zeros(1, np.int32), *(records[each] for each in fields)]))
    for each in fields:
        records[each] = np.searchsorted(used, records[each])
    found: list[int] = used.tolist()
    return found


def _compact(records: NDArray[np.void], now_ns: int) -> NDArray[np.void]:
    """Of the answers with the same name from the same resolver keep the first, the newest ones,
    and those of the last RECENT_NS: they say what was known at which time.
    """
    hints = records["flags"] & HINT
    fields = ("resolver", "name", "endpoint", "hash")
    order = np.lexsort([records["at_ns"], hints, *(records[each] for each in fields)])
    ordered, hints = records[order], hints[order]
    same = np.zeros(len(order), np.bool_)
    same[1:] = hints[1:] == hints[:-1]
    for each in fields:
        same[1:] &= ordered[each][1:] == ordered[each][:-1]
    old = ordered["at_ns"] < now_ns - RECENT_NS
    run = np.cumsum(~same) - 1
    last_old = np.cumsum(np.bincount(run, minlength=1)) - np.bincount(run, ~old, 1) - 1
    behind = last_old[run] - np.arange(len(order))  # how many old ones follow
    room = _room(ordered)
    drop = (same | (room == 0)) & old & (behind >= np.maximum(room, 1))
    if not drop.any():
        return records
    before = np.flatnonzero(~drop[:-1] & drop[1:] & same[1:])
    kept = records.copy()
    kept["flags"][order[before]] |= GAP
    keep = np.ones(len(order), np.bool_)
    keep[order[drop]] = False
    return kept[keep]


def _room(records: NDArray[np.void]) -> NDArray[np.int64]:
    """Return how many old answers of a name are kept beside the first, for each record: fewer
    where many are; 0: only the last one.
    """
    room = np.full(len(records), 1 if len(records) > MAX_RECORDS // 2 else MAX_NEWEST)
    limits = (("endpoint", MAX_RECORDS_OF_ONE // 2, 1), ("hash", MAX_RECORDS_OF_PAIR // 2, 0))
    for name, most, kept in limits:
        _, place, counts = np.unique(records[name], return_inverse=True, return_counts=True)
        crowded = (counts > most)[place.ravel()]
        room[crowded] = np.minimum(room[crowded], kept)
    return room


def _hash(endpoints: NDArray[np.int64], addresses: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return hashes of endpoints (n,) and addresses (n, 2). Equal ones are compared in full."""
    mixed = endpoints.astype(np.uint64) * _ODD[0]
    mixed ^= addresses[:, 0] * _ODD[1]
    mixed ^= mixed >> np.uint64(29)
    mixed += addresses[:, 1] * _ODD[2]
    mixed *= _ODD[0]
    found: NDArray[np.uint64] = mixed ^ mixed >> np.uint64(32)
    return found


def _level(counts: NDArray[np.int64], whole: int) -> int:
    """Return the largest cap on each of ``counts`` that keeps their sum within ``whole``."""
    low, high = 0, int(counts.max(initial=0))
    while low < high:
        middle = (low + high + 1) // 2
        if int(np.minimum(counts, middle).sum()) <= whole:
            low = middle
        else:
            high = middle - 1
    return low
