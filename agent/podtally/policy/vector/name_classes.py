# SPDX-License-Identifier: Apache-2.0
"""Classes of connections by the names of their peers: what no list of domain names tells apart.

A list is that of one peer of a rule (``model.DomainPeer``). Each name of a peer is looked up in
all lists once; after that it is a row of bits, and the names of a connection are an "or" of rows.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.dns.candidates import NameCandidates, NameColumn
from podtally.policy.domain_patterns import WILDCARD, suffixes
from podtally.policy.model import DomainPeer
from podtally.policy.vector.ragged import Indices, first_of_runs
from podtally.policy.vector.selectors import MAYBE, NO, YES, Matches, MatchTable

# Connections without names: whether more may be missing.
INCOMPLETE, COMPLETE = 0, 1
MAX_CLASSES = 1 << 14
_MAX_NAMES = 1 << 15  # that are kept with their bits
_MAX_BYTES = 4 << 20  # of these bits

Bits = NDArray[np.uint8]


class Classes(NamedTuple):
    """Of connections, (n,) each; ``valid`` as if answers ended with their TTL."""

    names: NDArray[np.int32]
    valid: NDArray[np.int32]


class NameClasses:
    """The lists of all policies, and the match of each with every class; classes only grow."""

    def __init__(self, lists: Iterable[DomainPeer] = ()) -> None:
        self.lists = tuple(dict.fromkeys(lists))
        self._number = {each: number for number, each in enumerate(self.lists)}
        self._width = (len(self.lists) + 7) >> 3
        self._is_defined = np.array([each.is_defined for each in self.lists], np.bool_)
        self._exact: dict[str, list[int]] = {}  # by name: lists
        self._below: dict[str, list[int]] = {}  # by the name behind a wildcard
        for number, each in enumerate(self.lists):
            for pattern in each.names:
                if pattern.startswith(WILDCARD):
                    self._below.setdefault(pattern.removeprefix(WILDCARD), []).append(number)
                else:
                    self._exact.setdefault(pattern, []).append(number)
        self._rows: dict[str, int] = {}  # by name: its row of bits
        self._bits: Bits = np.zeros((0, self._width), np.uint8)
        self._classes: dict[bytes, int] = {}
        self._table = MatchTable()  # classes, lists
        self._table.columns = len(self.lists)
        nothing = np.zeros(self._width, np.uint8)
        for is_complete in (False, True):
            self._add(nothing, is_complete)

    def __len__(self) -> int:
        return self._table.rows

    @property
    def is_full(self) -> bool:
        return len(self) > MAX_CLASSES

    def number(self, peer: DomainPeer) -> int:
        """Return the number of a list."""
        return self._number[peer]

    def at(self, classes: Indices, lists: Indices) -> Matches:
        """Return the match of each class with a list, (n,)."""
        return self._table.at(classes, lists)

    def of_class(self, number: int) -> Matches:
        """Return the match of one class with every list, (lists,)."""
        return self._table.of_row(number)

    def of(self, names: NameColumn, is_egress: NDArray[np.bool_]) -> Classes | None:
        """Return the classes of connections; None: all are INCOMPLETE, or there are no lists."""
        candidates = names.candidates() if self.lists else None
        if candidates is None:
            return None
        entries = np.flatnonzero(candidates.trusted & ~candidates.hint)
        bits = self._of_names(candidates, entries)
        hit = bits.any(axis=1)
        entries, bits = entries[hit], bits[hit]
        row = candidates.rows()[entries]
        egress = is_egress[row]
        entries, bits, row = entries[egress], bits[egress], row[egress]
        plain = np.where(candidates.complete & is_egress, COMPLETE, INCOMPLETE).astype(np.int32)
        if not len(entries):
            return Classes(plain, plain)
        valid = candidates.expires[entries] >= candidates.at[row]
        found = self._with_bits(plain, row, bits)
        if valid.all():
            return Classes(found, found)
        return Classes(found, self._with_bits(plain, row[valid], bits[valid]))

    def _with_bits(self, plain: NDArray[np.int32], row: Indices, bits: Bits) -> NDArray[np.int32]:
        """Return the classes of connections, of which some have names; ``row`` is ascending."""
        found = plain.copy()
        if not len(row):
            return found
        starts = np.flatnonzero(first_of_runs(row))
        rows = row[starts]
        words = np.zeros((len(rows), self._width + 1), np.uint8)
        words[:, :-1] = np.bitwise_or.reduceat(bits, starts, axis=0)
        words[:, -1] = plain[rows] == COMPLETE
        flat = np.ascontiguousarray(words).view(np.dtype((np.void, words.shape[1]))).ravel()
        different, place = np.unique(flat, return_inverse=True)
        numbers = [self._class(each.tobytes()) for each in different]
        found[rows] = np.array(numbers, np.int32)[place.ravel()]
        return found

    def _class(self, word: bytes) -> int:
        number = self._classes.get(word)
        if number is None:
            bits = np.frombuffer(word, np.uint8)
            number = self._add(bits[:-1], bool(bits[-1]))
        return number

    def _add(self, bits: Bits, is_complete: bool) -> int:
        matched = np.unpackbits(bits, count=len(self.lists)).astype(np.bool_)
        matches = np.where(matched & self._is_defined, np.uint8(YES), np.uint8(MAYBE))
        if is_complete:
            matches[~matched] = NO
        number = len(self)
        self._table.add_row(matches)
        self._classes[bits.tobytes() + bytes([is_complete])] = number
        return number

    def _of_names(self, candidates: NameCandidates, entries: Indices) -> Bits:
        """Return the bits of the lists that have the entry's name, (entries, width)."""
        names, place = np.unique(candidates.names[entries], return_inverse=True)
        if len(self._rows) >= _MAX_NAMES or len(self._rows) * self._width > _MAX_BYTES:
            self._rows.clear()
            self._bits = self._bits[:0]
        texts = [candidates.table[number] for number in names.tolist()]
        new = [text for text in texts if text not in self._rows]
        if new:
            matched = np.zeros((len(new), len(self.lists)), np.bool_)
            for number, text in enumerate(new):
                self._rows[text] = len(self._rows)
                matched[number, self._lists_of(text)] = True
            self._bits = np.concatenate([self._bits, np.packbits(matched, axis=1)])
        rows = np.array([self._rows[text] for text in texts], np.int64)
        found: Bits = self._bits[rows][place.ravel()]
        return found

    def _lists_of(self, name: str) -> list[int]:
        found = list(self._exact.get(name, ()))
        for suffix in suffixes(name):
            found += self._below.get(suffix, ())
        return found
