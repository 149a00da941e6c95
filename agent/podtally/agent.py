"""The daemon: puts the rooms together, turns the epoch loop, and stops when it is told to."""

import datetime
import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from podtally.config import Config
from podtally.epoch import NO_COUNTERS, Journal, Turned, UnwritableError, World
from podtally.errors import PodtallyError
from podtally.export.flowlog import FlowLog
from podtally.export.selfmetrics import SelfMetrics
from podtally.export.server import Health, Publisher, Server
from podtally.identity.directory import Directory
from podtally.install import Installed, install
from podtally.kernel import rights
from podtally.kernel.books import STRANGERS, KernelBooks
from podtally.kernel.pins import Generation, Pins
from podtally.kernel.table import open_table
from podtally.ledger.checkpoint import Checkpoint, CheckpointError, Contents, Position
from podtally.ledger.connections import Flags
from podtally.ledger.ledger import Ended, Ledger, Limits
from podtally.links.attach import Attacher
from podtally.links.model import Counters, Mode
from podtally.links.wanted import pod_interfaces
from podtally.links.watcher import LinkWatcher
from podtally.watch import Watch

log = logging.getLogger(__name__)

STUCK_AFTER_SECONDS = 30.0  # an epoch loop that has not turned for so long is not alive
EXPIRE_EVERY_NS = 10_000_000_000
FOREIGN_EVERY_NS = 30_000_000_000
CONNECTIONS_PER_FLOW = 2  # connections remembered, for each flow that an epoch can hold


def boot_id(proc: Path = Path("/proc")) -> str:
    return (proc / "sys/kernel/random/boot_id").read_text().strip()


