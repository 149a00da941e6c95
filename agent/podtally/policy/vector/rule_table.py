# SPDX-License-Identifier: Apache-2.0
"""The rules of many policies for one direction as arrays."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from podtally.policy.model import DENY, NETWORK_TIER
from podtally.policy.vector.addresses import Addresses, BlockRanges, RangeTable
from podtally.policy.vector.cache import Keys, unpack_keys
from podtally.policy.vector.classes import EndpointClasses
from podtally.policy.vector.endpoints import ConnectionBatch, EndpointTable, batch_of
from podtally.policy.vector.ports import PortTable
from podtally.policy.vector.ragged import Indices, ragged_lists
from podtally.policy.vector.rules import CompiledPolicy, CompiledRule, RuleIndex
from podtally.policy.vector.selectors import MAYBE, NO, YES, Matches, max_of_lists

_ROWS = 1 << 13  # in one batch, which bounds memory


_NONE = -1  # instead of the number of ports, or of ranges


class RuleTable:
    """Entries are rules, by policy, in the order in which they stand there.

    A policy that cannot be read is an entry as well: one that may always match.
    """

    def __init__(
        self, policies: Sequence[CompiledPolicy], is_egress: bool, classes: EndpointClasses
    ) -> None:
        rules = [_entries(one, is_egress) for one in policies]
        self.of_policy = ragged_lists([len(each) for each in rules])
        self.entries = [entry for each in rules for entry in each]
        self.policy = np.repeat(np.arange(len(policies)), self.of_policy.counts)
        self._classes = classes
        self._sparse: dict[bytes, RuleIndex] = {}
        ranges: list[BlockRanges] = []
        numbers, slots, lists = [], [], []
        self._ports = PortTable(classes)
        ports = []
        for entry in self.entries:
            listed = None if entry is None else entry.rule.ports
            ports.append(_NONE if listed is None else self._ports.number(listed))
            numbers.append(_NONE if entry is None or entry.ranges is None else len(ranges))
            if entry is not None and entry.ranges is not None:
                ranges.append(entry.ranges)
            slots.append(() if entry is None else entry.slots)
            lists.append([classes.names.number(p) for p in entry.domains] if entry else [])
        self._ports.close()
        self._ports_of, self._ranges_of = np.array(ports, np.int64), np.array(numbers, np.int64)
        self._ranges = RangeTable(ranges)
        self._slots_of = ragged_lists([len(each) for each in slots])
        self._slots = np.array([slot for each in slots for slot in each], np.int64)
        self._lists_of = ragged_lists([len(each) for each in lists])
        self._lists = np.array([number for each in lists for number in each], np.int64)
        self.denies = np.array([_denies(entry) for entry in self.entries], np.bool_)
        # The match of a rule for all peers.
        self._least = np.array([_least(entry) for entry in self.entries], np.uint8)

    def sparse(self, codes: Indices) -> RuleIndex:
        """Return an index of a long list's rules; ``codes``: entry * 2 + certain."""
        key = codes.tobytes()
        if key not in self._sparse:
            rules = [self.entries[entry] for entry in (codes >> 1).tolist()]
            self._sparse[key] = RuleIndex(rules, self._classes)
        return self._sparse[key]

    def bounds(self) -> NDArray[np.int64]:
        """Return the ports at which the match of a rule changes, ascending."""
        return self._ports.bounds()

    def matches(self, entries: Indices, batch: ConnectionBatch, rows: Indices) -> Matches:
        """Return the match of each entry with the connection in its row of the batch. (n,)"""
        found = np.full(len(entries), YES, np.uint8)
        numbers = self._ports_of[entries]
        some = np.flatnonzero(numbers != _NONE)
        found[some] = self._ports.matches(numbers[some], batch, rows[some])
        some = np.flatnonzero(found != NO)
        entries, rows = entries[some], rows[some]
        found[some] = np.minimum(found[some], self._peers(entries, batch, rows))
        return found

    def failing(self, entries: Indices, batch: ConnectionBatch) -> NDArray[np.int64]:
        """Return how many halves of each entry (peers, ports) do not match a connection. (n,)"""
        rows = np.zeros(len(entries), np.int64)
        found: Indices = (self._peers(entries, batch, rows) == NO).astype(np.int64)
        numbers = self._ports_of[entries]
        some = np.flatnonzero(numbers != _NONE)
        found[some] += self._ports.matches(numbers[some], batch, rows[some]) == NO
        return found

    def _peers(self, entries: Indices, batch: ConnectionBatch, rows: Indices) -> Matches:
        owner, place = self._slots_of.of(entries).members()
        columns = batch.peer[rows[owner]].astype(np.int64)
        of_slots = self._classes.table.at(self._slots[place], columns)
        found = max_of_lists(owner, of_slots, len(entries))
        np.maximum(found, self._least[entries], out=found)
        if len(self._lists):
            owner, place = self._lists_of.of(entries).members()
            names = batch.names[rows[owner]].astype(np.int64)
            of_lists = self._classes.names.at(names, self._lists[place])
            np.maximum(found, max_of_lists(owner, of_lists, len(entries)), out=found)
        numbers = self._ranges_of[entries]
        some = np.flatnonzero((numbers != _NONE) & (found != YES))
        held = self._blocks(numbers[some], batch, rows[some])
        found[some] = np.maximum(found[some], held)
        return found

    def _blocks(self, numbers: Indices, batch: ConnectionBatch, rows: Indices) -> Matches:
        addresses = Addresses(batch.high[rows], batch.low[rows])
        held = self._ranges.hold(numbers, addresses) * np.uint8(YES)
        known: NDArray[np.bool_] = (addresses.high | addresses.low) != 0
        return np.where(known, held, np.uint8(MAYBE))


def _entries(one: CompiledPolicy, is_egress: bool) -> Sequence[CompiledRule | None]:
    return (None,) if one.policy.unreadable else one.rules(is_egress) or ()


def _least(entry: CompiledRule | None) -> int:
    if entry is None:
        return MAYBE
    return YES if entry.everyone else NO


def _denies(entry: CompiledRule | None) -> bool:
    return entry is not None and entry.rule.action == DENY


def affected_by(
    one: CompiledPolicy, words: Keys, endpoints: EndpointTable, classes: EndpointClasses
) -> NDArray[np.bool_]:
    """Return connections that may get another verdict without the policy. (n,)

    A policy of an admin tier without a matching rule says nothing; a NetworkPolicy
    isolates even so.
    """
    each = unpack_keys(words)
    matches = classes.table.of_row(one.subject)
    found: NDArray[np.bool_] = matches[endpoints.class_of[each.local]] != NO
    if one.policy.tier == NETWORK_TIER or one.policy.unreadable:
        return found
    for is_egress in (False, True):
        table = RuleTable([one], is_egress, classes)
        rows = np.flatnonzero(found & (each.is_egress == is_egress))
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            found[part] = _some_match(table, batch_of(words[part], is_egress, endpoints))
    return found


def _some_match(table: RuleTable, batch: ConnectionBatch) -> NDArray[np.bool_]:
    count = len(table.entries)
    if not count:
        return np.zeros(len(batch.port), np.bool_)
    rows: Indices = np.repeat(np.arange(len(batch.port)), count)
    entries: Indices = np.tile(np.arange(count), len(batch.port))
    met: NDArray[np.bool_] = (
        table.matches(entries, batch, rows).reshape(-1, count).max(axis=1) != NO
    )
    return met
