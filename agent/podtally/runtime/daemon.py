# SPDX-License-Identifier: Apache-2.0
"""Runs the agent as a process: a start, signals, the service manager, reloads.

A start goes in four steps (``_RunningAgent``; docs/architecture.md). What books is imported in the
third, when packets are counted already: it takes longer than the rest together.

A reload replaces the configuration in the same process: the kernel keeps counting, and the
next epoch books what it counted. A configuration that cannot be used changes nothing.
"""

import gc
import logging
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack

from podtally.config import Config
from podtally.config.settings import RESTART_ONLY
from podtally.errors import PodtallyError
from podtally.kernel import capabilities
from podtally.kernel.preload import Preload
from podtally.runtime.counting import Counting
from podtally.runtime.opening import Opening
from podtally.runtime.sd_notify import ServiceManager
from podtally.supervision.conditions import Condition

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


class Signals:
    """SIGTERM and SIGINT end the agent, SIGHUP reloads it; all of them end its loop."""

    def __init__(self) -> None:
        self.woken = threading.Event()
        self.is_stopped = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        signal.signal(signal.SIGHUP, lambda *_: self.woken.set())

    def _end(self, *_: object) -> None:
        self.is_stopped = True
        self.woken.set()


def run(config: Config, read_again: Callable[[], Config], preload: Preload | None = None) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code."""
    capabilities.require()
    service, signals = ServiceManager(), Signals()
    service.status("starting")
    try:
        try:
            running = _RunningAgent(config, service, preload)
        finally:
            if preload is not None:
                preload.close()
        while running.until(signals):
            service.reloading()
            running = running.reloaded(read_again, signals)
            gc.collect()  # unmaps the tables of the agent before
    finally:
        service.close()
    log.info("stopped; the kernel programs stay attached and keep counting")
    return 0


class _RunningAgent:
    """An agent and its configuration."""

    def __init__(
        self, config: Config, service: ServiceManager, preload: Preload | None = None
    ) -> None:
        self._config, self._service = config, service
        with ExitStack() as opened:
            try:
                opening = Opening(config)  # clients get "starting: ..."
                opened.callback(opening.close)
                counting = Counting(config, opening, preload)  # packets count from here on
                opened.callback(counting.close)

                from podtally.runtime.bring_up import bring_up
                from podtally.runtime.epoch_loop import EpochLoop
                from podtally.runtime.prepared_resources import PreparedResources

                resources = PreparedResources(config, opening)
                opened.callback(resources.close)
                self._components = bring_up(config, resources, counting)
                opened.callback(self._components.close)
                self._loop = EpochLoop(config, resources, self._components, service)
            except OSError as error:
                raise PodtallyError(f"cannot start: {error}") from error
            self._opened = opened.pop_all()
        service.ready(self._loop.status())

    def until(self, signals: Signals) -> bool:
        """Run epochs until a signal; return False if it ends the agent."""
        try:
            self._loop.run(signals.woken)
        except BaseException:
            self._close()
            raise
        if signals.is_stopped:
            self._service.stopping("stopping; the kernel programs keep counting")
            self._close()
            return False
        signals.woken.clear()
        return True

    def reloaded(self, read_again: Callable[[], Config], signals: Signals) -> "_RunningAgent":
        """Return the agent to go on with: with the new configuration, if it can be used."""
        try:
            config = read_again()
            _check(self._config, config)
        except PodtallyError as error:
            return self._kept(error)
        if config == self._config:
            self._components.sources.policies.reload()
            log.info("the configuration has not changed; policies are reloaded")
            self._service.ready(self._loop.status())
            return self
        log.info("the configuration has changed; the kernel keeps counting")
        self._close()
        try:
            return _RunningAgent(config, self._service)
        except PodtallyError as error:
            return self._again(signals)._kept(error)

    def _again(self, signals: Signals) -> "_RunningAgent":
        """Start with the old configuration, and retry until that works. The kernel counts."""
        trouble = Condition(log)
        while True:
            try:
                return _RunningAgent(self._config, self._service)
            except PodtallyError as error:
                trouble.met("cannot restart with the old configuration, retrying: %s", error)
                if signals.woken.wait(RETRY_SECONDS) and signals.is_stopped:
                    raise
                signals.woken.clear()
                self._service.beat()

    def _kept(self, error: PodtallyError) -> "_RunningAgent":
        log.error("the old configuration stays in force: %s", error)
        self._service.ready(self._loop.status())
        return self

    def _close(self) -> None:
        self._opened.close()


def _check(before: Config, now: Config) -> None:
    changed = [name for name in RESTART_ONLY if getattr(before, name) != getattr(now, name)]
    if changed:
        raise PodtallyError(
            f"{', '.join(changed)} cannot change while the agent runs",
            "restart the agent",
        )
