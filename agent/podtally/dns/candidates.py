# SPDX-License-Identifier: Apache-2.0
"""Names by which the local endpoint of each connection may have found its peer.

The name table makes the value, policies and labels read it.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.dns.known_names import (
    ENCRYPTED_DNS,
    FORGOTTEN,
    MESSAGES_LOST,
    NAMES_OFF,
    NO_NAMES,
    SEEN_LATE,
    Answered,
    KnownNames,
)

__all__ = [
    "ENCRYPTED_DNS",
    "FORGOTTEN",
    "MESSAGES_LOST",
    "NAMES_OFF",
    "NO_NAME_COLUMN",
    "SEEN_LATE",
    "Answered",
    "NameCandidates",
    "NameColumn",
    "empty",
    "from_lists",
    "name_column",
]


class NameCandidates(NamedTuple):
    """The names of n connections, as lists one behind the other.

    Connection i has the entries ``offsets[i]:offsets[i + 1]`` of ``names``, ``answered``,
    ``expires``, ``trusted`` and ``hint``: for each name, trust and kind of answer, the latest one
    with the peer's address that its endpoint received before the connection's first packet.
    Times: wall clock, seconds. The order of a connection's entries means nothing.
    """

    table: tuple[str, ...]  # lower case, without a trailing dot; each name once
    offsets: NDArray[np.int64]  # (n + 1,)
    names: NDArray[np.int32]  # (m,), index into ``table``: the queried name
    answered: NDArray[np.float64]  # (m,)
    expires: NDArray[np.float64]  # (m,), ``answered`` plus the lowest TTL of the chain
    trusted: NDArray[np.bool_]  # (m,), from a resolver that counts for verdicts
    hint: NDArray[np.bool_]  # (m,), an address hint of a service record: does not count
    at: NDArray[np.float64]  # (n,), the connection's first packet
    missing: NDArray[np.uint8]  # (n,), bits; 0: all DNS of this endpoint was seen

    @property
    def complete(self) -> NDArray[np.bool_]:
        """Return whether all DNS of the endpoint was seen up to the first packet, (n,)."""
        found: NDArray[np.bool_] = self.missing == 0
        return found

    def rows(self) -> NDArray[np.int64]:
        """Return the connection of every entry, (m,)."""
        return np.repeat(np.arange(len(self.at)), np.diff(self.offsets))

    def known(self, row: int) -> KnownNames:
        """Return the names of one connection."""
        entries = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
        columns = (self.answered, self.expires, self.trusted, self.hint)
        answers = zip(
            (self.table[name] for name in self.names[entries].tolist()),
            *(column[entries].tolist() for column in columns),
            strict=True,
        )
        found = tuple(Answered(*answer) for answer in answers)
        return KnownNames(found, float(self.at[row]), int(self.missing[row]))

    def take(self, index: NDArray[np.int64]) -> "NameCandidates":
        """Return the candidates of the connections ``index``, in that order."""
        counts = np.diff(self.offsets)[index]
        offsets = np.concatenate(([0], np.cumsum(counts)))
        entry = np.arange(offsets[-1]) + np.repeat(self.offsets[index] - offsets[:-1], counts)
        return NameCandidates(
            self.table,
            offsets,
            self.names[entry],
            self.answered[entry],
            self.expires[entry],
            self.trusted[entry],
            self.hint[entry],
            self.at[index],
            self.missing[index],
        )


def empty(n: int, missing: int = NAMES_OFF) -> NameCandidates:
    """Return no name for n connections."""
    return NameCandidates(
        table=(),
        offsets=np.zeros(n + 1, np.int64),
        names=np.zeros(0, np.int32),
        answered=np.zeros(0),
        expires=np.zeros(0),
        trusted=np.zeros(0, np.bool_),
        hint=np.zeros(0, np.bool_),
        at=np.zeros(n),
        missing=np.full(n, missing, np.uint8),
    )


def from_lists(
    answers: Sequence[Sequence[Answered]], at: Sequence[float], missing: Sequence[int]
) -> NameCandidates:
    """Return the candidates of n connections from their answers, times and missing bits."""
    entries = [entry for listed in answers for entry in listed]
    table = tuple(sorted({entry.name for entry in entries}))
    number = {name: i for i, name in enumerate(table)}
    return NameCandidates(
        table=table,
        offsets=np.cumsum([0, *map(len, answers)], dtype=np.int64),
        names=np.array([number[entry.name] for entry in entries], np.int32),
        answered=np.array([entry.answered for entry in entries], np.float64),
        expires=np.array([entry.expires for entry in entries], np.float64),
        trusted=np.array([entry.trusted for entry in entries], np.bool_),
        hint=np.array([entry.is_hint for entry in entries], np.bool_),
        at=np.array(at, np.float64),
        missing=np.array(missing, np.uint8),
    )


class NameColumn:
    """The candidates of connections as a column: an index takes connections.

    They are looked up when they are first needed, which is never without rules by name.
    """

    def __init__(
        self,
        look_up: Callable[[], NameCandidates] | None = None,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        """``rows`` are those of the candidates. Without them the column has any length."""
        self._look_up = look_up if look_up is None else cache(look_up)
        self._rows = np.zeros(0, np.int64) if rows is None else rows

    def __getitem__(self, index: NDArray[np.int64] | NDArray[np.bool_] | slice) -> "NameColumn":
        if self._look_up is None:
            return self
        taken = NameColumn(None, self._rows[index])
        taken._look_up = self._look_up
        return taken

    def apart(self, n: int) -> NDArray[np.int64]:
        """Return numbers (n,) by which connections with names differ from all others."""
        if self._look_up is None:
            return np.zeros(n, np.int64)
        has_names = np.diff(self._look_up().offsets)[self._rows] > 0
        return np.where(has_names, np.arange(1, n + 1), 0)

    def candidates(self) -> NameCandidates | None:
        """Return those of the column's connections, in its order; None: there are no names."""
        return None if self._look_up is None else self._look_up().take(self._rows)

    def known(self, row: int) -> KnownNames:
        """Return the names of one connection."""
        return NO_NAMES if self._look_up is None else self._look_up().known(int(self._rows[row]))


def name_column(candidates: NameCandidates) -> NameColumn:
    """Return the column of all connections that the candidates are of."""
    return NameColumn(lambda: candidates, np.arange(len(candidates.at)))


NO_NAME_COLUMN = NameColumn()
