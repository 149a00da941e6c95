# SPDX-License-Identifier: Apache-2.0
"""Names by which the local endpoint of each connection may have found its peer.

The name table makes the value, policies and labels read it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Bits of ``Candidates.missing``: why an endpoint may know names that are not listed.
NAMES_OFF = 1  # DNS messages are not captured
SEEN_LATE = 2  # the endpoint was there before the agent
MESSAGES_LOST = 4  # the kernel or the parser dropped messages of this endpoint
ENCRYPTED_DNS = 8  # it speaks DNS over TLS, QUIC or HTTPS
FORGOTTEN = 16  # names of this endpoint were dropped at a limit


class Answered(NamedTuple):
    """One answer that named the peer's address. Times: wall clock, seconds."""

    name: str  # the queried one, lower case, without a trailing dot
    answered: float
    expires: float
    trusted: bool = True  # from a resolver that counts for verdicts


class Candidates(NamedTuple):
    """The names of n connections, as lists one behind the other.

    Connection i has the entries ``offsets[i]:offsets[i + 1]`` of ``names``, ``answered``,
    ``expires`` and ``trusted``: for each name and trust, the latest answer with the peer's
    address that its endpoint received before the connection's first packet.
    Times: wall clock, seconds. The order of a connection's entries means nothing.
    """

    table: tuple[str, ...]  # lower case, without a trailing dot; each name once
    offsets: NDArray[np.int64]  # (n + 1,)
    names: NDArray[np.int32]  # (m,), index into ``table``: the queried name
    answered: NDArray[np.float64]  # (m,)
    expires: NDArray[np.float64]  # (m,), ``answered`` plus the lowest TTL of the chain
    trusted: NDArray[np.bool_]  # (m,), from a resolver that counts for verdicts
    at: NDArray[np.float64]  # (n,), the connection's first packet
    missing: NDArray[np.uint8]  # (n,), bits; 0: all DNS of this endpoint was seen

    @property
    def complete(self) -> NDArray[np.bool_]:
        """Whether all DNS of the endpoint was seen up to the first packet, (n,)."""
        found: NDArray[np.bool_] = self.missing == 0
        return found

    def rows(self) -> NDArray[np.int64]:
        """Return the connection of every entry, (m,)."""
        return np.repeat(np.arange(len(self.at)), np.diff(self.offsets))

    def take(self, index: NDArray[np.int64]) -> "Candidates":
        """Return the candidates of the connections ``index``, in that order."""
        counts = np.diff(self.offsets)[index]
        offsets = np.concatenate(([0], np.cumsum(counts)))
        entry = np.arange(offsets[-1]) + np.repeat(self.offsets[index] - offsets[:-1], counts)
        return Candidates(
            self.table,
            offsets,
            self.names[entry],
            self.answered[entry],
            self.expires[entry],
            self.trusted[entry],
            self.at[index],
            self.missing[index],
        )


def empty(n: int, missing: int = NAMES_OFF) -> Candidates:
    """Return no name for n connections."""
    return Candidates(
        table=(),
        offsets=np.zeros(n + 1, np.int64),
        names=np.zeros(0, np.int32),
        answered=np.zeros(0),
        expires=np.zeros(0),
        trusted=np.zeros(0, np.bool_),
        at=np.zeros(n),
        missing=np.full(n, missing, np.uint8),
    )


def from_lists(
    answers: Sequence[Sequence[Answered]], at: Sequence[float], missing: Sequence[int]
) -> Candidates:
    """Return the candidates of n connections from their answers, times and missing bits."""
    entries = [entry for listed in answers for entry in listed]
    table = tuple(sorted({entry.name for entry in entries}))
    number = {name: i for i, name in enumerate(table)}
    return Candidates(
        table=table,
        offsets=np.cumsum([0, *map(len, answers)], dtype=np.int64),
        names=np.array([number[entry.name] for entry in entries], np.int32),
        answered=np.array([entry.answered for entry in entries], np.float64),
        expires=np.array([entry.expires for entry in entries], np.float64),
        trusted=np.array([entry.trusted for entry in entries], np.bool_),
        at=np.array(at, np.float64),
        missing=np.array(missing, np.uint8),
    )
