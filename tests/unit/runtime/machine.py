# SPDX-License-Identifier: Apache-2.0
"""A host in miniature: agents that die at any step, and are started again.

The table, the ledger, the checkpoint and the protocol are the real ones, over plain
arrays.
"""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podtally.kernel.table import Table
from podtally.ledger.checkpoint.checkpoint import Checkpoint, Position
from podtally.ledger.connections.connections import INITIATOR_MASK, INITIATOR_UNKNOWN
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.metrics.families import BOOKS, FLOWS, PODS
from podtally.ledger.metrics.view import View
from podtally.ledger.series.label_sets import DIRECTIONS, BookLabels, PodLabels
from podtally.ledger.series.series import SeriesView
from podtally.runtime.epoch_inputs import EpochInputs, InterfaceCounters
from podtally.runtime.extras import Extras
from podtally.runtime.journal import EpochResult, HalfAtRest, Journal
from tests.unit.rows import SECOND, SHOP, gaps, make_ledger, names
from tests.unit.runtime.model import INTERFACES, OPENING, Kernel, Model, Packet

BOOT = "boot"


class Crash(Exception):  # noqa: N818 - it is no error
    """The agent is killed."""


class Steps:
    """Where the agent dies, how often the disk is full, and what is sent meanwhile."""

    def __init__(self) -> None:
        self.full_for = 0
        self.meanwhile: Callable[[], None] = lambda: None
        self._crash_at = ""
        self._passes = 0

    def crash_at(self, step: str, passes: int = 0) -> None:
        """Die at a step, when it has been passed ``n`` times."""
        self._crash_at, self._passes = step, passes

    def is_due(self, step: str) -> bool:
        if step != self._crash_at:
            return False
        self._passes -= 1
        return self._passes < 0

    def crash(self, step: str) -> None:
        self._crash_at = ""
        raise Crash(step)

    def reach(self, step: str) -> None:
        if self.is_due(step):
            self.crash(step)
        self.meanwhile()


class CrashingTable(Table):
    steps: Steps

    def flip(self) -> None:
        self.steps.reach("before flip")
        super().flip()
        self.steps.reach("after flip")

    def fence(self) -> None:
        super().fence()
        self.steps.reach("after fence")

    def clear(self, half: int) -> None:
        self.steps.reach("before clear")
        listed = self._used[half * self.slots :][: self.used(half)].astype(np.int64)
        for step, some in (("amid clear", listed[::2]), ("before the count", listed)):
            if self.steps.is_due(step):
                self._words[some] = 0
                self.steps.crash(step)
        super().clear(half)
        self.steps.reach("after clear")


class CrashingCheckpoint(Checkpoint):
    steps: Steps

    def _replace(self, head: bytes, arrays: dict[str, NDArray[np.generic]]) -> int:
        self.steps.reach("before write")
        if self.steps.full_for:
            self.steps.full_for -= 1
            self._temporary.write_bytes(b"podt")
            raise OSError(errno.ENOSPC, "No space left on device", str(self._temporary))
        for step, share in (("amid write", 0.5), ("before rename", 1.0)):
            if self.steps.is_due(step):
                self._leave_temporary(share, head, arrays)
                self.steps.crash(step)
        size = super()._replace(head, arrays)
        self.steps.reach("after rename")
        return size

    def _leave_temporary(
        self, share: float, head: bytes, arrays: dict[str, NDArray[np.generic]]
    ) -> None:
        path, self.path = self.path, self.path.with_name("whole")
        super()._replace(head, arrays)
        whole = self.path.read_bytes()
        self.path, temporary = path, self._temporary
        temporary.write_bytes(whole[: int(len(whole) * share)])


class CrashingJournal(Journal):
    steps: Steps

    def book(self, at_rest: HalfAtRest, inputs: EpochInputs) -> EpochResult:
        booked = super().book(at_rest, inputs)
        self.steps.reach("after booking")
        return booked


STEPS = (
    "before flip",
    "after flip",
    "after fence",
    "after booking",
    "before write",
    "amid write",
    "before rename",
    "after rename",
    "before clear",
    "amid clear",
    "before the count",
    "after clear",
)


def _order(kernel: Kernel, epoch: int) -> int:
    """The place of an epoch among those of all generations."""
    return kernel.number * 1_000_000 + epoch


