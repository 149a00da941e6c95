# SPDX-License-Identifier: Apache-2.0
"""The second half of a start: builds the agent that books what the programs count."""

import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from podtally.attach.attacher import Attacher
from podtally.attach.watcher import LinkWatcher
from podtally.config import Config, NatGateway
from podtally.config.kinds import split_networks
from podtally.dns.domain_labels import DomainLabels
from podtally.errors import PodtallyError
from podtally.export.agent_metrics import AgentMetrics
from podtally.identity.local.directory import Directory
from podtally.kernel.account_map import AccountMap
from podtally.kernel.pins import Generation, PinKeeper, Pins
from podtally.kernel.table import Table, open_table
from podtally.ledger.checkpoint.checkpoint import Parts, Position
from podtally.ledger.checkpoint.saved import SavedError
from podtally.ledger.closed import ClosedConnections
from podtally.ledger.connections.connections import flags_of
from podtally.ledger.ledger import Ledger, Limits
from podtally.ledger.metrics.costs import NatPrices, SeriesOptions, parts_per_byte
from podtally.ledger.peers.nat_rules import NatRules, nat_rules
from podtally.policy.model import UNDECLARED
from podtally.runtime.counting import Counting
from podtally.runtime.extras import extras_of
from podtally.runtime.identity_sources import IdentitySources
from podtally.runtime.inputs_collector import DomainSource, InputsCollector
from podtally.runtime.interface_events import InterfaceEvents
from podtally.runtime.journal import Journal, UnwritableError
from podtally.runtime.last_checkpoint import boot_id, position_at, put_aside
from podtally.runtime.name_capture import NameCapture
from podtally.runtime.prepared_resources import PreparedResources
from podtally.runtime.recovery import Recovery
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
        """Close everything but the kernel's programs, which keep counting."""
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


def bring_up(config: Config, resources: PreparedResources, counting: Counting) -> AgentComponents:
    """Book what was counted up to now, and go on.

    ``counting`` belongs to the agent from here on. A failure leaves no thread and no open file
    behind.
    """
    checkpoint, metrics = resources.checkpoint, resources.metrics
    generation = counting.generation
    with ExitStack() as opened:
        opened.callback(counting.close)
        ledger = make_ledger(config, generation)
        sources, names = make_identity_sources(config), NameCapture(config)
        opened.callback(sources.close)
        opened.callback(names.close)
        directory = sources.directory
        parts = counting.take_parts()
        if parts is not None:
            try:
                _restore(parts, ledger, directory, metrics, names)
            except SavedError as error:
                put_aside(checkpoint, str(error))
                opened.close()
                return bring_up(config, resources, Counting(config, resources.opening))
        del parts
        metrics.loader_runs.inc(counting.installed.is_loaded)
        names.open(generation, counting.names_from)
        sources.start()
        resources.server.starting("booking what was counted")
        interfaces = InterfaceEvents(ledger, directory, counting.events)
        opened.callback(interfaces.close)
        counting.events.forward_to(sources.finder)
        interfaces.take_events()
        interfaces.forget_absent()
        domains = DomainSource(names, TrustedResolvers(config.resolvers), counting.accounts)
        collector = InputsCollector(ledger, sources, interfaces, domains)
        collector.refresh_names()
        here, table = position_at(generation, 0), open_table(generation)
        opened.callback(table.close)
        journal = Journal(table, counting.accounts, ledger, checkpoint)
        closed = _book_past(
            Recovery(ledger, collector, metrics, checkpoint),
            journal,
            _Past(counting, here, resources.pins, names),
        )
        if counting.is_todays:
            keeper = PinKeeper(Generation(resources.pins.root))
            opened.callback(keeper.close)
            counting.watcher.follow()
            opened.callback(counting.close)  # first: its thread uses what is opened above
            names.start()
            return AgentComponents(
                here=here,
                ledger=ledger,
                directory=directory,
                sources=sources,
                collector=collector,
                names=names,
                interfaces=interfaces,
                attacher=counting.attacher,
                watcher=counting.watcher,
                accounts=counting.accounts,
                table=table,
                journal=journal,
                stale_interfaces=counting.stale_interfaces,
                closed=closed,
                keeper=keeper,
                opened=opened.pop_all(),
            )
    return bring_up(config, resources, Counting(config, resources.opening))


class _Past(NamedTuple):
    """What an earlier agent left, and where its counts go."""

    counting: Counting
    here: Position
    pins: Pins
    names: NameCapture


def _book_past(recovery: Recovery, journal: Journal, past: _Past) -> list[ClosedConnections]:
    """Book what the kernel counted before this start."""
    old, before = past.counting.installed.before, past.counting.before
    try:
        if old is None:
            return recovery.book_past(journal, before, past.here)
        past.counting.watcher.detach_unwanted()  # no program may write to what is drained
        past.names.drain(old)
        here = msgspec.structs.replace(past.here, epoch=journal.table.epoch)
        closed = recovery.drain(old, before, here)
        past.pins.promote()
        return closed
    except (UnwritableError, OSError) as error:
        raise PodtallyError(
            f"cannot write the checkpoint {recovery.checkpoint.path}: {error}; "
            "nothing is lost, the kernel keeps counting",
            "make room there, or choose another --state-dir",
        ) from None


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
