# SPDX-License-Identifier: Apache-2.0
"""Turns the epoch loop until it is told to stop, and tells of its health."""

import datetime
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

from podtally.api.query_service import QueryService
from podtally.attach.selection import refusals
from podtally.config import Config
from podtally.errors import PodtallyError
from podtally.export.agent_metrics import AgentMetrics
from podtally.export.event_log import EventLog
from podtally.export.flow_log import FlowLog
from podtally.export.publisher import Health, Publisher
from podtally.kernel.account_map import UNATTRIBUTED
from podtally.kernel.pins import Pins
from podtally.kernel.table import Table
from podtally.kube.api_access import api_access
from podtally.ledger.checkpoint import Checkpoint, Extras
from podtally.ledger.closed import ClosedConnections
from podtally.netlink.model import Mode
from podtally.runtime.bring_up import AgentComponents
from podtally.runtime.interface_counters import Last
from podtally.runtime.journal import EpochInputs, EpochResult, UnwritableError
from podtally.runtime.sd_notify import ServiceManager
from podtally.runtime.state_directory import StateDirectory
from podtally.supervision.conditions import Condition
from podtally.web.server import WebServer
from podtally.web.unix_socket import API_SOCKET

log = logging.getLogger(__name__)

STUCK_AFTER_SECONDS = 30.0  # an epoch loop that has not turned for so long is not alive
EXPIRE_EVERY_NS = 10_000_000_000
FOREIGN_EVERY_NS = 30_000_000_000
STATUS_EVERY_NS = 10_000_000_000


class PreparedResources:
    """What must be there before anything is attached: whatever fails here leaves no trace."""

    def __init__(self, config: Config) -> None:
        api_access(config)  # whether it is told well is known at once; it may well be away
        self.flow_log: FlowLog | None = None
        self.events: EventLog | None = None
        with ExitStack() as opened:
            self.state = StateDirectory(config.state_dir)
            opened.callback(self.state.close)
            self.checkpoint = Checkpoint(config.state_dir)
            self.server = WebServer(
                config.listen_address(), config.web_config_file, config.state_dir / API_SOCKET
            )
            opened.callback(self.server.close)
            self.pins = Pins(config.pin_dir)
            opened.callback(self.pins.close)
            if config.flow_log:
                self.flow_log = FlowLog(config.flow_log, config.flow_log_max_bytes)
                opened.callback(self.flow_log.close)
            if config.events:
                limits = (config.events_max_bytes, config.events_rate)
                self.events = EventLog(config.events, *limits)
                opened.callback(self.events.close)
            self._opened = opened.pop_all()
        self.metrics = AgentMetrics()

    def close(self) -> None:
        self._opened.close()


