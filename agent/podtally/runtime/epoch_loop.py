# SPDX-License-Identifier: Apache-2.0
"""Runs one epoch after the other until it is stopped, and reports its health."""

import logging
import threading
import time

from podtally.api.dns_lookup import SeenDns
from podtally.api.query_service import QueryService
from podtally.attach.selection import counted_below, refusals
from podtally.config import Config
from podtally.errors import PodtallyError
from podtally.export.expected import ExpectedMatcher
from podtally.export.publisher import Health, Publisher
from podtally.kernel.account_map import UNATTRIBUTED
from podtally.runtime.bring_up import AgentComponents
from podtally.runtime.free_memory import return_free_memory
from podtally.runtime.interface_counters import LastReading
from podtally.runtime.journal import EpochResult, UnwritableError
from podtally.runtime.log_output import LogOutput
from podtally.runtime.metrics_update import MetricsUpdate
from podtally.runtime.prepared_resources import PreparedResources
from podtally.runtime.sd_notify import ServiceManager
from podtally.supervision.conditions import Condition

log = logging.getLogger(__name__)

STUCK_AFTER_SECONDS = 30.0  # without an epoch: then the loop counts as dead
EXPIRE_EVERY_NS = 10_000_000_000
FOREIGN_EVERY_NS = 30_000_000_000
STATUS_EVERY_NS = 10_000_000_000
_NEGLIGIBLE = 0.1  # of an epoch: work that is no reason to start the next one sooner
_PAUSE = 1.5  # times the work of an epoch: at least so long from one to the next