class Machine:
    """A host with one agent on it, started, killed and started again."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.model = Model()
        self.steps = Steps()
        self.kernel = Kernel(1)
        self.replaced: Kernel | None = None  # the generation that is to be drained
        self._now_ns = SECOND
        self._late: list[tuple[Kernel, int, Packet]] = []
        self._shown: dict[tuple[str, ...], tuple[int, ...]] = {}
        self.start()

    # -- the kernel ----------------------------------------------------------------

    def send(self, packet: Packet) -> None:
        self._count(self.kernel, self.kernel.epoch, packet)

    def send_late(self, packet: Packet) -> None:
        """A program has read which half is active, and writes to it after the flip."""
        self._late.append((self.kernel, self.kernel.epoch, packet))

    def send_other(self, ifindex: int, direction: int, count: int) -> None:
        self.kernel.book(ifindex, direction, (count, 0, 1, 0))
        self.model.account[ifindex, direction, "other"] += count
        self.model.packets[ifindex, direction] += 1

    def _count(self, kernel: Kernel, epoch: int, packet: Packet) -> None:
        in_row = kernel.count(packet, epoch)
        self.model.sent(packet, _order(kernel, epoch), in_row)

    def _fence(self, kernel: Kernel) -> None:
        late, self._late = self._late, []
        for each in late:
            self._count(*each)
        self.model.seal(_order(kernel, kernel.epoch))

    # -- the agent -----------------------------------------------------------------

    def start(self) -> None:
        """A fresh process: nothing but the maps and the checkpoint is left of the one before."""
        self.checkpoint = CrashingCheckpoint(self.state_dir)
        self.checkpoint.steps = self.steps
        self.ledger = make_ledger()
        self.names = names()
        read = self.checkpoint.read()
        before = None
        if read is not None:
            before, contents = read
            self.ledger.load(contents, self._now_ns)
            if before.generation == self.kernel.generation:  # as install._settled does
                self.replaced = None
        for ifindex, name in INTERFACES.items():
            counter = self.model.counter(ifindex)
            self.ledger.interfaces.appeared(ifindex, name, counter)
            self.ledger.interfaces.attached(ifindex, False, counter)
        self.journal = self._journal_of(self.kernel)
        if self.replaced is None:
            at_rest = self.journal.recover(before, self._here(self.kernel))
            if at_rest is not None:
                self._book(self.journal, at_rest, self.kernel)
        else:
            self._change_over(self.replaced, before)
        self._publish()

    def upgrade(self) -> None:
        """Other programs count from now on; the next start drains what the old ones counted."""
        if self.replaced is None:
            self.replaced, self.kernel = self.kernel, Kernel(self.kernel.number + 1)

    def _change_over(self, old: Kernel, before: Position | None) -> None:
        """Take the steps of ``recovery.Recovery.drain``."""
        journal = self._journal_of(old)
        at_rest = journal.recover(before, self._here(old))
        if at_rest is not None:
            journal.book(at_rest, self.collect_names())
            journal.commit(self._here(old), Extras())
        journal.book(journal.flip(), self.collect_names())
        self.ledger.counter_deltas.forget()
        self.checkpoint.write(self._here(self.kernel), self.ledger.save() | Extras().save())
        self.steps.reach("before promote")
        self.replaced = None

    def turn(self) -> EpochResult:
        """Run an epoch, or commit the one before if it could not be written."""
        if self.journal.is_blocked:
            result = self.journal.commit(self._here(self.kernel), Extras())
        else:
            result = self._book(self.journal, self.journal.flip(), self.kernel)
        self._publish()
        return result

    def _book(self, journal: Journal, at_rest: HalfAtRest, kernel: Kernel) -> EpochResult:
        journal.book(at_rest, self.collect())
        return journal.commit(self._here(kernel), Extras())

    def collect(self) -> EpochInputs:
        self._now_ns += SECOND // 10
        listed = list(INTERFACES)
        counters = np.array([self.model.counter(i) for i in listed], np.int64)
        self.steps.meanwhile()
        context = EpochContext(self.names, self._now_ns)
        return EpochInputs(context, InterfaceCounters(np.array(listed), counters))

    def collect_names(self) -> EpochInputs:
        return EpochInputs(self.collect().context)

    def _journal_of(self, kernel: Kernel) -> CrashingJournal:
        table = CrashingTable(kernel.layout, kernel.arrays, lambda: self._fence(kernel))
        journal = CrashingJournal(table, kernel, self.ledger, self.checkpoint)
        table.steps = journal.steps = self.steps
        return journal

    def _here(self, kernel: Kernel) -> Position:
        return Position(BOOT, kernel.generation, kernel.epoch)

    def _publish(self) -> None:
        """What a scrape sees: no series of it may ever go down, and there is never a gap."""
        view = self.ledger.view()
        assert not any(gap for _, gap in gaps(view)), gaps(view)
        shown = series(view)
        for labels, values in self._shown.items():
            now = shown[labels]
            assert all(a >= b for a, b in zip(now, values, strict=True)), (labels, values, now)
        self._shown = shown

    def forget(self) -> None:
        """The checkpoint is lost: the sums restart from zero."""
        self._shown = {}

    # -- the reckoning ---------------------------------------------------------------

    def check(self) -> None:
        """After a turn without traffic, everything that was sent is shown, once."""
        view = self.ledger.view()
        model = self.model
        assert shown(view[FLOWS]) == model.flows()
        assert shown(view[BOOKS]) == {
            BookLabels(name, DIRECTIONS[direction]): tuple(
                model.account[ifindex, direction, account]
                for account in ("flows", "other", "overflow")
            )
            for ifindex, name in INTERFACES.items()
            for direction in (0, 1)
        }
        assert shown(view[PODS]) == {
            PodLabels(SHOP[ifindex].namespace, SHOP[ifindex].name, DIRECTIONS[direction]): (
                model.counter(ifindex)[direction] - OPENING[ifindex][direction],
                model.packets[ifindex, direction],
            )
            for ifindex in INTERFACES
            for direction in (0, 1)
        }
        assert [gap for _, gap in gaps(view)] == [0] * 2 * len(INTERFACES)
        assert view.connections == len(model.initiator)
        assert view.unknown_initiators == len(
            [
                initiator
                for initiator in model.first_initiator.values()
                if initiator & INITIATOR_MASK == INITIATOR_UNKNOWN
            ]
        )


def shown(view: SeriesView[Any]) -> dict[Any, tuple[int, ...]]:
    return {
        labels: tuple(row) for labels, row in zip(view.labels, view.values.tolist(), strict=True)
    }


def series(view: View) -> dict[tuple[str, ...], tuple[int, ...]]:
    return {**shown(view[PODS]), **shown(view[FLOWS]), **shown(view[BOOKS])}
