# SPDX-License-Identifier: Apache-2.0
"""Keeps open connections: who opened each, when, and its totals.

Arrays sorted by fingerprint: an epoch's rows join them by one binary search each. Labels
belong to the accounts.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.arrays.distinct import distinct
from podtally.kernel import abi
from podtally.kernel.table import FlowRows
from podtally.ledger.checkpoint.saved import Saved
from podtally.ledger.series.shares import level
from podtally.outcomes.progress import PROGRESS, HandshakeBits, handshake_bits, reject

TCP = 6
TCP_FIN, TCP_RST, TCP_ACK = 1, 4, 16

# Who opened a connection: our endpoint (HERE) or its peer (THERE). CONTESTED is added where
# evidence contradicts itself; the rest is then the likelier side, if any (``initiator``).
INITIATOR_UNKNOWN, INITIATOR_ENDPOINT, INITIATOR_PEER = 0, 1, 2
CONTESTED = 4
INITIATOR_MASK = 3  # the bits beside CONTESTED
UNNAMED = -1  # the account of a connection that needs its labels again
NO_CONNECTION = -2  # in the place of an account: no such connection

Array = NDArray[Any]

# The key of a flow as the kernel keeps it; addresses are words in network order.
KEY = np.dtype(
    [
        ("local_address", "u8", (2,)),
        ("remote_address", "u8", (2,)),
        ("ifindex", "u4"),
        ("local_port", "u2"),
        ("remote_port", "u2"),
        ("protocol", "u1"),
        ("first_direction", "u1"),
        ("cgroup_high", "u2"),
        ("cgroup_low", "u4"),
    ]
)


class ConnectionColumns(NamedTuple):
    """Connections; index i of every array is the same one."""

    fingerprint: NDArray[np.uint64]
    account: NDArray[np.int32]
    event: NDArray[np.int32]  # that it belongs to; NO_EVENT
    initiator: NDArray[np.uint8]
    seen: NDArray[np.uint64]  # the union of the rows' flags
    first_ns: NDArray[np.int64]
    last_ns: NDArray[np.int64]  # the end of the epoch in which it was last seen
    bytes: NDArray[np.int64]  # (n, 2): from and to the endpoint
    packets: NDArray[np.int64]
    key: NDArray[np.void]
    domain: NDArray[np.int32]  # number in PeerDomains, by which the endpoint found its peer
    recorded: NDArray[np.int64]  # (n, 4): bytes, packets; what the history has of the totals
    resumed_ns: NDArray[np.int64]  # when the first of the rest moved
    outcome: NDArray[np.uint8]  # in ``outcomes.decision.OUTCOMES``
    progress: NDArray[np.void]  # of the handshake

    def take(self, index: NDArray[np.bool_] | NDArray[np.int64]) -> "ConnectionColumns":
        return ConnectionColumns._make(column[index] for column in self)

    def save(self) -> Saved:
        return Saved(arrays=self._asdict())


_NEWER = (
    "domain",
    "recorded",
    "resumed_ns",
    "outcome",
    "progress",
)  # than the oldest checkpoint that is read


def loaded_connections(saved: Saved) -> ConnectionColumns:
    """Return what ``ConnectionColumns.save`` returned; columns that are newer may be missing."""
    old: dict[str, Array] = {
        name: saved.array(name) for name in ConnectionColumns._fields if name not in _NEWER
    }
    n = len(old["fingerprint"])
    new: dict[str, Array] = {
        "domain": np.zeros(n, np.int32),
        "recorded": np.zeros((n, 4), np.int64),
    }
    new |= {"outcome": np.zeros(n, np.uint8), "progress": np.zeros(n, PROGRESS)}
    new["resumed_ns"] = old["last_ns"].copy()
    new |= {name: saved.array(name) for name in _NEWER if name in saved.arrays}
    return ConnectionColumns(**{**old, **new})


def no_connections() -> ConnectionColumns:
    return ConnectionColumns(
        np.zeros(0, np.uint64),
        np.zeros(0, np.int32),
        np.zeros(0, np.int32),
        np.zeros(0, np.uint8),
        np.zeros(0, np.uint64),
        np.zeros(0, np.int64),
        np.zeros(0, np.int64),
        np.zeros((0, 2), np.int64),
        np.zeros((0, 2), np.int64),
        np.zeros(0, KEY),
        np.zeros(0, np.int32),
        np.zeros((0, 4), np.int64),
        np.zeros(0, np.int64),
        np.zeros(0, np.uint8),
        np.zeros(0, PROGRESS),
    )


class Flags(NamedTuple):
    """Bits of ``seen``; from ``bpf/flow.h``."""

    shift: int
    syn_only: int
    syn_ack: int
    socket: int = 0  # 0: of programs that do not look for sockets
    group: int = 0  # sent to a group, by the frame's destination or the packet's
    unparsed: int = 0  # ports or TCP flags could not all be read
    icmp_error: int = 0  # a row of errors about another flow
    icmp_relayed: int = 0
    error_fingerprint: int = 0
    rejected: int = 0  # a row of errors that end an attempt to connect
    handshake: HandshakeBits = HandshakeBits(0, 0, 0)


def flags_of(layout: abi.Layout) -> Flags:
    """Return the bits of a layout; 0 for those it lacks."""
    return Flags(
        layout.seen_shift,
        layout.seen_syn_only,
        layout.seen_syn_ack,
        layout.seen_socket,
        layout.seen_group,
        layout.seen_unparsed,
        layout.seen_icmp_error,
        layout.seen_icmp_relayed,
        layout.error_fingerprint,
        layout.seen_rejected,
        handshake_bits(layout),
    )


def has_ended(seen: NDArray[np.uint64], flags: Flags) -> NDArray[np.bool_]:
    """Return where both sides sent a FIN, or either a RST. (n,)"""
    fins = np.uint64(TCP_FIN | TCP_FIN << flags.shift)
    resets = np.uint64(TCP_RST | TCP_RST << flags.shift)
    ended: NDArray[np.bool_] = ((seen & fins) == fins) | ((seen & resets) != 0)
    return ended


def half_open(seen: NDArray[np.uint64], flags: Flags) -> NDArray[np.bool_]:
    """Return where TCP's handshake is incomplete: a SYN, and no ACK from the same side. (n,)"""
    found = np.zeros(len(seen), np.bool_)
    for shift in (0, flags.shift):
        syn, ack = np.uint64(flags.syn_only << shift), np.uint64(TCP_ACK << shift)
        found |= (seen & (syn | ack)) == syn
    return found


