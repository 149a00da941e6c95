# SPDX-License-Identifier: Apache-2.0
"""The exactly-once protocol: every epoch is booked once, whenever the agent is killed.

The kernel's table is the journal. An epoch takes these steps:

  1. ``flip`` the halves, wait until no program writes to the old one, and read the kernel's
     accounts;
  2. collect ``EpochInputs``, among them the interfaces' counters: read after the accounts,
     since what is booked must be in the counters too;
  3. ``book`` the old half, which is at rest;
  4. ``commit``: write the checkpoint, which says "all epochs before this one are booked",
     then clear the old half.

Killed before the checkpoint is written, the agent finds the rows and a checkpoint that is one
epoch behind: the next start books them. Killed after it, the checkpoint names the active
epoch: the other half was booked, and the next start clears it.
"""

from typing import NamedTuple, Protocol

from podtally.kernel.account_map import AccountReading
from podtally.kernel.table import Table
from podtally.ledger.checkpoint.checkpoint import Checkpoint, Parts, Position
from podtally.ledger.closed import ClosedConnections
from podtally.ledger.ledger import Ledger
from podtally.runtime.epoch_inputs import EpochInputs


class AccountReader(Protocol):
    """The kernel's accounts beside the table; ``kernel.account_map.AccountMap``."""

    def read(self) -> AccountReading: ...


class SavesParts(Protocol):
    """What the checkpoint keeps beside the ledger."""

    def save(self) -> Parts: ...


class UnwritableError(Exception):
    """The checkpoint cannot be written; the text is the kernel's reason."""


class HalfAtRest(NamedTuple):
    """The half that no program writes to any more, and the accounts as read after its fence."""

    half: int
    accounts: AccountReading


class EpochResult(NamedTuple):
    flows: int
    closed: list[ClosedConnections]
    checkpoint_bytes: int = 0


class Journal:
    """One generation's table and accounts, the ledger they are booked in, and its checkpoint."""

    def __init__(
        self, table: Table, accounts: AccountReader, ledger: Ledger, checkpoint: Checkpoint
    ) -> None:
        self.table = table
        self.ledger = ledger
        self._accounts = accounts
        self._checkpoint = checkpoint
        self._uncommitted: EpochResult | None = None

    @property
    def is_blocked(self) -> bool:
        """Return whether an epoch is booked and not committed: ``commit`` comes before ``flip``."""
        return self._uncommitted is not None

    def recover(self, before: Position | None, here: Position) -> HalfAtRest | None:
        """Return the half to book after a start, None if the checkpoint has it.

        ``before`` is the position of the checkpoint that the ledger was restored from, None
        without one. ``here.epoch`` is not used.
        """
        epoch = self.table.epoch
        if before is None or before.generation != here.generation:
            self.ledger.counter_deltas.forget()  # they are of another generation's accounts
        self.table.fence()  # the previous agent may have died between its flip and its fence
        if before is not None and before == Position(here.boot_id, here.generation, epoch):
            self.table.clear(_half_before(epoch))
            return None
        return self._at_rest()

    def flip(self) -> HalfAtRest:
        """End the epoch: the kernel keeps counting in the other half."""
        self.table.flip()
        self.table.fence()
        return self._at_rest()

    def book(self, at_rest: HalfAtRest, inputs: EpochInputs) -> EpochResult:
        """Book a half; after an error only a new start is safe: the ledger may hold part of it."""
        ledger, context = self.ledger, inputs.context
        ledger.rename(inputs.renamed)
        flows = self.table.used(at_rest.half)
        for rows in self.table.read(at_rest.half):
            ledger.book_rows(rows, self.table.cold, context)
        if inputs.observed is not None:
            ledger.book_dns(inputs.observed, context)
        ledger.book_retransmits(self.table.retransmits(at_rest.half), context.now_ns)
        ledger.book_kernel_accounts(at_rest.accounts)
        closed = ledger.settle(context, inputs.gone)
        counters = inputs.counters
        ledger.close_books(counters.ifindex, counters.bytes, context.now_ns, counters.losses)
        for ifindex in inputs.gone:
            ledger.let_go(ifindex)
        self._uncommitted = EpochResult(flows, closed)
        return self._uncommitted

    def commit(self, here: Position, extras: SavesParts) -> EpochResult:
        """Write the checkpoint and clear the booked half; ``here.epoch`` is not used.

        UnwritableError if the checkpoint cannot be written. Nothing is lost then: the rows stay
        where they are, the kernel keeps counting in the other half, and ``commit`` can be
        called again.
        """
        assert self._uncommitted is not None
        epoch = self.table.epoch
        try:
            size = self._checkpoint.write(
                Position(here.boot_id, here.generation, epoch),
                {**self.ledger.save(), **extras.save()},
            )
        except OSError as error:
            raise UnwritableError(error.strerror or str(error)) from error
        result, self._uncommitted = self._uncommitted, None
        self.table.clear(_half_before(epoch))
        return result._replace(checkpoint_bytes=size)

    def _at_rest(self) -> HalfAtRest:
        return HalfAtRest(_half_before(self.table.epoch), self._accounts.read())


def _half_before(epoch: int) -> int:
    return (epoch & 1) ^ 1
