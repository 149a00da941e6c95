# SPDX-License-Identifier: Apache-2.0
"""Keeps the books of each interface: bytes booked, counter readings, and the gap."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.arrays.distinct import distinct
from podtally.ledger.checkpoint.saved import Saved, encode
from podtally.ledger.interfaces.balance import Balance, Losses, Margin, Readings, settle
from podtally.ledger.interfaces.interface_rest import InterfaceRest

NO_PAIRS = np.zeros((0, 2), np.int64)
UNBOUNDED = np.iinfo(np.int64).max >> 2  # an upper bound out of reach, and sums of it fit
_LINK_CHATTER = 4096  # bytes; up to this, only the link's own frames have passed
_FLAGS = ("watched", "host", "leaving")
_MARGIN = ("tags", "before_hook", "after_hook", "headers")  # as in Margin
_READ = ("dropped_before", "dropped_after", "frames")  # as they were last read
_OLDER = ("booked", "low", "high", "counter", "tags", "pending_bytes", "pending_packets")
_KEPT = (*_OLDER, *_MARGIN[1:], *_READ)  # those of older checkpoints come first
_ETHERNET_HEADER = 14  # bytes
_MAX_FRAMES = 1 << 40  # of one reading: more than can pass, and its bytes fit


class InterfaceRecord(NamedTuple):
    """One interface, as the checkpoint keeps it."""

    slot: int
    ifindex: int
    name: str
    watched: bool  # announced by netlink; else known by its flows only
    host: bool = False
    leaving: bool = False
    in_use_since_ns: int = 0  # see Interfaces


class UnexplainedBytes(NamedTuple):
    """Where the last epoch's books have a gap, and what may explain it."""

    missing: list[int]  # ifindexes that counted more than was booked: XDP may be why
    surplus: bool  # more was booked than counted on one of them: a qdisc may be why


