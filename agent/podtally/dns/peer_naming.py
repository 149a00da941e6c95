# SPDX-License-Identifier: Apache-2.0
"""Decides by which name an endpoint found a peer, and how certain that is. Pure.

One queried name is the name. Among several the server name in TLS decides; without it the most
recently queried one is shown, as ambiguous.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.dns.candidates import NameCandidates
from podtally.dns.domain_table import NO_DOMAINS, DomainTable
from podtally.dns.known_names import FORGOTTEN, MESSAGES_LOST
from podtally.dns.server_names import NO_NAME, NO_SERVER_NAMES, ServerNames, keys_of

SOURCES = ("", "dns", "tls", "ambiguous", "expired", "unverified")
NONE, DNS, TLS, AMBIGUOUS, EXPIRED, UNVERIFIED = range(6)
NO_TEXT = -1
# Instead of a time in ``PeersToName.late_ns``: seen from its start; before that, always.
SEEN_ALL, ALWAYS_LATE = -(1 << 62), 1 << 62
_OWN_DOING = MESSAGES_LOST | FORGOTTEN  # what an endpoint can bring about, to its advantage


class PeersToName(NamedTuple):
    """Connections; index i of every array is the same one."""

    endpoint: NDArray[np.int64]  # interface; capture.HOST for those of the host
    address: NDArray[np.uint64]  # (n, 2), the peer's, in host order
    at_ns: NDArray[np.int64]  # the first packet
    key: NDArray[np.void]  # of the flow
    late_ns: NDArray[np.int64]  # when an endpoint that was there before was seen; SEEN, ALWAYS

    def take(self, index: NDArray[np.int64]) -> "PeersToName":
        return PeersToName._make(column[index] for column in self)


class NamedPeers(NamedTuple):
    """What names the peers of connections; index i of every array is the same one.

    ``name`` is an index in the texts of the table of domains; from ``offset`` on in those of
    the server names. NO_TEXT: there is none. ``alike`` (n,): the names of an ambiguous
    peer are entries ``first:last`` of ``candidates``.
    """

    source: NDArray[np.int8]  # index in SOURCES
    name: NDArray[np.int64]
    chain: NDArray[np.int64]
    doubtful: NDArray[np.bool_]  # only TLS has the name, although its DNS could be seen
    candidates: NameCandidates


@dataclass(frozen=True)
class DomainInputs:
    """What is known of names, as of the end of an epoch."""

    table: DomainTable = NO_DOMAINS
    server_names: ServerNames = NO_SERVER_NAMES
    trusted: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(1, np.bool_))
    wall_offset: float = 0.0  # what CLOCK_MONOTONIC lacks of the wall clock, seconds
    trusted_resolvers: frozenset[bytes] = frozenset()  # their addresses
    missing: int = 0  # bits of Candidates.missing that hold for all endpoints
    is_on: bool = False
    reads_tls: bool = False  # ClientHellos are captured

    def text(self, number: int) -> str:
        """Return a name by its number in ``NamedPeers``."""
        known = len(self.table.texts)
        return (
            self.table.texts[number] if number < known else self.server_names.texts[number - known]
        )

    def candidates(self, peers: PeersToName) -> NameCandidates:
        """Return what each endpoint knew of its peer."""
        return self._found(peers)[1]

    def _found(self, peers: PeersToName) -> tuple[NDArray[np.int64], NameCandidates]:
        found = self.table.find(peers.endpoint, peers.address, peers.at_ns, self.trusted)
        doubts = self.table.doubts
        missing = doubts.at(peers.endpoint, peers.at_ns) | np.uint8(self.missing)
        missing |= doubts.seen_late(peers.endpoint, peers.late_ns, peers.at_ns)
        return found.record, self.table.candidates(
            found, peers.at_ns, missing, self.trusted, self.wall_offset
        )

    def name_peers(self, peers: PeersToName) -> NamedPeers:
        """Return the names of peers, as their endpoints knew them at the first packet."""
        n = len(peers.endpoint)
        record, candidates = self._found(peers)
        row = candidates.rows()
        entries = self.table.records[record]
        source, name = np.zeros(n, np.int8), np.full(n, NO_TEXT, np.int64)
        chain, chosen = np.zeros(n, np.int64), np.full(n, -1, np.int64)
        # The entries of a row are in the order of the answers; a verified one wins.
        for some in (np.flatnonzero(~candidates.trusted), np.flatnonzero(candidates.trusted)):
            chosen[row[some]] = some
        several = _several(row, candidates.names, n)
        hello = self.server_names.find(keys_of(peers.endpoint, peers.key), peers.at_ns)
        with_name = np.flatnonzero(hello != NO_NAME)
        fits = self._fitting(hello, row, entries["name"])
        chosen[fits[0]] = fits[1]
        decided = np.zeros(n, np.bool_)
        decided[fits[0]] = True
        rows = np.flatnonzero(chosen >= 0)
        entry = chosen[rows]
        source[rows] = np.select(
            [
                ~candidates.trusted[entry],
                several[rows] & ~decided[rows],
                candidates.expires[entry] < candidates.at[rows],
            ],
            [UNVERIFIED, AMBIGUOUS, EXPIRED],
            DNS,
        )
        name[rows], chain[rows] = entries["name"][entry], entries["chain"][entry]
        only_tls = with_name[~decided[with_name]]
        source[only_tls], chain[only_tls] = TLS, 0
        in_hello = self.server_names.records["name"][hello[only_tls]]
        name[only_tls] = len(self.table.texts) + in_hello
        doubtful = np.zeros(n, np.bool_)
        others = candidates.missing[only_tls] & np.uint8(~_OWN_DOING & 0xFF)
        doubtful[only_tls] = others == 0
        return NamedPeers(source, name, chain, doubtful, candidates)

    def _fitting(
        self, hello: NDArray[np.int64], row: NDArray[np.int64], names: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return rows with a server name among their candidates, and the entries."""
        some = np.flatnonzero(hello[row] != NO_NAME)
        if not len(some):
            return some, some
        in_hello = self.server_names.records["name"][hello[row[some]]]
        used = np.unique(in_hello)
        numbers = {text: i for i, text in enumerate(self.server_names.texts)}
        different, place = np.unique(names[some], return_inverse=True)
        same = [numbers.get(self.table.texts[i], -1) for i in different.tolist()]
        del used
        hits = some[np.array(same, np.int64)[place.ravel()] == in_hello]
        return row[hits], hits


def _several(row: NDArray[np.int64], names: NDArray[np.int32], n: int) -> NDArray[np.bool_]:
    """Return which connections have entries with different names. (n,)"""
    lowest, highest = np.full(n, np.iinfo(np.int32).max), np.full(n, -1)
    np.minimum.at(lowest, row, names)
    np.maximum.at(highest, row, names)
    several: NDArray[np.bool_] = highest > lowest
    return several


NO_DOMAIN_INPUTS = DomainInputs()
