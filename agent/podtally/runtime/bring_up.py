# SPDX-License-Identifier: Apache-2.0
"""Builds an agent: installs the programs, attaches, and books what was counted before.

It attaches first, so that packets are counted; then it books what the kernel holds.
"""

import logging
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from podtally.attach.attacher import Attacher
from podtally.attach.selection import pod_interfaces
from podtally.attach.watcher import LinkWatcher
from podtally.config import Config, NatGateway
from podtally.config.kinds import split_networks
from podtally.dns.domain_labels import DomainLabels
from podtally.errors import PodtallyError
from podtally.export.agent_metrics import AgentMetrics
from podtally.identity.local.directory import Directory
from podtally.kernel import capabilities
from podtally.kernel.account_map import UNATTRIBUTED, AccountMap
from podtally.kernel.pins import Generation, PinKeeper, Pins, digest
from podtally.kernel.preload import Preload
from podtally.kernel.table import Table, open_table
from podtally.ledger.checkpoint.checkpoint import Parts, Position
from podtally.ledger.checkpoint.saved import SavedError
from podtally.ledger.closed import ClosedConnections
from podtally.ledger.connections.connections import flags_of
from podtally.ledger.ledger import Ledger, Limits
from podtally.ledger.metrics.costs import NatPrices, SeriesOptions, parts_per_byte
from podtally.ledger.peers.nat_rules import NatRules, nat_rules
from podtally.policy.model import UNDECLARED
from podtally.runtime.extras import extras_of
from podtally.runtime.generations import Installed, install, options_of
from podtally.runtime.identity_sources import IdentitySources
from podtally.runtime.inputs_collector import DomainSource, InputsCollector
from podtally.runtime.interface_events import InterfaceEvents
from podtally.runtime.journal import Journal, UnwritableError
from podtally.runtime.name_capture import NameCapture
from podtally.runtime.prepared_resources import PreparedResources
from podtally.runtime.recovery import Recovery, boot_id, position_at, put_aside, read_checkpoint
from podtally.runtime.retransmit_tracing import trace_retransmits
from podtally.runtime.rights import needed_rights
from podtally.runtime.source_setup import make_identity_sources
from podtally.runtime.trusted_resolvers import TrustedResolvers

log = logging.getLogger(__name__)

CONNECTIONS_PER_FLOW = 2  # connections remembered, for each flow that an epoch can hold


@dataclass(frozen=True)
class AgentComponents:
    """The parts of an agent that counts."""

    here: Position
    ledger: Ledger
    directory: Directory
    sources: IdentitySources
    collector: InputsCollector
    names: NameCapture
    interfaces: InterfaceEvents
    attacher: Attacher
    watcher: LinkWatcher
    accounts: AccountMap
    table: Table
    journal: Journal
    stale_interfaces: frozenset[int]  # with kernel accounts from before this start
    closed: list[ClosedConnections]  # ended while no agent ran
    keeper: PinKeeper
    opened: ExitStack

    def close(self) -> None:
        """Close everything but the kernel's programs, which go on counting."""
        self.opened.close()


def make_ledger(config: Config, generation: Generation) -> Ledger:
    layout = generation.about.layout
    limits = Limits(
        series=config.series_limit,
        connections=CONNECTIONS_PER_FLOW * config.max_flows,
        grace_ns=int(config.series_grace * 1e9),
        patience_ns=int(config.name_wait * 1e9),
        undeclared_events=config.events is not None and UNDECLARED in config.events_verdicts,
        forwarders=config.forwarders,
        history=f"{boot_id()} {time.time_ns()}" if config.history.is_on else "",
    )
    flags = flags_of(layout)
    shown = SeriesOptions(
        config.flow_labels == "pod",
        parts_per_byte(config.prices.egress.items()),
        parts_per_byte(config.prices.ingress.items()),
        config.kubecost_alias,
        NatPrices(**dict(parts_per_byte(config.prices.nat_gateway.items()))),
        _nat_rules(config.nat_gateway),
    )
    domains = DomainLabels(config.domains, split_networks(config.networks).domains)
    return Ledger(flags, limits, config.flow_log is not None, shown, domains)


def _nat_rules(configured: NatGateway | None) -> NatRules | None:
    if configured is None:
        return None
    return nat_rules(
        configured.node_labels,
        configured.subnets,
        configured.destinations,
        configured.exclude,
    )


