"""Books an epoch: rows and accounts in, sums under labels out; nothing is lost or counted twice.

Pure: it is given what the kernel counted, who is who and what time it is. When the
kernel is read and when the result is written down is the epoch's business.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.identity.model import Endpoint
from podtally.identity.table import Names
from podtally.kernel.books import Accounts as KernelAccounts
from podtally.kernel.table import Rows
from podtally.ledger.accounts import (
    BYTES,
    CONNECTIONS,
    PACKETS,
    Account,
    Accounts,
)
from podtally.ledger.connections import (
    BEGAN_HERE,
    BEGAN_THERE,
    BEGAN_UNKNOWN,
    KEY,
    Columns,
    Connections,
    Flags,
    who_began,
)
from podtally.ledger.interfaces import Interfaces
from podtally.ledger.kernel_readings import NOTHING_GROWN, KernelReadings
from podtally.ledger.labels import DIRECTIONS, BookLabels, FlowLabels, PodLabels
from podtally.ledger.naming import Naming
from podtally.ledger.series import SeriesTable, SeriesView

ColdRows = Callable[[NDArray[np.int64]], NDArray[np.void]]

FLOWS, OTHER, OVERFLOW = 0, 1, 2  # accounts, as in labels.ACCOUNTS
VLAN_TAG = 4  # bytes, IEEE 802.1Q
NEARLY_FULL = 0.9  # of the series limit: then those of long silent peers are let go
STRANGERS_NAME = "unknown"  # of interfaces that somebody else put our programs on


class Limits(NamedTuple):
    series: int
    connections: int
    grace_ns: int  # how long the series of the dead are kept


class View(NamedTuple):
    """What readers of the ledger see; nothing in it changes any more."""

    pods: SeriesView[PodLabels]  # (n, 2): bytes, packets
    flows: SeriesView[FlowLabels]  # (n, 3): bytes, packets, connections
    books: SeriesView[BookLabels]  # (n, 3): flows, other, overflow, in bytes
    gaps: list[tuple[BookLabels, int]]
    connections: int
    began_unknown: int
    limited: int
    overflow_packets: int


class Tally(NamedTuple):
    """What one epoch adds, by interface slot and direction."""

    bytes: NDArray[np.int64]  # (slots, 2, 3): the accounts
    packets: NDArray[np.int64]  # (slots, 2): all of them


class Ended(NamedTuple):
    """Connections that are over, with their last totals, and what they were called."""

    columns: Columns
    accounts: dict[int, Account]  # by columns.account
    endpoints: dict[int, Endpoint]  # by ifindex
    interfaces: dict[int, str]  # names, by ifindex


class Places(NamedTuple):
    """Indexes of the series of live interfaces, egress before ingress."""

    live: NDArray[np.int64]  # their slots
    pods: NDArray[np.int64]  # two for each
    books: NDArray[np.int64]


class Ledger:
    """All that podtally has counted since its first start on this boot."""

    def __init__(self, flags: Flags, limits: Limits, keep_ended: bool = False) -> None:
        self._keep_ended = keep_ended
        self.limits = limits
        self.pods: SeriesTable[PodLabels] = SeriesTable(2)
        self.flows: SeriesTable[FlowLabels] = SeriesTable(3)
        self.books: SeriesTable[BookLabels] = SeriesTable(3)
        self.accounts = Accounts(self.flows, limits.series)
        self.connections = Connections(flags, limits.connections)
        self.interfaces = Interfaces()
        self._naming = Naming(self.interfaces, self.accounts)
        self.retired_gaps: dict[BookLabels, int] = {}
        self.readings = KernelReadings()
        self.began_unknown = 0
        self.overflow_packets = 0
        self._flags = flags
        self._sums = np.zeros((4, 0), np.int64)
        self._ended: list[Columns] = []
        self._placed = Places(*(np.zeros(0, np.int64),) * 3)
        self._placed_for: tuple[Names | None, int] = (None, -1)
        self._kernel_delta = NOTHING_GROWN
        self.begin()

    def begin(self) -> None:
        """Start an epoch's sums."""
        self._sums = np.zeros((4, len(self.accounts)), np.int64)

    # -- rows ---------------------------------------------------------------------

    def book_rows(self, rows: Rows, cold: ColdRows, names: Names, now_ns: int) -> None:
        """Book a batch of rows, each connection at most once in an epoch."""
        place, known = self.connections.find(rows.fingerprint)
        if known.all():
            account = self._book_known(rows, place, cold, names, now_ns)
        else:
            account = np.empty(len(place), np.int64)
            old = np.flatnonzero(known)
            some = Rows._make(column[old] for column in rows)
            account[old] = self._book_known(some, place[old], cold, names, now_ns)
            new = np.flatnonzero(~known)
            fresh = self._begin(Rows._make(column[new] for column in rows), cold, names, now_ns)
            account[new] = fresh.account
            self.connections.begin(fresh)
        self._add(account, rows)

    def _book_known(
        self, rows: Rows, place: NDArray[np.int64], cold: ColdRows, names: Names, now_ns: int
    ) -> NDArray[np.int64]:
        """Add rows to their connections; returns their accounts. (n,)"""
        connections = self.connections
        reborn = connections.reborn(place, rows.seen)
        if not reborn.any():
            connections.add_to(place, (rows.bytes, rows.packets), rows.seen, now_ns)
        else:
            old = Rows._make(column[~reborn] for column in rows)
            connections.add_to(place[~reborn], (old.bytes, old.packets), old.seen, now_ns)
            again = Rows._make(column[reborn] for column in rows)
            fresh = self._begin(again, cold, names, now_ns)
            self._ended.append(connections.replace(place[reborn], fresh))
        account = connections.columns.account[place]
        unnamed = np.flatnonzero(account < 0)
        if len(unnamed):
            columns = connections.columns.take(place[unnamed])
            account[unnamed] = self._naming.accounts_of(columns.key, columns.began, names, now_ns)
            connections.columns.account[place[unnamed]] = account[unnamed]
        return account.astype(np.int64)

    def _begin(self, rows: Rows, cold: ColdRows, names: Names, now_ns: int) -> Columns:
        """New connections from rows, named as of their first packet."""
        cold_rows = cold(rows.place)
        key = np.empty(len(cold_rows), KEY)
        for field in KEY.names or ():
            key[field] = cold_rows[field]
        began = who_began(rows.seen, key, self._flags)
        account = self._naming.accounts_of(key, began, names, now_ns)
        self._count_beginnings(account, began, now_ns)
        return Columns(
            rows.fingerprint,
            account.astype(np.int32),
            began,
            rows.seen,
            cold_rows["first_seen_ns"].astype(np.int64),
            np.full(len(key), now_ns, np.int64),
            rows.bytes,
            rows.packets,
            key,
        )

    def _count_beginnings(
        self, account: NDArray[np.int64], began: NDArray[np.uint8], now_ns: int
    ) -> None:
        for direction, side in enumerate((BEGAN_HERE, BEGAN_THERE)):
            begun = account[began == side]
            one = np.zeros((len(begun), 3), np.int64)
            one[:, CONNECTIONS] = 1
            self.flows.add(self.accounts.series[begun, direction], one, now_ns)
        self.began_unknown += int(np.count_nonzero(began == BEGAN_UNKNOWN))

    def _add(self, account: NDArray[np.int64], rows: Rows) -> None:
        short = len(self.accounts) - self._sums.shape[1]
        if short > 0:  # accounts were opened for these rows
            self._sums = np.pad(self._sums, ((0, 0), (0, short)))
        for direction in (0, 1):
            np.add.at(self._sums[direction], account, rows.bytes[:, direction])
            np.add.at(self._sums[2 + direction], account, rows.packets[:, direction])

    # -- what the kernel counts outside of rows -------------------------------------

    def book_kernel_accounts(self, accounts: KernelAccounts) -> None:
        """Book what the kernel's cumulative accounts have grown by since they were last read."""
        self._kernel_delta = self.readings.grown(accounts)
        self.overflow_packets += int(self._kernel_delta.packets[:, 1].sum())

    # -- the end of an epoch --------------------------------------------------------

    def settle(self, names: Names, gone: Iterable[int], now_ns: int) -> list[Ended]:
        """Put the epoch's sums where they belong; ``gone`` are interfaces to be let go
        after this. Returns the connections that ended, if they are to be kept.
        """
        tally = self._tally()
        self._settle_flows(now_ns)
        self._settle_interfaces(tally, names, now_ns)
        self.begin()
        leaving = np.array([i for i in gone if self.interfaces.known(i)], np.int64)
        ended = [*self._ended, self.connections.settle(now_ns, leaving)]
        self._ended = []
        if not self._keep_ended:
            return []
        return [self._describe(each, names) for each in ended if len(each.fingerprint)]

    def _describe(self, columns: Columns, names: Names) -> Ended:
        interfaces = np.unique(columns.key["ifindex"]).tolist()
        return Ended(
            columns,
            self.accounts.at(np.unique(columns.account)),
            {i: names.endpoint(i) for i in interfaces},
            {i: self.interfaces.name(i) for i in interfaces},
        )

    def _settle_flows(self, now_ns: int) -> None:
        moved = np.flatnonzero(self._sums.any(axis=0))
        for direction in (0, 1):
            amounts = np.zeros((len(moved), 3), np.int64)
            amounts[:, BYTES] = self._sums[direction, moved]
            amounts[:, PACKETS] = self._sums[2 + direction, moved]
            self.flows.add(self.accounts.series[moved, direction], amounts, now_ns)

    def _tally(self) -> Tally:
        delta = self._kernel_delta
        moved = delta.bytes.any(axis=1) | delta.packets.any(axis=1) | (delta.tagged > 0)
        slots = self.interfaces.slots(delta.ifindex[moved])
        if moved.any() and self.interfaces.known(0):
            self.interfaces.renamed(0, STRANGERS_NAME)
        tally = Tally(
            np.zeros((len(self.interfaces), 2, 3), np.int64),
            np.zeros((len(self.interfaces), 2), np.int64),
        )
        np.add.at(tally.bytes[:, :, OTHER:], (slots, delta.direction[moved]), delta.bytes[moved])
        np.add.at(tally.packets, (slots, delta.direction[moved]), delta.packets[moved].sum(axis=1))
        flowed = np.flatnonzero(self._sums.any(axis=0))
        np.add.at(tally.bytes[:, :, FLOWS], self.accounts.slot[flowed], self._sums[:2, flowed].T)
        np.add.at(tally.packets, self.accounts.slot[flowed], self._sums[2:, flowed].T)
        np.add.at(
            self.interfaces.tags, (slots, delta.direction[moved]), VLAN_TAG * delta.tagged[moved]
        )
        self._kernel_delta = NOTHING_GROWN
        return tally

    def _settle_interfaces(self, tally: Tally, names: Names, now_ns: int) -> None:
        self.interfaces.booked += tally.bytes.sum(axis=2)
        live, pods, books = self._places(names, now_ns)
        amounts = np.stack([tally.bytes.sum(axis=2), tally.packets], axis=2)
        self.pods.add(pods, amounts[live].reshape(-1, 2), now_ns)
        self.books.add(books, tally.bytes[live].reshape(-1, 3), now_ns)

    def _places(self, names: Names, now_ns: int) -> Places:
        """Where the sums of each live interface go; the same until a name changes."""
        if self._placed_for[0] is not names or self._placed_for[1] != self.interfaces.version:
            live = self.interfaces.live()
            pods, books = [], []
            for slot in live.tolist():
                endpoint = names.endpoint(int(self.interfaces.ifindex[slot]))
                interface = self.interfaces.names[slot]
                for each in DIRECTIONS:
                    labels = PodLabels(endpoint.namespace, endpoint.name, each)
                    pods.append(self.pods.index_of(labels, now_ns))
                    books.append(self.books.index_of(BookLabels(interface, each), now_ns))
            self._placed = Places(live, np.array(pods, np.int64), np.array(books, np.int64))
            self._placed_for = (names, self.interfaces.version)
        return self._placed

    def close_books(
        self, ifindex: NDArray[np.int64], counters: NDArray[np.int64], now_ns: int
    ) -> None:
        """Hold the books of interfaces (n,) against readings of their counters (n, 2), from
        and to the endpoint, taken after the epoch was settled.
        """
        known = np.array([self.interfaces.known(i) for i in ifindex.tolist()], np.bool_)
        slots = self.interfaces.slots(ifindex[known])
        tags = np.zeros((len(self.interfaces), 2), np.int64)
        tags[slots] = self.interfaces.close(slots, counters[known])
        if tags.any():
            places = self._placed
            amounts = np.zeros((len(places.books), 3), np.int64)
            amounts[:, OTHER] = tags[places.live].ravel()
            self.books.add(places.books, amounts, now_ns)
            self.pods.add(places.pods, amounts[:, [OTHER, OVERFLOW]], now_ns)

    def let_go(self, ifindex: int) -> None:
        """Forget an interface; its series stay for the grace, its gap with them."""
        if not self.interfaces.known(ifindex):
            return
        slot = self.interfaces.slot(ifindex)
        for direction, gap in zip(DIRECTIONS, self.interfaces.gap[slot].tolist(), strict=True):
            if gap:
                labels = BookLabels(self.interfaces.names[slot], direction)
                self.retired_gaps[labels] = self.retired_gaps.get(labels, 0) + gap
        self._close_accounts([ifindex])
        self.interfaces.remove(ifindex)

    def rename(self, ifindexes: Iterable[int]) -> None:
        """The endpoints of these interfaces have new names: what flows from now on is theirs."""
        changed = [i for i in ifindexes if self.interfaces.known(i)]
        if changed:
            self._close_accounts(changed)

    def _close_accounts(self, ifindexes: list[int]) -> None:
        """No connection may go on under the index of an account that can become another's."""
        columns = self.connections.columns
        columns.account[np.isin(columns.key["ifindex"], ifindexes)] = -1
        for ifindex in ifindexes:
            self.accounts.close(self.interfaces.slot(ifindex))

    def expire(self, names: Names, now_ns: int) -> None:
        """Forget the series of what is no more and has been silent for the grace."""
        before = now_ns - self.limits.grace_ns
        places = self._places(names, now_ns)
        self.pods.expire(before, places.pods)
        self.books.expire(before, places.books)
        if len(self.flows) > self.limits.series * NEARLY_FULL:
            # The living keep their series, silent or not, unless there is a need for room.
            self.accounts.close_idle(self.flows.idle(before), self.connections.columns.account)
        self.flows.expire(before, self.accounts.series_in_use())
        for labels in [each for each in self.retired_gaps if self.books.find(each) is None]:
            del self.retired_gaps[labels]

    def view(self) -> View:
        gaps = dict(self.retired_gaps)
        for slot in self.interfaces.live().tolist():
            for direction, gap in zip(DIRECTIONS, self.interfaces.gap[slot].tolist(), strict=True):
                labels = BookLabels(self.interfaces.names[slot], direction)
                gaps[labels] = gaps.get(labels, 0) + gap
        return View(
            self.pods.view(),
            self.flows.view(),
            self.books.view(),
            list(gaps.items()),
            len(self.connections),
            self.began_unknown,
            self.accounts.limited,
            self.overflow_packets,
        )
