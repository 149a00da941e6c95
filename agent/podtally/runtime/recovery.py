# SPDX-License-Identifier: Apache-2.0
"""Books what the kernel counted before this start."""

import logging
from contextlib import closing
from dataclasses import dataclass

from podtally.export.agent_metrics import AgentMetrics
from podtally.kernel.account_map import AccountMap
from podtally.kernel.pins import Generation
from podtally.kernel.table import open_table
from podtally.ledger.checkpoint.checkpoint import Checkpoint, Position
from podtally.ledger.closed import ClosedConnections
from podtally.ledger.ledger import Ledger
from podtally.runtime.extras import SavedBeside
from podtally.runtime.inputs_collector import InputsCollector
from podtally.runtime.journal import EpochResult, Journal
from podtally.runtime.last_checkpoint import position_at

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recovery:
    """Of one start, before its first epoch."""

    ledger: Ledger
    collector: InputsCollector
    metrics: AgentMetrics
    checkpoint: Checkpoint

    def book_past(
        self, journal: Journal, before: Position | None, here: Position
    ) -> list[ClosedConnections]:
        """Book the half that an earlier agent left, if its checkpoint does not have it."""
        at_rest = journal.recover(before, here)
        if at_rest is None:
            return []
        journal.book(at_rest, self.collector.collect(journal.table, {}))
        booked = self._commit(journal, here)
        if booked.flows:
            log.info("booked %d flows that the kernel held from before", booked.flows)
        return booked.closed

    def drain(
        self, old: Generation, before: Position | None, here: Position
    ) -> list[ClosedConnections]:
        """Book all that another generation counted, and write that ours follows.

        No program may write to it any more. The interfaces' counters are left out: they
        include what the next generation's table holds.
        """
        log.info("the kernel programs have changed: booking what the old ones counted")
        with closing(open_table(old)) as table, closing(AccountMap(old)) as accounts:
            journal = Journal(table, accounts, self.ledger, self.checkpoint)
            at_rest, closed = journal.recover(before, position_at(old, 0)), []
            if at_rest is not None:
                journal.book(at_rest, self.collector.collect_names(table))
                closed = self._commit(journal, position_at(old, 0)).closed
            at_rest = journal.flip()
            closed += journal.book(at_rest, self.collector.collect_names(table)).closed
        self.ledger.counter_deltas.forget()
        self.checkpoint.write(here, {**self.ledger.save(), **self._extras().save()})
        self.collector.committed()
        return closed

    def _commit(self, journal: Journal, here: Position) -> EpochResult:
        result = journal.commit(here, self._extras())
        self.collector.committed()
        return result

    def _extras(self) -> SavedBeside:
        return self.collector.extras(self.metrics.dump())