class Agent:
    """One agent over one pin directory and one state directory."""

    def __init__(
        self,
        config: Config,
        resources: PreparedResources,
        parts: AgentComponents,
        service: ServiceManager,
    ) -> None:
        self._config = config
        self._service = service
        self._resources = resources
        self._parts = parts
        self._metrics = resources.metrics
        self._turned_at = time.monotonic()
        self._epochs = self._flows = 0
        self._trouble = self._pin_trouble = ""
        self._told = (0, 0, 0, 0, 0, 0)  # what others count, as far as it is in the metrics
        self._gone: dict[int, Last | None] = {}
        self._refused: set[str] = set()
        self._stale_interfaces = set(parts.stale_interfaces)
        self._events_interval_ns = int(config.events_interval * 1e9)
        self._unwritten, self._flow_log_trouble = Condition(log), Condition(log)
        self._events_trouble = Condition(log)
        self._metrics.table_slots.set(parts.table.slots)
        self._publisher = Publisher(parts.ledger.view(), self._metrics, self.health)
        resources.server.start(
            self._publisher, QueryService(parts.directory, lambda: parts.sources.policies.latest)
        )
        self._write_flow_log(parts.ended)
        log.info("%s; %s", self._watching(), resources.server.url)

    def loop(self, stop: threading.Event) -> None:
        """Turn an epoch every ``config.epoch`` seconds until ``stop`` is set."""
        due = time.monotonic() + self._config.epoch
        next_expiry = next_foreign = next_status = 0
        while not self._wait(stop, due):
            started = time.monotonic()
            self._metrics.epoch_lateness.observe(max(0.0, started - due))
            self._turn()
            now_ns = time.monotonic_ns()
            if now_ns >= next_expiry:
                self._parts.ledger.expire(self._parts.directory.names, now_ns)
                next_expiry = now_ns + EXPIRE_EVERY_NS
            if now_ns >= next_foreign:
                self._look_for_foreign_programs()
                self._log_refusals()
                next_foreign = now_ns + FOREIGN_EVERY_NS
            if now_ns >= next_status:
                self._check_pins()
                self._service.status(self.status())
                next_status = now_ns + STATUS_EVERY_NS
            self._metrics.epoch_duration.observe(time.monotonic() - started)
            due = next_due(due, started, self._config.epoch)

    def status(self) -> str:
        """One line for the service manager."""
        words = [self._watching(), f"{self._flows} flows in the last epoch"]
        gap = sum(abs(each) for _, each in self._publisher.view.gaps)
        words.append(f"the books have a gap of {gap} bytes" if gap else "the books close")
        return self._trouble or ", ".join(words)

    def _watching(self) -> str:
        count = len(self._parts.watch.interfaces)
        return f"watching {count} interface{'' if count == 1 else 's'}"

    def _wait(self, stop: threading.Event, due: float) -> bool:
        """Until an epoch is due; True if it is time to stop. The watchdog is fed meanwhile."""
        beat = self._service.watchdog_seconds
        while (left := due - time.monotonic()) > 0:
            if stop.wait(left if beat is None else min(left, beat / 3)):
                return True
            self._service.beat()
        return stop.is_set()

    def health(self) -> Health:
        """Tell whether the loop turns, and whether what it does is written down."""
        still = time.monotonic() - self._turned_at
        alive = ""
        if still > max(STUCK_AFTER_SECONDS, 5 * self._config.epoch):
            alive = f"no epoch for {still:.0f} s"
        elif not self._parts.watcher.alive:
            alive = "the thread that follows the links has died"
        alive = alive or self._parts.sources.dead()
        trouble = self._trouble or self._pin_trouble
        trouble = trouble or self._parts.watcher.trouble or self._parts.sources.trouble()
        return Health(alive, trouble or ("" if self._epochs else "no epoch is booked yet"))

    # -- one epoch --------------------------------------------------------------------

    def _turn(self) -> None:
        parts = self._parts
        if parts.journal.blocked:
            self._guarded(lambda: parts.journal.retry(parts.here, self._extras()))
            return
        parts.watch.take_events()
        self._gone = parts.watch.take_gone()
        self._swap_started = time.monotonic()
        self._guarded(lambda: parts.journal.turn(parts.here, self._look))

    def _look(self, table: Table) -> EpochInputs:
        """The world at the end of an epoch: what appeared meanwhile is taken in, what went
        since the flip has another epoch to come.
        """
        self._metrics.swap.observe(time.monotonic() - self._swap_started)
        watch = self._parts.watch
        watch.take_events()
        self._gone = watch.still_gone(self._gone)
        present = self._parts.sources.present(table)
        return EpochInputs(present, watch.counters(self._gone), tuple(self._gone), self._extras())

    def _extras(self) -> Extras:
        self._dumped = self._metrics.dump()
        parts = self._parts
        return Extras(parts.directory.residents(), self._dumped, parts.watch.known_ns)

    def _guarded(self, step: Callable[[], EpochResult]) -> None:
        try:
            turned = step()
        except UnwritableError as error:
            self._metrics.checkpoint_errors.inc()
            self._unwritten.met(
                "cannot write the checkpoint %s: %s; nothing is lost: the kernel goes on "
                "counting, and is booked when there is room",
                self._resources.checkpoint.path,
                error,
            )
            self._trouble = f"the checkpoint cannot be written: {error}"
            self._make_state_directory_again()
            self._turned_at = time.monotonic()
            return
        self._unwritten.over("the checkpoint is written again")
        self._trouble = ""
        self._after(turned)

    def _make_state_directory_again(self) -> None:
        """If that is why: the next try then finds it."""
        try:
            if self._resources.state.restore():
                log.warning("the state directory had been removed, and is made again")
        except PodtallyError as error:
            self._trouble = str(error)

    def _check_pins(self) -> None:
        """What is pinned must stay: the next start takes it over, and attachments hang on it."""
        try:
            gone = self._parts.keeper.restore()
        except OSError as error:
            if not self._pin_trouble:
                log.error("pins have vanished and cannot be made again: %s", error)
            self._pin_trouble = f"pins have vanished and cannot be made again: {error}"
            return
        self._pin_trouble = ""
        if gone:
            names = ", ".join(path.name for path in gone)
            log.error("somebody has removed pins; they are made again: %s", names)
        self._parts.watcher.check()

    def _after(self, turned: EpochResult) -> None:
        """What follows a turn that is written down."""
        ledger = self._parts.ledger
        for ifindex in [*self._gone, *self._orphans()]:
            self._parts.books.close_accounts(ifindex)
            ledger.counter_deltas.closed(ifindex)
        self._gone = {}
        self._publisher.publish(ledger.view())
        self._write_flow_log(turned.ended)
        self._write_events()
        self._tell(turned)
        self._epochs += 1
        self._turned_at = time.monotonic()

    def _orphans(self) -> list[int]:
        """Interfaces that went while no agent was there; after this epoch they are done with."""
        ledger = self._parts.ledger
        orphans = [i for i in ledger.interfaces.orphans() if i != UNATTRIBUTED]
        for ifindex in orphans:
            ledger.let_go(ifindex)
        left, self._stale_interfaces = self._stale_interfaces, set()
        return [*orphans, *(left - self._parts.watch.interfaces.keys())]

    def _write_flow_log(self, ended: list[ClosedConnections]) -> None:
        flow_log = self._resources.flow_log
        if flow_log is None:
            return
        try:
            now = datetime.datetime.now(datetime.UTC)
            written = flow_log.write(ended, time.monotonic_ns(), now)
        except OSError as error:
            self._metrics.flow_log_errors.inc()
            self._flow_log_trouble.met("cannot write the flow log: %s", error)
            return
        if written:
            self._flow_log_trouble.over("the flow log is written again")

    def _write_events(self) -> None:
        """After the checkpoint: told of again after a kill, an event has the same sums."""
        event_log, events = self._resources.events, self._parts.ledger.events
        if event_log is None:
            return
        now_ns = time.monotonic_ns()
        index, due = events.due(event_log.room(now_ns), self._events_interval_ns, now_ns)
        try:
            event_log.write(due, now_ns, datetime.datetime.now(datetime.UTC))
        except OSError as error:
            self._metrics.event_log_errors.inc()
            self._events_trouble.met(
                "cannot write events: %s; they are kept, and tried again", error
            )
            return
        if due:
            self._events_trouble.over("events are written again")
        events.tell(index, now_ns)
        self._metrics.events_pending.set(events.untold)
        self._metrics.events_logged.inc(len(due))

    def _tell_of_policies(self) -> None:
        metrics, state = self._metrics, self._parts.sources.policies.state()
        metrics.policies.clear()
        for kind, count in state.counts.items():
            metrics.policies.labels(kind).set(count)
        metrics.policies_unreadable.set(state.unreadable)
        metrics.policy_files_stale.set(state.stale_files)
        metrics.candidates.set(state.candidates)
        metrics.policies_unsynced.set(len(state.unsynced))

    def _tell(self, turned: EpochResult) -> None:
        metrics, parts = self._metrics, self._parts
        metrics.checkpoint_written(turned.checkpoint_bytes, self._dumped)
        self._flows = turned.flows
        metrics.epoch_flows.set(turned.flows)
        metrics.table_fill.set(turned.flows / parts.table.slots)
        metrics.connections.set(len(parts.ledger.connections))
        metrics.unnamed.set(len(parts.directory.unnamed()))
        modes = Counter(parts.watch.modes())
        for mode in Mode:
            metrics.attached.labels(mode.value).set(modes[mode.value])
        sources = parts.sources.state()
        for resource, age in sources.ages_seconds.items():
            metrics.kubernetes_age.labels(resource).set(age)
        for resource, count in sources.objects.items():
            metrics.kubernetes_objects.labels(resource).set(count)
        metrics.kubernetes_unsynced.clear()
        for resource, why in sources.unsynced.items():
            metrics.kubernetes_unsynced.labels(resource, why).set(1)
        metrics.conntrack.set(sources.conntrack)
        metrics.contradicted.clear()
        for (namespace, workload), count in sources.contradicted.items():
            metrics.contradicted.labels(namespace, workload).set(count)
        self._tell_of_policies()
        watcher = parts.watcher
        now = (
            *(watcher.attach_errors, watcher.resyncs, sources.errors, sources.lists),
            *(sources.lookups, sources.lookups_missed),
        )
        totals = (
            *(metrics.attach_errors, metrics.resyncs, metrics.source_errors, metrics.relists),
            *(metrics.conntrack_lookups, metrics.conntrack_missed),
        )
        for total, count, told in zip(totals, now, self._told, strict=True):
            total.inc(count - told)
        self._told = now

    def _log_refusals(self) -> None:
        """Once for each interface that is named and cannot be watched."""
        if self._config.interfaces is None:
            return
        found = refusals(self._config.interfaces, self._parts.watcher.links())
        for refusal in found:
            if refusal not in self._refused:
                log.warning("--interfaces: %s", refusal)
        self._refused.update(found)

    def _look_for_foreign_programs(self) -> None:
        self._metrics.foreign.clear()
        for ifindex, watched in list(self._parts.watch.interfaces.items()):
            try:
                found = self._parts.attacher.foreign(ifindex)
            except OSError:  # it goes just now; Gone follows
                continue
            for program in found:
                if program.before_ours:
                    self._metrics.foreign.labels(watched.name, program.hook.value).inc()


def next_due(due: float, started: float, epoch: float) -> float:
    """When the epoch after one that was ``due`` and ``started`` is due, however long that takes.

    One that starts a whole epoch late moves all that follow: what was missed is not made up for.
    """
    return (due if started - due < epoch else started) + epoch
