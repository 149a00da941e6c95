# SPDX-License-Identifier: Apache-2.0
"""Numbers the domain names of peers: a connection keeps the one that it began with."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.dns.domain_labels import AMBIGUOUS_LABEL, UNVERIFIED_LABEL, DomainLabels
from podtally.dns.peer_naming import (
    AMBIGUOUS,
    DNS,
    EXPIRED,
    SOURCES,
    UNVERIFIED,
    DomainInputs,
    NamedPeers,
    PeersToName,
)
from podtally.ledger.checkpoint.saved import Saved, encode
from podtally.ledger.series.label_sets import OTHER
from podtally.ledger.series.shares import rank

NO_DOMAIN = 0  # the peer has no known name
NOT_LOOKED_UP = -1
OTHER_DOMAIN = 1  # beyond what an endpoint may add in an epoch
MAX_NEW = 512  # names of one endpoint, in one batch
_SPARE = 1024  # unused numbers before they are given out again


class PeerDomain(NamedTuple):
    """A name of a peer as one endpoint knows it, and how that is known."""

    name: str  # the queried one; among several the most recent
    source: str  # one of peer_naming.SOURCES
    chain: str = ""  # of aliases behind the name
    label: str = ""  # `peer_domain`
    network: str = ""  # of ``networks:``, by this name


_FIRST = (PeerDomain("", ""), PeerDomain("", "", label=OTHER))


class PeerDomains:
    """Peer domains by number. Numbers are in the columns of connections."""

    def __init__(self, labels: DomainLabels | None = None) -> None:
        self.labels = labels or DomainLabels()
        self.values: list[PeerDomain] = list(_FIRST)
        self._numbers: dict[PeerDomain, int] = {each: i for i, each in enumerate(_FIRST)}
        self.version = 0  # changes when numbers become invalid

    def of(self, peers: PeersToName, inputs: DomainInputs) -> NDArray[np.int32]:
        """Return the numbers of peers' names; the loop is over different names. (n,)"""
        numbers = np.zeros(len(peers.endpoint), np.int32)
        found = inputs.name_peers(peers)
        rows = np.flatnonzero(found.source)
        if not len(rows):
            return numbers
        spread = _spread(found, rows)
        keys = np.column_stack(
            [
                peers.endpoint[rows],
                found.source[rows],
                found.name[rows],
                found.chain[rows],
                found.doubtful[rows],
                spread,
            ]
        )
        _, first, place = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        many = rank(peers.endpoint[rows[first]]) >= MAX_NEW
        made = np.full(len(first), OTHER_DOMAIN, np.int32)
        for each in np.flatnonzero(~many).tolist():
            made[each] = self.number(self._domain(found, int(rows[first[each]]), inputs))
        numbers[rows] = made[place.ravel()]
        return numbers

    def number(self, domain: PeerDomain) -> int:
        number = self._numbers.setdefault(domain, len(self.values))
        if number == len(self.values):
            self.values.append(domain)
        return number

    def _domain(self, found: NamedPeers, row: int, inputs: DomainInputs) -> PeerDomain:
        source, name = int(found.source[row]), inputs.text(int(found.name[row]))
        chain = inputs.table.texts[int(found.chain[row])]
        return PeerDomain(
            name=name,
            source=SOURCES[source],
            chain=chain,
            label=self._label(found, row, name),
            network=self.labels.network(name) if source in (DNS, EXPIRED) else "",
        )

    def _label(self, found: NamedPeers, row: int, name: str) -> str:
        source, label = int(found.source[row]), self.labels.label(name)
        if not label:
            return ""
        if source == UNVERIFIED or found.doubtful[row]:
            return UNVERIFIED_LABEL
        if source == AMBIGUOUS:
            candidates = found.candidates
            span = slice(*candidates.offsets[row : row + 2].tolist())
            names = {candidates.table[i] for i in candidates.names[span].tolist()}
            if {self.labels.label(each) for each in names} != {label}:
                return AMBIGUOUS_LABEL
        return label

    # -- the checkpoint, and numbers that are not used any more ------------------------------

    def prune(self, *columns: NDArray[np.int32]) -> bool:
        """Renumber if many numbers are not in ``columns``, which are changed; return whether."""
        used = np.unique(np.concatenate([np.arange(len(_FIRST), dtype=np.int32), *columns]))
        used = used[used >= 0]
        if len(self.values) <= 2 * len(used) + _SPARE:
            return False
        for column in columns:
            known = column >= 0
            column[known] = np.searchsorted(used, column[known])
        self.values = [self.values[i] for i in used.tolist()]
        self._numbers = {each: i for i, each in enumerate(self.values)}
        self.version += 1
        return True

    def save(self) -> Saved:
        return Saved(encode(self.values))

    def load(self, saved: Saved, now_ns: int) -> None:
        self.values = saved.decode(list[PeerDomain]) or list(_FIRST)
        self._numbers = {each: i for i, each in enumerate(self.values)}


def _spread(found: NamedPeers, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a number that differs for ambiguous peers with different candidates. (n,)"""
    candidates = found.candidates
    total = np.concatenate([[0], np.cumsum(candidates.names.astype(np.int64) + 1)])
    sums = total[candidates.offsets[rows + 1]] - total[candidates.offsets[rows]]
    return np.where(found.source[rows] == AMBIGUOUS, sums, 0)