def run(config: Config) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code."""
    rights.require()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    agent = Agent(config)
    try:
        agent.start()
        agent.loop(stop)
    finally:
        agent.close()
    log.info("stopped; the kernel programs stay attached and go on counting")
    return 0


class Agent:
    """One agent over one pin directory and one state directory."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._turned_at = time.monotonic()
        self._epochs = 0
        self._trouble = ""
        self._told = (0, 0)  # attach errors and resyncs that are in the metrics
        self._checkpoint = Checkpoint(_state_dir(config.state_dir))
        self._server = Server(config.listen_address())
        self._pins = Pins(config.pin_dir)
        self._flow_log = (
            FlowLog(config.flow_log, config.flow_log_max_bytes) if config.flow_log else None
        )
        self._metrics = SelfMetrics()
        self._watcher: LinkWatcher | None = None
        self._gone: dict[int, Counters | None] = {}

    def start(self) -> None:
        """Attach, book what the kernel holds from before, and begin to serve."""
        config = self._config
        before, contents = self._read_checkpoint()
        here = Position(boot_id(), "", 0)
        if before is not None and before.boot_id != here.boot_id:
            log.info("the checkpoint is from before the last boot: the books begin anew")
            before, contents = None, None
        installed = install(self._pins, config, before.generation if before else None)
        self._metrics.loader_runs.inc(installed.compiled)
        generation = installed.current
        self._here = Position(here.boot_id, generation.about.generation, 0)
        self._ledger = make_ledger(config, generation)
        self._directory = Directory(config.endpoints, config.networks)
        if contents is not None:
            contents.restore(self._ledger, time.monotonic_ns())
            self._directory.restore(contents.residents)
        self._watch = Watch(self._ledger, self._directory)
        self._books = KernelBooks(generation)
        self._books.open_accounts(STRANGERS)
        self._left_over = set(self._books.read().ifindex.tolist()) - {STRANGERS}
        self._table = open_table(generation)
        self._journal = Journal(self._table, self._books, self._ledger, self._checkpoint)
        self._attach(generation)
        if installed.before is not None:
            self._change_over(installed, before)
        else:
            self._recover(before)
        self._metrics.table_slots.set(self._table.slots)
        self._publisher = Publisher(self._ledger.view(), self._metrics, self._health)
        self._server.start(self._publisher)
        log.info("watching %d interfaces; %s", len(self._watch.interfaces), self._server.url)

    def loop(self, stop: threading.Event) -> None:
        """Turn an epoch every ``config.epoch`` seconds until ``stop`` is set."""
        due = time.monotonic() + self._config.epoch
        next_expiry = next_foreign = 0
        while not stop.wait(max(0.0, due - time.monotonic())):
            started = time.monotonic()
            self._metrics.epoch_lateness.observe(max(0.0, started - due))
            self._turn()
            now_ns = time.monotonic_ns()
            if now_ns >= next_expiry:
                self._ledger.expire(self._directory.names, now_ns)
                next_expiry = now_ns + EXPIRE_EVERY_NS
            if now_ns >= next_foreign:
                self._look_for_foreign_programs()
                next_foreign = now_ns + FOREIGN_EVERY_NS
            self._metrics.epoch_duration.observe(time.monotonic() - started)
            due = max(due + self._config.epoch, time.monotonic())

    def close(self) -> None:
        """Let go of everything but what counts in the kernel."""
        if self._watcher is not None:
            self._watcher.stop()
            self._attacher.close()
            self._watch.close()
        if self._flow_log is not None:
            self._flow_log.close()
        self._server.close()
        self._pins.close()

    # -- start-up ---------------------------------------------------------------------

    def _read_checkpoint(self) -> tuple[Position | None, Contents | None]:
        try:
            read = self._checkpoint.read()
        except CheckpointError as error:
            aside = self._checkpoint.put_aside()
            log.error(
                "the checkpoint cannot be used: %s; it is now %s, and the sums begin anew "
                "from what the kernel holds",
                error,
                aside,
            )
            return None, None
        return read if read is not None else (None, None)

    def _attach(self, generation: Generation) -> None:
        config = self._config
        self._attacher = Attacher(
            config.pin_dir, generation.program_fds(), config.attach, config.state_dir
        )
        self._watcher = LinkWatcher(
            self._attacher,
            pod_interfaces(config.interfaces),
            self._books.open_accounts,
            self._watch.events,
        )
        self._watcher.start()
        self._watch.take_events()
        self._watch.forget_absent()
        self._watch.look_for_processes()
        self._watch.refresh_names()

    def _recover(self, before: Position | None) -> None:
        try:
            turned = self._journal.recover(before, self._here, self._look_back)
        except UnwritableError as error:
            raise self._unwritable(error) from None
        if turned.flows:
            log.info("booked %d flows that the kernel held from before", turned.flows)

    def _change_over(self, installed: Installed, before: Position | None) -> None:
        """Book all that the generation before has counted, then put ours in its place."""
        assert installed.before is not None
        old, layout = installed.before, installed.before.about
        log.info("the kernel programs have changed: booking what the old ones counted")
        old_table, old_books = open_table(old), KernelBooks(old)
        journal = Journal(old_table, old_books, self._ledger, self._checkpoint)
        here = Position(self._here.boot_id, layout.generation, 0)
        try:
            journal.recover(before, here, self._look_at_names)
            ended = journal.drain(self._look_at_names)
            self._ledger.forget_kernel_accounts()
            position = Position(self._here.boot_id, self._here.generation, self._table.epoch)
            self._checkpoint.write(position, self._ledger, self._directory.residents())
        except (UnwritableError, OSError) as error:
            raise self._unwritable(error) from None
        self._pins.promote()
        self._write_flow_log(ended)

    def _look_back(self) -> World:
        """The world for what was counted before this start."""
        return World(
            self._directory.names,
            self._watch.counters({}),
            (),
            time.monotonic_ns(),
            self._directory.residents(),
        )

    def _look_at_names(self) -> World:
        """The same without counters: they hold, too, what is in the table that comes next."""
        return self._look_back()._replace(counters=NO_COUNTERS)

    def _unwritable(self, error: Exception) -> PodtallyError:
        return PodtallyError(
            f"cannot write the checkpoint {self._checkpoint.path}: {error}; "
            "nothing is lost, the kernel goes on counting",
            "make room there, or choose another --state-dir",
        )

    # -- one epoch --------------------------------------------------------------------

    def _turn(self) -> None:
        if self._journal.blocked:
            self._guarded(lambda: self._journal.retry(self._here, self._directory.residents()))
            return
        self._watch.take_events()
        self._gone = self._watch.take_gone()
        self._swap_started = time.monotonic()
        self._guarded(lambda: self._journal.turn(self._here, self._look))

    def _look(self) -> World:
        """The world at the end of an epoch: what appeared meanwhile is taken in, what went
        since the flip has another epoch to come.
        """
        self._metrics.swap.observe(time.monotonic() - self._swap_started)
        self._watch.take_events()
        self._watch.look_for_processes()
        self._watch.refresh_names()
        return World(
            self._directory.names,
            self._watch.counters(self._gone),
            tuple(self._gone),
            time.monotonic_ns(),
            self._directory.residents(),
        )

    def _guarded(self, step: Callable[[], Turned]) -> None:
        try:
            turned = step()
        except UnwritableError as error:
            self._metrics.checkpoint_errors.inc()
            if not self._trouble:
                log.error(
                    "cannot write the checkpoint %s: %s; nothing is lost: the kernel goes on "
                    "counting, and is booked when there is room",
                    self._checkpoint.path,
                    error,
                )
            self._trouble = f"the checkpoint cannot be written: {error}"
            self._turned_at = time.monotonic()
            return
        if self._trouble:
            log.info("the checkpoint is written again")
            self._trouble = ""
        self._after(turned)

    def _after(self, turned: Turned) -> None:
        """What follows a turn that is written down."""
        for ifindex in [*self._gone, *self._strays()]:
            self._books.close_accounts(ifindex)
            self._ledger.kernel_account_closed(ifindex)
        self._gone = {}
        self._publisher.publish(self._ledger.view())
        self._write_flow_log(turned.ended)
        self._tell(turned)
        self._epochs += 1
        self._turned_at = time.monotonic()

    def _strays(self) -> list[int]:
        """Interfaces that went while no agent was there; after this epoch they are done with."""
        strays = [i for i in self._ledger.interfaces.strays() if i != STRANGERS]
        for ifindex in strays:
            self._ledger.let_go(ifindex)
        left, self._left_over = self._left_over, set()
        return [*strays, *(left - self._watch.interfaces.keys())]

    def _write_flow_log(self, ended: list[Ended]) -> None:
        if self._flow_log is None or not ended:
            return
        now = datetime.datetime.now(datetime.UTC)
        try:
            self._flow_log.write(ended, time.monotonic_ns(), now)
        except OSError as error:
            self._metrics.flow_log_errors.inc()
            log.error("cannot write the flow log: %s", error)

    def _tell(self, turned: Turned) -> None:
        metrics, watcher = self._metrics, self._watcher
        assert watcher is not None
        metrics.checkpoint_written(turned.checkpoint_bytes)
        metrics.epoch_flows.set(turned.flows)
        metrics.table_fill.set(turned.flows / self._table.slots)
        metrics.connections.set(len(self._ledger.connections))
        metrics.unnamed.set(len(self._directory.unnamed()))
        modes = Counter(self._watch.modes())
        for mode in Mode:
            metrics.attached.labels(mode.value).set(modes[mode.value])
        metrics.attach_errors.inc(watcher.attach_errors - self._told[0])
        metrics.resyncs.inc(watcher.resyncs - self._told[1])
        self._told = (watcher.attach_errors, watcher.resyncs)

    def _look_for_foreign_programs(self) -> None:
        self._metrics.foreign.clear()
        for ifindex, watched in list(self._watch.interfaces.items()):
            try:
                found = self._attacher.foreign(ifindex)
            except OSError:  # it goes just now; Gone follows
                continue
            for program in found:
                if program.before_ours:
                    self._metrics.foreign.labels(watched.name, program.hook.value).inc()

    def _health(self) -> Health:
        still = time.monotonic() - self._turned_at
        alive = ""
        if still > max(STUCK_AFTER_SECONDS, 5 * self._config.epoch):
            alive = f"no epoch for {still:.0f} s"
        elif self._watcher is None or not self._watcher.alive:
            alive = "the thread that follows the links has died"
        return Health(alive, self._trouble or ("" if self._epochs else "no epoch is booked yet"))


def _state_dir(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o750)
    except OSError as error:
        raise PodtallyError(
            f"cannot make the state directory {path}: {error.strerror}", "check --state-dir"
        ) from None
    if not os.access(path, os.W_OK):
        raise PodtallyError(f"cannot write to the state directory {path}", "check --state-dir")
    return path


def make_ledger(config: Config, generation: Generation) -> Ledger:
    layout = generation.about.layout
    limits = Limits(
        series=config.series_limit,
        connections=CONNECTIONS_PER_FLOW * config.max_flows,
        grace_ns=int(config.series_grace * 1e9),
    )
    flags = Flags(layout.seen_shift, layout.seen_syn_only, layout.seen_syn_ack)
    return Ledger(flags, limits, keep_ended=config.flow_log is not None)
