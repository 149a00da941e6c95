"""Brings the kernel's side into being at start-up: takes over what is pinned, or has it compiled.

Where pinned programs have another source, other options or another layout, the new
ones are pinned beside them first; ``Installed.before`` is then the generation whose
place they take, once they are attached everywhere and it is drained.
"""

import logging
import time
from typing import NamedTuple

from podtally.config import Config
from podtally.kernel.job import flow_job, run_loader
from podtally.kernel.load_error import LOG_NAME
from podtally.kernel.pins import Generation, Options, Pins, digest, slots_for

log = logging.getLogger(__name__)

INTERFACES = 8192  # as many as one host's kubelet or a large hypervisor could have, and more


class Installed(NamedTuple):
    current: Generation
    before: Generation | None
    compiled: bool


def options_of(config: Config) -> Options:
    return Options(slots=slots_for(config.max_flows), books=2 * INTERFACES + 2)


def install(pins: Pins, config: Config, booked_generation: str | None) -> Installed:
    """Make the programs that ``config`` asks for be there, pinned.

    ``booked_generation`` is the checkpoint's: a successor that it names is drained into
    already, and only has to be put in place.
    """
    options = options_of(config)
    wanted = digest(options)
    current, successor = settled(pins, booked_generation)
    compiled = False
    if successor is None and (current is None or current.about.digest != wanted):
        started = time.monotonic()
        log.info("compiling the kernel programs (%d slots)", options.slots)
        known_secrets = current.about.secrets if current else None
        run_loader(flow_job(options, pins.next, known_secrets), config.state_dir / LOG_NAME)
        log.info("compiled and loaded in %.1f s", time.monotonic() - started)
        successor, compiled = pins.successor(), True
    if successor is None:
        assert current is not None
        log.info("taking over the pinned kernel programs")
        return Installed(current, None, compiled)
    if current is None:
        return Installed(pins.promote(), None, compiled)
    return Installed(successor, current, compiled)


def settled(
    pins: Pins, booked_generation: str | None
) -> tuple[Generation | None, Generation | None]:
    """Finish a change of generations that an earlier start did not live to finish."""
    current, successor = pins.current(), pins.successor()
    if successor is not None:
        half_done = not (pins.next / "progs").is_dir()
        if half_done or booked_generation == successor.about.generation:
            return pins.promote(), None
    else:
        pins.discard_successor()  # what a loader left that was stopped
    return current, successor