def bring_up(
    config: Config, resources: PreparedResources, preload: Preload | None = None
) -> AgentComponents:
    """Install the programs, attach, and book what was counted up to now.

    A failure leaves no thread and no open file behind.
    """
    pins, checkpoint, metrics = resources.pins, resources.checkpoint, resources.metrics
    installed, before, parts = _installed(config, resources, preload)
    generation = installed.current
    with ExitStack() as opened:
        ledger = make_ledger(config, generation)
        sources, names = make_identity_sources(config), NameCapture(config)
        opened.callback(sources.close)
        opened.callback(names.close)
        directory = sources.directory
        if parts is not None:
            try:
                _restore(parts, ledger, directory, metrics, names)
            except SavedError as error:
                put_aside(checkpoint, str(error))
                opened.close()
                return bring_up(config, resources)
        metrics.loader_runs.inc(installed.is_loaded)
        # An unfinished change of generations is finished first; then the programs are loaded.
        trace_retransmits(generation, pins.links)
        is_todays = generation.about.digest == digest(options_of(config))
        if is_todays:
            _give_up_rights(config)
        names.open(generation)
        sources.start()
        resources.server.starting("attaching to interfaces")
        accounts = _accounts(generation, opened)
        interfaces = InterfaceEvents(ledger, directory, sources.finder)
        opened.callback(interfaces.close)
        stale_interfaces = frozenset(accounts.read().ifindex.tolist()) - {UNATTRIBUTED}
        attacher, watcher = _attach(config, generation, accounts, interfaces, opened)
        domains = DomainSource(names, TrustedResolvers(config.resolvers), accounts)
        collector = InputsCollector(ledger, sources, interfaces, domains)
        collector.refresh_names()
        here, table = position_at(generation, 0), open_table(generation)
        opened.callback(table.close)
        journal = Journal(table, accounts, ledger, checkpoint)
        resources.server.starting("booking what was counted")
        closed = _book_past(
            Recovery(ledger, collector, metrics, checkpoint),
            journal,
            _Past(installed.before, before, here, pins, watcher, names),
        )
        if is_todays:
            keeper = PinKeeper(Generation(pins.root))
            opened.callback(keeper.close)
            watcher.follow()
            names.start()
            return AgentComponents(
                here=here,
                ledger=ledger,
                directory=directory,
                sources=sources,
                collector=collector,
                names=names,
                interfaces=interfaces,
                attacher=attacher,
                watcher=watcher,
                accounts=accounts,
                table=table,
                journal=journal,
                stale_interfaces=stale_interfaces,
                closed=closed,
                keeper=keeper,
                opened=opened.pop_all(),
            )
    return bring_up(config, resources)


def _installed(
    config: Config, resources: PreparedResources, preload: Preload | None
) -> tuple[Installed, Position | None, Parts | None]:
    """Install the programs; return them, and the checkpoint that they continue, if any."""
    resources.server.starting("loading the kernel programs")
    before, parts = read_checkpoint(resources.checkpoint)
    installed = install(resources.pins, config, before.generation if before else None, preload)
    if before is not None and not installed.goes_on_from(before.generation):
        put_aside(
            resources.checkpoint, "it belongs to other kernel programs than those pinned here"
        )
        return installed, None, None
    return installed, before, parts


class _Past(NamedTuple):
    """What an earlier agent left."""

    old: Generation | None  # its programs, if they were others
    before: Position | None  # of its checkpoint
    here: Position
    pins: Pins
    watcher: LinkWatcher
    names: NameCapture


def _book_past(recovery: Recovery, journal: Journal, past: _Past) -> list[ClosedConnections]:
    """Book what the kernel counted before this start."""
    try:
        if past.old is None:
            return recovery.book_past(journal, past.before, past.here)
        past.watcher.detach_unwanted()  # no program may write to what is drained
        past.names.drain(past.old)
        here = msgspec.structs.replace(past.here, epoch=journal.table.epoch)
        closed = recovery.drain(past.old, past.before, here)
        past.pins.promote()
        return closed
    except (UnwritableError, OSError) as error:
        raise PodtallyError(
            f"cannot write the checkpoint {recovery.checkpoint.path}: {error}; "
            "nothing is lost, the kernel goes on counting",
            "make room there, or choose another --state-dir",
        ) from None


def _accounts(generation: Generation, opened: ExitStack) -> AccountMap:
    accounts = AccountMap(generation)
    opened.callback(accounts.close)
    accounts.open_accounts(UNATTRIBUTED)
    return accounts


def _restore(
    parts: Parts,
    ledger: Ledger,
    directory: Directory,
    metrics: AgentMetrics,
    names: NameCapture,
) -> None:
    """Restore a checkpoint; SavedError if a part cannot be read."""
    names.restore(parts)
    ledger.load(parts, time.monotonic_ns())
    extras = extras_of(parts)
    directory.restore(extras.residents, extras.known_ns)
    metrics.restore(extras.own_metrics)


def _give_up_rights(config: Config) -> None:
    """Drop all capabilities that a running agent does not need.

    Threads that serve clients have done so; others are not started yet.
    """
    needed = needed_rights(config)
    if capabilities.in_effect() <= needed:
        return
    try:
        kept = capabilities.keep(needed)
    except (OSError, PodtallyError) as error:
        log.warning("cannot drop capabilities: %s", error)
        return
    log.debug("the capabilities are now %s", ", ".join(sorted(kept)) or "none")


def _attach(
    config: Config,
    generation: Generation,
    accounts: AccountMap,
    interfaces: InterfaceEvents,
    opened: ExitStack,
) -> tuple[Attacher, LinkWatcher]:
    """Attach to all interfaces that are there; those of an earlier run stay attached for now."""
    programs = generation.program_fds()
    for fd in programs.values():
        opened.callback(os.close, fd)
    attacher = Attacher(
        config.pin_dir, programs, config.attach, config.state_dir, config.attach_first
    )
    opened.callback(attacher.close)
    wanted = pod_interfaces(config.interfaces)
    watcher = LinkWatcher(attacher, wanted, accounts.open_accounts, interfaces.queue)
    opened.callback(watcher.stop)
    watcher.watch_present()
    interfaces.take_events()
    interfaces.forget_absent()
    return attacher, watcher
