# SPDX-License-Identifier: Apache-2.0
"""From nothing to counting: everything an agent consists of, put together in the right order.

Attach first, so that packets are counted; then book what the kernel holds from before.
"""

import logging
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from podtally.attach.attacher import Attacher
from podtally.attach.selection import pod_interfaces
from podtally.attach.watcher import LinkWatcher
from podtally.config import STANDARD_OUTPUT, Config
from podtally.errors import PodtallyError
from podtally.export.agent_metrics import AgentMetrics
from podtally.identity.directory import Directory
from podtally.kernel import capabilities
from podtally.kernel.account_map import UNATTRIBUTED, AccountMap
from podtally.kernel.pins import Generation, PinKeeper, Pins, digest
from podtally.kernel.table import Table, open_table
from podtally.ledger.checkpoint import Checkpoint, CheckpointError, Contents, Extras, Position
from podtally.ledger.closed import ClosedConnections
from podtally.ledger.connections import flags_of
from podtally.ledger.costs import SeriesOptions, parts_a_byte
from podtally.ledger.ledger import Ledger, Limits
from podtally.policy.model import UNDECLARED
from podtally.runtime.generations import install, options_of
from podtally.runtime.identity_sources import IdentitySources, make_identity_sources
from podtally.runtime.interface_events import InterfaceEvents
from podtally.runtime.journal import NO_COUNTERS, EpochInputs, Journal, UnwritableError

log = logging.getLogger(__name__)

CONNECTIONS_PER_FLOW = 2  # connections remembered, for each flow that an epoch can hold


@dataclass(frozen=True)
class AgentComponents:
    """What an agent consists of once it counts."""

    here: Position
    ledger: Ledger
    directory: Directory
    sources: IdentitySources
    watch: InterfaceEvents
    attacher: Attacher
    watcher: LinkWatcher
    books: AccountMap
    table: Table
    journal: Journal
    stale_interfaces: frozenset[int]  # interfaces with kernel accounts from before this start
    ended: list[ClosedConnections]  # connections that ended while nobody was there
    keeper: PinKeeper
    opened: ExitStack

    def close(self) -> None:
        """Let go of everything but what counts in the kernel."""
        self.opened.close()


def boot_id(proc: Path = Path("/proc")) -> str:
    return (proc / "sys/kernel/random/boot_id").read_text().strip()


def make_ledger(config: Config, generation: Generation) -> Ledger:
    layout = generation.about.layout
    limits = Limits(
        series=config.series_limit,
        connections=CONNECTIONS_PER_FLOW * config.max_flows,
        grace_ns=int(config.series_grace * 1e9),
        patience_ns=int(config.name_wait * 1e9),
        undeclared_events=config.events is not None and UNDECLARED in config.events_verdicts,
        forwarders=config.forwarders,
    )
    flags = flags_of(layout)
    shown = SeriesOptions(
        config.flow_labels == "pod",
        parts_a_byte(config.prices.egress.items()),
        parts_a_byte(config.prices.ingress.items()),
        config.kubecost_alias,
    )
    return Ledger(flags, limits, config.flow_log is not None, shown)


def bring_up(
    config: Config, pins: Pins, checkpoint: Checkpoint, metrics: AgentMetrics
) -> AgentComponents:
    """Take over or compile, attach, and book what was counted up to now.

    What fails leaves no thread and no open file behind.
    """
    before, contents = _read(checkpoint)
    installed = install(pins, config, before.generation if before else None)
    if before is not None and not installed.goes_on_from(before.generation):
        before = contents = None
        _put_aside(checkpoint, "it is of other kernel programs than those pinned here")
    generation = installed.current
    with ExitStack() as opened:
        ledger, now_ns = make_ledger(config, generation), time.monotonic_ns()
        sources = make_identity_sources(config, ledger)
        opened.callback(sources.close)
        directory = sources.directory
        if contents is not None:
            contents.restore(ledger, now_ns)
            directory.restore(contents.extras.residents, contents.extras.known_ns)
            metrics.restore(contents.extras.own_metrics)
        metrics.loader_runs.inc(installed.compiled)
        # What an earlier start had begun is finished first; then it is compiled once more.
        is_todays = generation.about.digest == digest(options_of(config))
        if is_todays:
            _give_up_rights(config)
        sources.start()
        books, watch = AccountMap(generation), InterfaceEvents(ledger, directory, sources.finder)
        opened.callback(books.close)
        opened.callback(watch.close)
        books.open_accounts(UNATTRIBUTED)
        stale_interfaces = frozenset(books.read().ifindex.tolist()) - {UNATTRIBUTED}
        attacher, watcher = _attach(config, generation, books, watch, opened)
        sources.refresh(time.monotonic_ns())
        here = _at(generation, 0)
        table = open_table(generation)
        opened.callback(table.close)
        journal = Journal(table, books, ledger, checkpoint)
        past = _Recovery(ledger, sources, watch, metrics, checkpoint)
        try:
            if installed.before is not None:
                watcher.detach_unwanted()  # no program may write to what is drained
                ended = past.drain(installed.before, before, _at(generation, table.epoch))
                pins.promote()
            else:
                turned = journal.recover(before, here, past.look)
                ended = turned.ended
                if turned.flows:
                    log.info("booked %d flows that the kernel held from before", turned.flows)
        except (UnwritableError, OSError) as error:
            raise PodtallyError(
                f"cannot write the checkpoint {checkpoint.path}: {error}; "
                "nothing is lost, the kernel goes on counting",
                "make room there, or choose another --state-dir",
            ) from None
        if is_todays:
            keeper = PinKeeper(Generation(pins.root))
            opened.callback(keeper.close)
            watcher.follow()
            return AgentComponents(
                here,
                ledger,
                directory,
                sources,
                watch,
                attacher,
                watcher,
                books,
                table,
                journal,
                stale_interfaces,
                ended,
                keeper,
                opened.pop_all(),
            )
    return bring_up(config, pins, checkpoint, metrics)


