# SPDX-License-Identifier: Apache-2.0
"""The exactly-once protocol: every epoch is booked once, whatever instant the agent is killed at.

The kernel's table is the journal. A turn is

  1. flip the halves, and wait until no program writes to the old one;
  2. read the old half, which is at rest;
  3. book it;
  4. write the checkpoint, which says "all epochs before this one are booked";
  5. clear the old half.

Killed before 4, the rows are still there, and the checkpoint is an epoch behind:
they are booked at the next start. Killed after 4, the checkpoint names the active
epoch: what lies in the other half was booked, and is cleared.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from podtally.kernel.account_map import AccountReading as KernelAccounts
from podtally.kernel.table import Table
from podtally.ledger.checkpoint import Checkpoint, Extras, Position
from podtally.ledger.closed import ClosedConnections
from podtally.ledger.epoch_context import EpochContext
from podtally.ledger.interfaces import Losses
from podtally.ledger.ledger import Ledger


class AccountReader(Protocol):
    """The kernel's accounts beside the table; ``kernel.books.KernelBooks``."""

    def read(self) -> KernelAccounts: ...


class InterfaceCounters(NamedTuple):
    """Byte counters of interfaces: ``ifindex`` (n,), ``bytes`` (n, 2) from and to the endpoint."""

    ifindex: NDArray[np.int64]
    bytes: NDArray[np.int64]
    losses: Losses | None = None  # of the same interfaces


NO_COUNTERS = InterfaceCounters(np.zeros(0, np.int64), np.zeros((0, 2), np.int64))


class EpochInputs(NamedTuple):
    """What a turn must know of the world at the instant of its flip, and after."""

    present: EpochContext
    counters: InterfaceCounters
    gone: tuple[int, ...]  # interfaces that went before the flip: this is their last epoch
    extras: Extras


class UnwritableError(Exception):
    """The checkpoint cannot be written; the text is the kernel's word for why."""


class EpochResult(NamedTuple):
    flows: int
    ended: list[ClosedConnections]
    checkpoint_bytes: int


class Journal:
    """One generation's table and accounts, the ledger they are booked in, and its checkpoint."""

    def __init__(
        self, table: Table, counts: AccountReader, ledger: Ledger, checkpoint: Checkpoint
    ) -> None:
        self.table = table
        self.ledger = ledger
        self._counts = counts
        self._checkpoint = checkpoint
        self._unwritten: EpochResult | None = None

    def recover(
        self, before: Position | None, here: Position, look: Callable[[Table], EpochInputs]
    ) -> EpochResult:
        """Bring the half at rest in order after a start; ``here.epoch`` is not used.

        ``before`` is the position of the checkpoint the ledger was restored from, None
        if there was none.
        """
        epoch = self.table.epoch
        if before is None or before.generation != here.generation:
            self.ledger.counter_deltas.forget()  # those it has read were another's
        self.table.fence()  # the agent before may have died between its flip and its fence
        if before is not None and before == Position(here.boot_id, here.generation, epoch):
            self.table.clear(_half_before(epoch))
            return EpochResult(0, [], 0)
        return self._book(here, look)

    @property
    def blocked(self) -> bool:
        """A checkpoint could not be written: ``retry`` before the next ``turn``."""
        return self._unwritten is not None

    def turn(self, here: Position, look: Callable[[Table], EpochInputs]) -> EpochResult:
        """One epoch; ``look`` is called with the table when its old half is at rest.

        UnwritableError if the checkpoint cannot be written. Nothing is lost then: the rows
        stay where they are, and the kernel goes on counting in the other half. After any
        other error only a new start is safe: the ledger may hold half an epoch.
        """
        self.table.flip()
        self.table.fence()
        return self._book(here, look)

    def retry(self, here: Position, extras: Extras) -> EpochResult:
        """Try again to write what ``turn`` could not."""
        assert self._unwritten is not None
        return self._write(here, self._unwritten, extras)

    def drain(self, look: Callable[[Table], EpochInputs]) -> list[ClosedConnections]:
        """Book the rest of a table that no program writes to any more; nothing is written
        or cleared: the caller's next checkpoint names the generation that follows.
        """
        self.table.flip()
        self.table.fence()
        return self._add(look)[0].ended

    def _book(self, here: Position, look: Callable[[Table], EpochInputs]) -> EpochResult:
        return self._write(here, *self._add(look))

    def _add(self, look: Callable[[Table], EpochInputs]) -> tuple[EpochResult, Extras]:
        # The kernel's accounts are read before the interfaces' counters: what is booked
        # must be in the counters too.
        accounts = self._counts.read()
        world = look(self.table)
        ledger, half = self.ledger, _half_before(self.table.epoch)
        flows = self.table.used(half)
        for rows in self.table.read(half):
            ledger.book_rows(rows, self.table.cold, world.present)
        ledger.book_kernel_accounts(accounts)
        ended = ledger.settle(world.present, world.gone)
        counters = world.counters
        ledger.close_books(counters.ifindex, counters.bytes, world.present.now_ns, counters.losses)
        for ifindex in world.gone:
            ledger.let_go(ifindex)
        return EpochResult(flows, ended, 0), world.extras

    def _write(self, here: Position, turned: EpochResult, extras: Extras) -> EpochResult:
        epoch = self.table.epoch
        self._unwritten = turned
        position = Position(here.boot_id, here.generation, epoch)
        try:
            size = self._checkpoint.write(position, self.ledger, extras)
        except OSError as error:
            raise UnwritableError(error.strerror or str(error)) from error
        self._unwritten = None
        self.table.clear(_half_before(epoch))
        return turned._replace(checkpoint_bytes=size)


def _half_before(epoch: int) -> int:
    return (epoch & 1) ^ 1
