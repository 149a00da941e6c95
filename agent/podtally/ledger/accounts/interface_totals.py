# SPDX-License-Identifier: Apache-2.0
"""Adds an epoch up by interface: its books by account, and the totals of its pod."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.identity.name_table import Names
from podtally.kernel.account_map import AccountReading
from podtally.ledger.accounts.accounts import AccountTable
from podtally.ledger.interfaces.balance import Losses
from podtally.ledger.interfaces.interfaces import Interfaces
from podtally.ledger.metrics import families
from podtally.ledger.metrics.outcome_families import INTERFACE_DROPS
from podtally.ledger.metrics.tables import Tables
from podtally.ledger.series.label_sets import ACCOUNTS, DIRECTIONS, BookLabels, PodLabels
from podtally.ledger.series.series import SeriesTable

FLOWS, OTHER = 0, 1  # accounts, as in label_sets.ACCOUNTS
VLAN_TAG = 4  # bytes, IEEE 802.1Q
UNATTRIBUTED_NAME = "unknown"  # of interfaces to which others attached our programs


class EpochTotals(NamedTuple):
    """What one epoch adds, by interface slot and direction."""

    bytes: NDArray[np.int64]  # (slots, 2, 3): the accounts
    packets: NDArray[np.int64]  # (slots, 2, 2): of flows, of the rest


class InterfaceSeries(NamedTuple):
    """Indexes of the series of live interfaces, egress before ingress."""

    live: NDArray[np.int64]  # their slots
    books: NDArray[np.int64]  # two for each
    named: NDArray[np.int64]  # the slots among them that have an endpoint with a name
    pods: NDArray[np.int64]  # two for each of those


class InterfaceTotals:
    """Over the interfaces and accounts of one ledger, and the tables that it adds to."""

    def __init__(
        self,
        interfaces: Interfaces,
        accounts: AccountTable,
        tables: Tables,
    ) -> None:
        self._interfaces = interfaces
        self._accounts = accounts
        self._books, self._drops = tables[families.BOOKS], tables[families.DROPS_BYTES]
        self._pods, self._dropped = tables[families.PODS], tables[INTERFACE_DROPS]
        self._series = InterfaceSeries(*(np.zeros(0, np.int64),) * 4)
        self._series_for: tuple[Names | None, int] = (None, -1)

    def settle(
        self, delta: AccountReading, sums: NDArray[np.int64], names: Names, now_ns: int
    ) -> None:
        """Book an epoch: growth of the kernel's accounts, ``sums`` of flows as in RowBooking."""
        totals, interfaces = self._epoch_totals(delta, sums), self._interfaces
        interfaces.booked += totals.bytes.sum(axis=2)
        # Flows of the host's own interfaces belong to the endpoints that share it; what is no
        # flow belongs to the host.
        own = interfaces.host[:, None, None]
        interfaces.pending_bytes += np.where(own, 0, totals.bytes)[:, :, FLOWS]
        interfaces.pending_bytes += totals.bytes[:, :, OTHER:].sum(axis=2)
        interfaces.pending_packets += np.where(own, 0, totals.packets)[:, :, 0]
        interfaces.pending_packets += totals.packets[:, :, 1]
        series = self.series(names, now_ns)
        booked = totals.bytes[series.live].reshape(-1, len(ACCOUNTS))
        self._books.add(series.books, booked, now_ns)
        self._settle_pods(series, now_ns)

    def close(
        self,
        ifindex: NDArray[np.int64],
        counters: NDArray[np.int64],
        now_ns: int,
        losses: Losses | None,
    ) -> None:
        """Check the books of interfaces (n,) against readings of their counters (n, 2), from
        and to the endpoint, taken after ``settle``.
        """
        interfaces = self._interfaces
        known = np.array([interfaces.known(i) for i in ifindex.tolist()], np.bool_)
        slots = interfaces.slots(ifindex[known])
        if losses is not None:
            losses = Losses(*(each[known] for each in losses))
        found = interfaces.close(slots, counters[known], losses)
        series = self._series
        if interfaces.fresh_drops.any():
            self._book_drops(self._dropped, slots, interfaces.fresh_drops, now_ns)
        if any(each.any() for each in found):
            tags = np.zeros((len(interfaces), 2, len(ACCOUNTS)), np.int64)
            tags[slots, :, OTHER] = found.tags
            self._interfaces.rest.add_other(slots, found.tags)
            self._books.add(series.books, tags[series.live].reshape(-1, len(ACCOUNTS)), now_ns)
            self._book_drops(self._drops, slots, np.stack(found[1:], axis=2), now_ns)
            # What was dropped on its way to a pod did not arrive; what a host's uplink dropped
            # is in no pod's total.
            not_arrived = np.where(interfaces.host[slots, None], 0, found.after_hook)
            interfaces.pending_bytes[slots] += found.tags - not_arrived
        self._settle_pods(series, now_ns)

    def series(self, names: Names, now_ns: int) -> InterfaceSeries:
        """Return the series of each live interface; they change with names only."""
        interfaces = self._interfaces
        if self._series_for[0] is not names or self._series_for[1] != interfaces.version:
            live = interfaces.live()
            pods, books, named = [], [], []
            for slot in live.tolist():
                endpoint = names.endpoint(int(interfaces.ifindex[slot]))
                interface = interfaces.names[slot]
                for each in DIRECTIONS:
                    books.append(self._books.index_of(BookLabels(interface, each), now_ns))
                if endpoint.final:
                    named.append(slot)
                    labels = [PodLabels(endpoint.namespace, endpoint.name, d) for d in DIRECTIONS]
                    pods += [self._pods.index_of(each, now_ns) for each in labels]
            lists = (books, named, pods)
            self._series = InterfaceSeries(live, *(np.array(each, np.int64) for each in lists))
            self._series_for = (names, interfaces.version)
        return self._series

    def expire(self, before_ns: int, names: Names, now_ns: int) -> None:
        """Remove series of interfaces and pods that are gone and silent since ``before_ns``."""
        series = self.series(names, now_ns)
        self._pods.expire(before_ns, np.union1d(series.pods, self._accounts.pods_in_use()))
        self._books.expire(before_ns, series.books)
        for table in (self._drops, self._dropped):
            dropped = (table.find(labels) for labels in self._live_labels(series))
            table.expire(before_ns, np.array([i for i in dropped if i is not None], np.int64))

    def _epoch_totals(self, delta: AccountReading, sums: NDArray[np.int64]) -> EpochTotals:
        interfaces = self._interfaces
        moved = delta.bytes.any(axis=1) | delta.packets.any(axis=1) | (delta.tagged > 0)
        slots = interfaces.slots(delta.ifindex[moved])
        if moved.any() and interfaces.known(0):
            interfaces.renamed(0, UNATTRIBUTED_NAME)
        totals = EpochTotals(
            np.zeros((len(interfaces), 2, 3), np.int64),
            np.zeros((len(interfaces), 2, 2), np.int64),
        )
        direction, rest = delta.direction[moved], totals.packets[:, :, 1]
        np.add.at(totals.bytes[:, :, OTHER:], (slots, direction), delta.bytes[moved])
        np.add.at(rest, (slots, direction), delta.packets[moved].sum(axis=1))
        self._interfaces.rest.add(slots, direction, delta.bytes[moved], delta.packets[moved])
        flowed = np.flatnonzero(sums.any(axis=0))
        slot, of_flows = self._accounts.slot[flowed], sums[:, flowed].T
        # What was flooded to an endpoint is no flow of its own.
        flooded = self._accounts.flooded[flowed]
        for account, part, chosen in ((FLOWS, 0, ~flooded), (OTHER, 1, flooded)):
            np.add.at(totals.bytes[:, :, account], slot[chosen], of_flows[chosen, :2])
            np.add.at(totals.packets[:, :, part], slot[chosen], of_flows[chosen, 2:])
        np.add.at(interfaces.tags, (slots, direction), VLAN_TAG * delta.tagged[moved])
        return totals

    def _settle_pods(self, series: InterfaceSeries, now_ns: int) -> None:
        """Move what is pending into the totals of pods with a name.

        It is negative where bytes in a total turn out to have been dropped; later traffic
        makes up for them.
        """
        interfaces, named = self._interfaces, series.named
        pending_bytes = np.maximum(interfaces.pending_bytes[named], 0)
        pending = np.stack([pending_bytes, interfaces.pending_packets[named]], axis=2)
        self._pods.add(series.pods, pending.reshape(-1, 2), now_ns)
        interfaces.pending_bytes[named] -= pending_bytes
        interfaces.pending_packets[named] = 0

    def _book_drops(
        self,
        table: SeriesTable[BookLabels],
        slots: NDArray[np.int64],
        drops: NDArray[np.int64],
        now_ns: int,
    ) -> None:
        """Book what one side alone counted, (n, 2, kinds); few interfaces have any."""
        which, direction = np.nonzero(drops.any(axis=2))
        names = (self._interfaces.names[slot] for slot in slots[which].tolist())
        labels = (BookLabels(n, DIRECTIONS[d]) for n, d in zip(names, direction, strict=True))
        index = np.array([table.index_of(each, now_ns) for each in labels], np.int64)
        table.add(index, drops[which, direction], now_ns)

    def _live_labels(self, series: InterfaceSeries) -> Iterable[BookLabels]:
        names = (self._interfaces.names[slot] for slot in series.live.tolist())
        return (BookLabels(name, each) for name in names for each in DIRECTIONS)