class Interfaces:
    """A slot for each interface; slots of removed interfaces are reused.

    ``booked`` counts from the interface's creation: flows, other and overflow together.
    ``counter`` is the last reading, from and to the endpoint. ``pending_*`` is booked and not
    yet in the total of a pod, which has no name yet.
    """

    def __init__(self) -> None:
        self.version = 0  # changes with the interfaces and their names
        self.rest = InterfaceRest()
        # Frames (n, 2, 2) of the last ``close``: by direction, before and after the hook
        self.fresh_drops = np.zeros((0, 2, 2), np.int64)
        self._slots: dict[int, int] = {}
        self._free: list[int] = []
        self.names: list[str] = []
        self.ifindex = np.zeros(0, np.int64)
        self.watched = np.zeros(0, np.bool_)
        self.host = np.zeros(0, np.bool_)  # the host's own: shared by several endpoints
        self.leaving = np.zeros(0, np.bool_)  # removed, with pending bytes that wait for a name
        # When it was first watched, if it had carried traffic before; else 0. CLOCK_MONOTONIC
        self.in_use_since_ns = np.zeros(0, np.int64)
        self.booked = NO_PAIRS
        self.low = NO_PAIRS
        self.high = NO_PAIRS
        self.counter = NO_PAIRS
        self.tags = NO_PAIRS  # bytes that only one side may have counted, see ``balance.Margin``
        self.before_hook = NO_PAIRS
        self.after_hook = NO_PAIRS
        self.headers = NO_PAIRS
        self.dropped_before = NO_PAIRS  # frames, up to the last reading; see ``Losses``
        self.dropped_after = NO_PAIRS
        self.frames = NO_PAIRS
        self.gap = NO_PAIRS
        self.pending_bytes = NO_PAIRS
        self.pending_packets = NO_PAIRS

    def __len__(self) -> int:
        return len(self.names)

    def slot(self, ifindex: int) -> int:
        """The slot of an interface, which is made if it is new."""
        slot = self._slots.get(ifindex)
        if slot is None:
            slot = self._free.pop() if self._free else self._grow()
            self._slots[ifindex] = slot
            self.ifindex[slot] = ifindex
            self.names[slot] = _nameless(ifindex)
            self.high[slot] = UNBOUNDED
            self.version += 1
        return slot

    def name(self, ifindex: int) -> str:
        slot = self._slots.get(ifindex)
        return _nameless(ifindex) if slot is None else self.names[slot]

    def slots(self, ifindex: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the slots of many rows; the loop is over the different interfaces. (n,)"""
        different, place = distinct(ifindex)
        found = np.array([self.slot(i) for i in different.tolist()], np.int64)
        return found[place]

    def live(self) -> NDArray[np.int64]:
        return np.array(sorted(self._slots.values()), np.int64)

    def orphans(self) -> list[int]:
        """Return interfaces with flows that are not watched: removed while no agent ran."""
        absent = ~(self.watched | self.leaving)
        return [i for i, slot in self._slots.items() if absent[slot]]

    def leaving_ifindexes(self) -> list[int]:
        return [i for i, slot in self._slots.items() if self.leaving[slot]]

    def watched_ifindexes(self) -> list[int]:
        return [i for i, slot in self._slots.items() if self.watched[slot]]

    def known(self, ifindex: int) -> bool:
        return ifindex in self._slots

    def in_use_since(self, ifindex: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return when interfaces with earlier traffic were first watched; 0 for others. (n,)"""
        slots = self.slots(ifindex)
        since_ns: NDArray[np.int64] = self.in_use_since_ns[slots]
        return since_ns

    def late_ifindexes(self) -> frozenset[int]:
        """Return the interfaces that were in use before they were watched."""
        return frozenset(self.ifindex[self.in_use_since_ns != 0].tolist())

    def unexplained(self) -> UnexplainedBytes:
        missing = self.ifindex[(self.gap > 0).any(axis=1)]
        return UnexplainedBytes(missing.tolist(), bool((self.gap < 0).any()))

    def appeared(
        self,
        ifindex: int,
        name: str,
        counter: tuple[int, int],
        host: bool = False,
        at_ns: int = 0,
    ) -> None:
        """Open the books of an interface that is about to be watched. The opening balance is at
        least the oldest reading of its counter. ``host``: the host's own.
        """
        slot = self.slot(ifindex)
        fresh = not self.watched[slot] and not self.booked[slot].any()
        self.renamed(ifindex, name)
        self.watched[slot], self.host[slot] = True, host
        self.leaving[slot] = False
        if fresh:
            self.low[slot] = self.counter[slot] = counter
            self.in_use_since_ns[slot] = at_ns if sum(counter) > _LINK_CHATTER else 0

    def attached(self, ifindex: int, fresh: bool, counter: tuple[int, int]) -> None:
        """Note that packets are counted from now on; ``fresh``: they were not before."""
        if ifindex not in self._slots:
            return
        slot = self._slots[ifindex]
        now = np.array(counter, np.int64)
        if fresh and (now < self.counter[slot]).any():
            self.restarted(ifindex)
        unbounded = self.high[slot] >= UNBOUNDED
        if unbounded.all() and not fresh:
            # Counted by an agent that lost its checkpoint: what the kernel holds passed before
            # the first reading, so the opening balance may be anything below it.
            self.low[slot] = self.counter[slot] = 0
        # Attached again after a gap: what passed meanwhile is at most the counter's growth
        # since the last reading.
        missed = now - self.counter[slot] if fresh else 0
        at_most = now - self.booked[slot]
        self.high[slot] = np.where(unbounded, at_most, self.high[slot] + missed)

    def renamed(self, ifindex: int, name: str) -> None:
        if ifindex in self._slots:
            self.names[self._slots[ifindex]] = name
            self.version += 1

    def restarted(self, ifindex: int) -> None:
        """Start from zero: another interface has the ifindex now."""
        slot = self._slots[ifindex]
        self.low[slot], self.high[slot] = -UNBOUNDED, UNBOUNDED
        self.counter[slot] = self.gap[slot] = self.in_use_since_ns[slot] = 0
        for name in (*_MARGIN, *_READ):
            getattr(self, name)[slot] = 0

    def close(
        self, slots: NDArray[np.int64], later: NDArray[np.int64], losses: Losses | None = None
    ) -> Margin:
        """Check the books of ``slots`` (n,) against new readings ``later`` (n, 2).

        Return the bytes now known to be on one side only; they are booked.
        """
        fresh = self._margin_of(slots, losses)
        for name, more in zip(_MARGIN, fresh, strict=True):
            getattr(self, name)[slots] += more
        margin = Margin(*(getattr(self, name)[slots] for name in _MARGIN))
        queued = 0 if losses is None else losses.queued
        balance = Balance(self.low[slots], self.high[slots])
        readings = Readings(self.booked[slots], self.counter[slots], later + queued)
        settled = settle(balance, margin, fresh, readings)
        self.low[slots], self.high[slots] = settled.balance
        for name, left in zip(_MARGIN, settled.margin, strict=True):
            getattr(self, name)[slots] = left
        found = settled.found
        self.booked[slots] += found.tags + found.before_hook - found.after_hook - found.headers
        self.gap[slots] = settled.gap
        self.counter[slots] = later
        return found

    def _margin_of(self, slots: NDArray[np.int64], losses: Losses | None) -> Margin:
        """Return the losses since the last reading, in bytes at most; tags are added elsewhere."""
        nothing = np.zeros((len(slots), 2), np.int64)
        self.fresh_drops = np.zeros((len(slots), 2, 2), np.int64)
        if losses is None:
            return Margin(nothing, nothing, nothing, nothing)
        grown = []
        for name, now in zip(_READ, (losses.before, losses.after, losses.frames), strict=True):
            before = getattr(self, name)[slots]
            grown.append(np.minimum(np.where(now < before, now, now - before), _MAX_FRAMES))
            getattr(self, name)[slots] = now
        self.fresh_drops = np.stack(grown[:2], axis=2)
        largest = losses.largest[:, None]
        return Margin(nothing, grown[0] * largest, grown[1] * largest, grown[2] * _ETHERNET_HEADER)

    def leave(self, ifindex: int) -> None:
        """Mark as removed; the slot stays until nothing is pending."""
        slot = self._slots[ifindex]
        self.watched[slot], self.leaving[slot] = False, True
        self.gap[slot] = 0

    def has_pending(self, ifindex: int) -> bool:
        slot = self._slots[ifindex]
        return bool((self.pending_bytes[slot] > 0).any() or self.pending_packets[slot].any())

    def remove(self, ifindex: int) -> None:
        slot = self._slots.pop(ifindex)
        self._clear(slot)
        self.version += 1
        self._free.append(slot)

    def save(self) -> Saved:
        records, pairs = self.dump()
        return Saved(encode(records), {"pairs": pairs})

    def load(self, saved: Saved, now_ns: int) -> None:
        self.restore(saved.decode(list[InterfaceRecord]), saved.array("pairs"))

    def dump(self) -> tuple[list[InterfaceRecord], NDArray[np.int64]]:
        """Return records, and the pairs of each in the order of _KEPT, (n, 13, 2)."""
        slots = list(self._slots.values())
        records = [
            InterfaceRecord(
                slot,
                ifindex,
                self.names[slot],
                bool(self.watched[slot]),
                bool(self.host[slot]),
                bool(self.leaving[slot]),
                int(self.in_use_since_ns[slot]),
            )
            for ifindex, slot in self._slots.items()
        ]
        return records, np.stack([getattr(self, name)[slots] for name in _KEPT], axis=1)

    def restore(self, records: list[InterfaceRecord], pairs: NDArray[np.int64]) -> None:
        for _ in range(max((record.slot for record in records), default=-1) + 1):
            self._grow()
        for record, kept in zip(records, pairs, strict=True):
            slot = record.slot
            self._slots[record.ifindex] = slot
            self.ifindex[slot], self.names[slot] = record.ifindex, record.name
            self.watched[slot], self.host[slot] = record.watched, record.host
            self.leaving[slot] = record.leaving
            self.in_use_since_ns[slot] = record.in_use_since_ns
            for name, pair in zip(_KEPT, kept, strict=False):  # an older checkpoint has fewer
                getattr(self, name)[slot] = pair
        taken = set(self._slots.values())
        self._free = [slot for slot in range(len(self.names)) if slot not in taken]

    def _grow(self) -> int:
        self.names.append("")
        self.ifindex = np.append(self.ifindex, 0)
        self.in_use_since_ns = np.append(self.in_use_since_ns, 0)
        for name in _FLAGS:
            setattr(self, name, np.append(getattr(self, name), False))
        for name in (*_KEPT, "gap"):
            setattr(self, name, np.append(getattr(self, name), [[0, 0]], axis=0))
        return len(self.names) - 1

    def _clear(self, slot: int) -> None:
        self.names[slot] = ""
        self.ifindex[slot] = self.in_use_since_ns[slot] = 0
        for name in (*_FLAGS, *_KEPT, "gap"):
            getattr(self, name)[slot] = 0


def _nameless(ifindex: int) -> str:
    return f"ifindex {ifindex}"