def has_syn(seen: NDArray[np.uint64], flags: Flags) -> NDArray[np.bool_]:
    """Return where either side sent a SYN without ACK. (n,)"""
    found: NDArray[np.bool_] = (
        seen & np.uint64(flags.syn_only | flags.syn_only << flags.shift)
    ) != 0
    return found


class Timeouts(NamedTuple):
    """After how many ns without a packet a connection is closed."""

    # The first TCP keep-alive comes after two hours (tcp_keepalive_time).
    tcp: int = 7_200_000_000_000 + 75_000_000_000
    other: int = 120_000_000_000  # nf_conntrack_udp_timeout_stream, tcp_timeout_syn_sent
    ended: int = 2_000_000_000  # for the last ACKs and retransmissions


class Connections:
    """The open connections, at most ``limit``."""

    def __init__(self, flags: Flags, limit: int, timeouts: Timeouts | None = None) -> None:
        self.columns = no_connections()
        self.flags = flags
        self._limit = limit
        self._timeouts = timeouts or Timeouts()
        self._new: list[ConnectionColumns] = []
        self.minute_from_ns = 0  # when the history's minute began; 0: there is no history

    def __len__(self) -> int:
        return len(self.columns.fingerprint)

    def save(self) -> Saved:
        return self.columns.save()

    def load(self, saved: Saved, now_ns: int) -> None:
        self.columns = loaded_connections(saved)

    def find(self, fingerprint: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the places of ascending fingerprints (n,), and which of them are known."""
        known = self.columns.fingerprint
        if not len(known) or not len(fingerprint):
            return np.zeros(len(fingerprint), np.int64), np.zeros(len(fingerprint), np.bool_)
        # Search only between the first and the last: that part stays in cache.
        first, last = np.searchsorted(known, fingerprint[[0, -1]])
        stretch = known[first : last + 1]
        place = np.searchsorted(stretch, fingerprint) + first
        np.minimum(place, len(known) - 1, out=place)
        return place, known[place] == fingerprint

    def add_to(
        self,
        place: NDArray[np.int64],
        amounts: tuple[NDArray[np.int64], NDArray[np.int64]],
        seen: NDArray[np.uint64],
        now_ns: int,
    ) -> None:
        """Add (bytes, packets), both (n, 2), to the connections at ``place``, all different."""
        columns = self.columns
        # take() copies pairs faster than an index does.
        columns.bytes[place] = columns.bytes.take(place, axis=0) + amounts[0]
        columns.packets[place] = columns.packets.take(place, axis=0) + amounts[1]
        columns.seen[place] |= seen
        if self.minute_from_ns:
            resumed = place[columns.last_ns.take(place) < self.minute_from_ns]
            columns.resumed_ns[resumed] = now_ns
        columns.last_ns[place] = now_ns

    def add_errors(
        self, quoted: NDArray[np.uint64], rows: FlowRows, now_ns: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Add rows of ICMP errors to the connections they quote, including those begun in this
        epoch. Return their accounts and events, NO_CONNECTION where there is none. (n,) each
        """
        account = np.full(len(quoted), NO_CONNECTION, np.int32)
        event = np.full(len(quoted), NO_CONNECTION, np.int32)
        for columns in (self.columns, *self._new):
            place = np.searchsorted(columns.fingerprint, quoted)
            place[place == len(columns.fingerprint)] = 0
            found = np.zeros(len(quoted), np.bool_)
            if len(columns.fingerprint):
                found = columns.fingerprint[place] == quoted
            at = place[found]
            np.add.at(columns.bytes, at, rows.bytes[found])
            np.add.at(columns.packets, at, rows.packets[found])
            columns.last_ns[at] = now_ns
            self._reject(columns, place, found, rows)
            account[found], event[found] = columns.account[at], columns.event[at]
        return account, event

    def _reject(
        self,
        columns: ConnectionColumns,
        place: NDArray[np.int64],
        found: NDArray[np.bool_],
        rows: FlowRows,
    ) -> None:
        """Note the errors (n,) that end an attempt to connect."""
        bits = self.flags.rejected | self.flags.rejected << self.flags.shift
        some = np.flatnonzero(found & (rows.seen & np.uint64(bits) != 0))
        if len(some):
            at, icmp = place[some], rows.handshake["icmp"][some]
            columns.progress[at] = reject(
                columns.progress[at], rows.seen[some], icmp, self.flags.handshake
            )

    def reused(self, place: NDArray[np.int64], seen: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return which rows reuse the ports of a closed connection. (n,)"""
        candidates = has_syn(seen, self.flags)
        if candidates.any():
            ended: NDArray[np.bool_] = candidates & has_ended(self.columns.seen[place], self.flags)
            return ended
        return candidates

    def replace(self, place: NDArray[np.int64], fresh: ConnectionColumns) -> ConnectionColumns:
        """Put new connections in the place of ended ones; return those."""
        ended = self.columns.take(place)
        for name in ConnectionColumns._fields:
            getattr(self.columns, name)[place] = getattr(fresh, name)
        return ended

    def begin(self, fresh: ConnectionColumns) -> None:
        """Add new connections; ``find`` returns them after ``settle``."""
        self._new.append(fresh)

    def settle(self, now_ns: int, gone: NDArray[np.int64]) -> ConnectionColumns:
        """Merge new connections with the others; remove and return those that ended.

        ``gone`` are removed interfaces: their connections have ended.
        """
        parts, self._new = [self.columns, *self._new], []
        leaving = [np.isin(part.key["ifindex"], gone) for part in parts]
        leaving[0] |= self._over(self.columns, now_ns)
        self._make_room(parts, leaving)
        ended = join([part.take(over) for part, over in zip(parts, leaving, strict=True)])
        if len(parts) == 1 and not len(ended.fingerprint):
            return ended
        kept = [np.flatnonzero(~over) for over in leaving]
        order = np.argsort(_joined([part.fingerprint for part in parts], kept), kind="stable")
        # Column by column: no second copy of all of them at once.
        self.columns = ConnectionColumns._make(
            _joined(column, kept)[order] for column in zip(*parts, strict=True)
        )
        return ended

    def _over(self, columns: ConnectionColumns, now_ns: int) -> NDArray[np.bool_]:
        lasts = (columns.key["protocol"] == TCP) & ~half_open(columns.seen, self.flags)
        patience = np.where(lasts, self._timeouts.tcp, self._timeouts.other)
        patience = np.where(has_ended(columns.seen, self.flags), self._timeouts.ended, patience)
        over: NDArray[np.bool_] = now_ns - columns.last_ns > patience
        return over

    def _make_room(self, parts: list[ConnectionColumns], leaving: list[NDArray[np.bool_]]) -> None:
        """Keep the limit: drop connections of the interfaces with most of them; half-open ones
        first, then the longest idle.
        """
        kept = [np.flatnonzero(~over) for over in leaving]
        if sum(map(len, kept)) <= self._limit:
            return
        ifindex = _joined([part.key["ifindex"] for part in parts], kept)
        _, interface = distinct(ifindex.astype(np.int64))
        counts = np.bincount(interface)
        half_opened = half_open(_joined([part.seen for part in parts], kept), self.flags)
        last_ns = _joined([part.last_ns for part in parts], kept)
        order = np.lexsort((-last_ns, half_opened, interface))
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order)) - (np.cumsum(counts) - counts)[interface[order]]
        beyond = place >= level(counts, self._limit)
        bounds = np.cumsum([len(each) for each in kept])[:-1]
        for over, rows, goes in zip(leaving, kept, np.split(beyond, bounds), strict=True):
            over[rows[goes]] = True


def _joined(column: Sequence[Array], kept: list[NDArray[np.int64]]) -> Array:
    return np.concatenate([part[rows] for part, rows in zip(column, kept, strict=True)])


def join(parts: list[ConnectionColumns]) -> ConnectionColumns:
    return ConnectionColumns(*(np.concatenate(column) for column in zip(*parts, strict=True)))