class EpochLoop:
    """The main thread of one agent."""

    def __init__(
        self,
        config: Config,
        resources: PreparedResources,
        components: AgentComponents,
        service: ServiceManager,
    ) -> None:
        self._config = config
        self._service = service
        self._resources = resources
        self._components = components
        self._metrics = resources.metrics
        self._metrics_update = MetricsUpdate(resources.metrics, components)
        self._collector = components.collector
        self._logs = LogOutput(
            resources.flow_log,
            resources.event_log,
            resources.metrics,
            int(config.events_interval * 1e9),
        )
        self._committed_at = time.monotonic()
        self._epochs = self._flows = 0
        self._trouble = self._pin_trouble = ""
        self._gone: dict[int, LastReading | None] = {}  # in the epoch that is being booked
        self._refused: set[str] = set()
        self._stale_interfaces = set(components.stale_interfaces)
        self._unwritten = Condition(log)
        self._publisher = Publisher(
            components.ledger.view(), self._metrics, self.health, ExpectedMatcher(config.expected)
        )
        sources = components.sources
        resources.server.start(
            self._publisher,
            QueryService(
                components.directory,
                lambda: sources.policies.latest,
                self._seen_dns,
                history=resources.history.access,
                prices=config.prices.by_scope(),
            ),
        )
        self._logs.write_flows(components.closed)
        resources.history.start()
        log.info("%s; %s", self._watching(), resources.server.url)

    def run(self, stop: threading.Event) -> None:
        """Run an epoch every ``config.epoch`` seconds until ``stop`` is set; if there is much
        to book, somewhat sooner.
        """
        due, took = time.monotonic() + self._config.epoch, 0.0
        next_expiry = next_foreign = next_status = 0
        while not self._wait(stop, due - head_start(took, self._config.epoch)):
            started = time.monotonic()
            self._metrics.epoch_lateness.observe(max(0.0, started - due))
            self._run_epoch()
            now_ns = time.monotonic_ns()
            if now_ns >= next_expiry:
                self._components.ledger.expire(self._components.directory.names, now_ns)
                next_expiry = now_ns + EXPIRE_EVERY_NS
            if now_ns >= next_foreign:
                self._metrics_update.update_foreign_programs()
                self._log_refusals()
                return_free_memory()
                next_foreign = now_ns + FOREIGN_EVERY_NS
            if now_ns >= next_status:
                self._check_pins()
                self._service.status(self.status())
                next_status = now_ns + STATUS_EVERY_NS
            took = time.monotonic() - started
            self._metrics.epoch_duration.observe(took)
            due = next_due(min(due, started), started, self._config.epoch)

    def _seen_dns(self) -> SeenDns:
        interfaces = self._components.ledger.interfaces
        rows = interfaces.in_use_since_ns != 0
        since_ns = interfaces.in_use_since_ns[rows].tolist()
        late = dict(zip(interfaces.ifindex[rows].tolist(), since_ns, strict=True))
        names = self._components.names
        return SeenDns(names.inputs, late, names.recent)

    def status(self) -> str:
        """Return one line for the service manager."""
        words = [self._watching(), f"{self._flows} flows in the last epoch"]
        gap = self._publisher.view.gap_bytes
        words.append(f"the books have a gap of {gap} bytes" if gap else "the books close")
        return self._trouble or ", ".join(words)

    def health(self) -> Health:
        """Return whether the loop runs, and what is wrong with the agent."""
        components, seconds = self._components, time.monotonic() - self._committed_at
        dead = ""
        if seconds > max(STUCK_AFTER_SECONDS, 5 * self._config.epoch):
            dead = f"no epoch for {seconds:.0f} s"
        elif not components.watcher.alive:
            dead = "the thread that follows the links has died"
        dead = dead or components.sources.dead()
        if not components.names.alive:
            dead = dead or "the thread that reads DNS messages has died"
        trouble = self._trouble or self._pin_trouble
        trouble = trouble or components.watcher.trouble or components.sources.trouble()
        trouble = trouble or components.names.thread_trouble
        ready = trouble or ("" if self._epochs else "no epoch is booked yet")
        return Health(dead, ready, components.sources.note())

    def _watching(self) -> str:
        count = len(self._components.interfaces.watched)
        return f"watching {count} interface{'' if count == 1 else 's'}"

    def _wait(self, stop: threading.Event, due: float) -> bool:
        """Wait until an epoch is due, and feed the watchdog; return True if stopped."""
        beat = self._service.watchdog_seconds
        while (left := due - time.monotonic()) > 0:
            if stop.wait(left if beat is None else min(left, beat / 3)):
                return True
            self._service.beat()
        return stop.is_set()

    # -- one epoch --------------------------------------------------------------------

    def _run_epoch(self) -> None:
        journal, interfaces = self._components.journal, self._components.interfaces
        if not journal.is_blocked:
            interfaces.take_events()
            self._gone = interfaces.take_gone()
            started = time.monotonic()
            at_rest = journal.flip()
            self._metrics.swap.observe(time.monotonic() - started)
            interfaces.take_events()  # what appeared meanwhile may have rows already
            self._gone = interfaces.still_gone(self._gone)
            journal.book(at_rest, self._collector.collect(journal.table, self._gone))
        self._commit()

    def _commit(self) -> None:
        own_metrics = self._metrics.dump()
        extras = self._collector.extras(own_metrics)
        try:
            epoch = self._components.journal.commit(self._components.here, extras)
        except UnwritableError as error:
            self._metrics.checkpoint_errors.inc()
            self._unwritten.met(
                "cannot write the checkpoint %s: %s; nothing is lost: the kernel goes on "
                "counting, and is booked when there is room",
                self._resources.checkpoint.path,
                error,
            )
            self._trouble = f"the checkpoint cannot be written: {error}"
            self._restore_state_directory()
            self._committed_at = time.monotonic()
            return
        self._collector.committed()
        self._unwritten.over("the checkpoint is written again")
        self._trouble = ""
        self._metrics.checkpoint_written(epoch.checkpoint_bytes, own_metrics)
        self._publish(epoch)

    def _publish(self, epoch: EpochResult) -> None:
        """Export a committed epoch, and close the accounts of interfaces that are gone."""
        ledger = self._components.ledger
        for ifindex in [*self._gone, *self._orphans()]:
            self._components.accounts.close_accounts(ifindex)
            ledger.counter_deltas.closed(ifindex)
        self._gone = {}
        self._publisher.publish(ledger.view())
        self._logs.write_flows(epoch.closed)
        self._logs.write_events(ledger.events)
        self._resources.history.exchange(ledger)
        self._metrics_update.update(epoch)
        self._flows = epoch.flows
        self._epochs += 1
        self._committed_at = time.monotonic()

    def _orphans(self) -> list[int]:
        """Let go of interfaces that were removed while no agent ran; return them."""
        ledger = self._components.ledger
        orphans = [i for i in ledger.interfaces.orphans() if i != UNATTRIBUTED]
        for ifindex in orphans:
            ledger.let_go(ifindex)
        stale, self._stale_interfaces = self._stale_interfaces, set()
        return [*orphans, *(stale - self._components.interfaces.watched.keys())]

    # -- what may be wrong --------------------------------------------------------------

    def _restore_state_directory(self) -> None:
        """Make a removed state directory again: the next commit then succeeds."""
        try:
            if self._resources.state.restore():
                log.warning("the state directory was removed; it is made again")
        except PodtallyError as error:
            self._trouble = str(error)

    def _check_pins(self) -> None:
        """Restore removed pins: the next start needs them, and attachments depend on them."""
        try:
            gone = self._components.keeper.restore()
        except OSError as error:
            if not self._pin_trouble:
                log.error("pins were removed and cannot be restored: %s", error)
            self._pin_trouble = f"pins were removed and cannot be restored: {error}"
            return
        self._pin_trouble = ""
        if gone:
            names = ", ".join(path.name for path in gone)
            log.error("pins were removed from outside; restored: %s", names)
        self._components.watcher.check()

    def _log_refusals(self) -> None:
        """Log once each interface that is named and cannot be watched, or is counted elsewhere."""
        if self._config.interfaces is None:
            return
        pattern, links = self._config.interfaces, self._components.watcher.links()
        refused, below = refusals(pattern, links), counted_below(pattern, links)
        for words in {*refused, *below} - self._refused:
            log.log(
                logging.WARNING if words in refused else logging.INFO, "--interfaces: %s", words
            )
        self._refused.update(refused, below)


def head_start(took: float, epoch: float) -> float:
    """Return how long before it is due an epoch starts, if the work of the last one took so long.

    What is seen right after a flip is reported when the next epoch is over: with the head
    start, after one epoch and not after one and its work. Work takes two thirds of the time
    at most, and then there is no head start.
    """
    if took < _NEGLIGIBLE * epoch:
        return 0.0
    return max(0.0, min(took, epoch - _PAUSE * took))


def next_due(due: float, started: float, epoch: float) -> float:
    """Return when the epoch after one that was ``due`` and ``started`` is due.

    An epoch that starts a whole epoch late moves all that follow; missed ones are not made up.
    """
    return (due if started - due < epoch else started) + epoch