def _give_up_rights(config: Config) -> None:
    """All but what the running agent needs; before there is a second thread."""
    logs = [str(each) for each in (config.flow_log, config.events) if each]
    folders = [Path(each).parent for each in logs if each != STANDARD_OUTPUT]
    written = [config.state_dir, config.pin_dir, *folders]
    needed = capabilities.running(each for each in written if each.exists())
    if capabilities.in_effect() <= needed:
        return
    try:
        kept = capabilities.keep(needed)
    except (OSError, PodtallyError) as error:
        log.warning("cannot give up what is needed no more: %s", error)
        return
    log.debug("the capabilities are now %s", ", ".join(sorted(kept)) or "none")


def _read(checkpoint: Checkpoint) -> tuple[Position | None, Contents | None]:
    try:
        read = checkpoint.read()
    except CheckpointError as error:
        _put_aside(checkpoint, str(error))
        return None, None
    if read is None:
        return None, None
    if read[0].boot_id != boot_id():
        log.info("the checkpoint is from before the last boot: the books begin anew")
        return None, None
    return read


def _put_aside(checkpoint: Checkpoint, why: str) -> None:
    log.error(
        "the checkpoint cannot be used: %s; it is now %s, and the sums begin anew from what "
        "the kernel holds",
        why,
        checkpoint.put_aside(),
    )


def _attach(
    config: Config,
    generation: Generation,
    books: AccountMap,
    watch: InterfaceEvents,
    opened: ExitStack,
) -> tuple[Attacher, LinkWatcher]:
    """Attach to all that is there; what only an earlier run watched stays for now."""
    programs = generation.program_fds()
    for fd in programs.values():
        opened.callback(os.close, fd)
    attacher = Attacher(config.pin_dir, programs, config.attach, config.state_dir)
    opened.callback(attacher.close)
    wanted = pod_interfaces(config.interfaces)
    watcher = LinkWatcher(attacher, wanted, books.open_accounts, watch.inbox)
    opened.callback(watcher.stop)
    watcher.watch_present()
    watch.take_events()
    watch.forget_absent()
    return attacher, watcher


def _at(generation: Generation, epoch: int) -> Position:
    return Position(boot_id(), generation.about.generation, epoch)


@dataclass(frozen=True)
class _Recovery:
    """Books what was counted before this start."""

    ledger: Ledger
    sources: IdentitySources
    watch: InterfaceEvents
    metrics: AgentMetrics
    checkpoint: Checkpoint

    def look(self, table: Table) -> EpochInputs:
        present = self.sources.present(table)
        return EpochInputs(present, self.watch.counters({}), (), self.extras())

    def extras(self) -> Extras:
        residents = self.sources.directory.residents()
        return Extras(residents, self.metrics.dump(), self.watch.known_ns)

    def drain(
        self, old: Generation, before: Position | None, here: Position
    ) -> list[ClosedConnections]:
        """Book all that another generation has counted, and write down that ours is next."""
        log.info("the kernel programs have changed: booking what the old ones counted")

        # Without counters: they hold, too, what is in the table that comes next.
        def look(table: Table) -> EpochInputs:
            return self.look(table)._replace(counters=NO_COUNTERS)

        journal = Journal(open_table(old), AccountMap(old), self.ledger, self.checkpoint)
        ended = journal.recover(before, _at(old, 0), look).ended
        ended += journal.drain(look)
        self.ledger.counter_deltas.forget()
        self.checkpoint.write(here, self.ledger, self.extras())
        return ended
