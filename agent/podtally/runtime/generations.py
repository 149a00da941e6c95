# SPDX-License-Identifier: Apache-2.0
"""Installs the kernel programs at start-up: uses the pinned ones, or loads new ones.

If pinned programs differ in source, options or layout, the new ones are pinned beside them
first. ``Installed.before`` is then the old generation: it is replaced once the new programs
are attached everywhere and the old table is drained.
"""

import logging
import time
from typing import NamedTuple

from podtally.config import Config
from podtally.kernel.flow_programs import compile_here, flow_job
from podtally.kernel.load_error import LOG_NAME
from podtally.kernel.loader import load, pin
from podtally.kernel.pins import Generation, Options, Pins, digest, slots_for
from podtally.kernel.preload import Preload

log = logging.getLogger(__name__)

INTERFACES = 8192  # more than the pods of a kubelet or the guests of a large hypervisor


class Installed(NamedTuple):
    current: Generation
    before: Generation | None
    is_loaded: bool  # by this start

    def goes_on_from(self, booked_generation: str) -> bool:
        """Return whether a checkpoint of that generation continues in these programs."""
        abouts = [each.about for each in (self.current, self.before) if each is not None]
        return any(booked_generation in (about.generation, about.follows) for about in abouts)


def options_of(config: Config) -> Options:
    return Options(
        slots=slots_for(config.max_flows), books=2 * INTERFACES + 2, dns_ports=config.dns_ports
    )


def install(
    pins: Pins, config: Config, booked_generation: str | None, preload: Preload | None = None
) -> Installed:
    """Pin the programs that ``config`` asks for, unless they are.

    ``booked_generation`` is the checkpoint's: if it names the successor, the old table is drained
    already, and the successor only has to be promoted.
    """
    options = options_of(config)
    wanted = digest(options)
    current, successor = settled(pins, booked_generation)
    is_loaded = False
    outdated = current is None or current.about.digest != wanted or current.missing_programs()
    if successor is None and outdated:
        started = time.monotonic()
        pinned = pins.current()  # its maps may be lost, its secrets are not
        known_secrets = pinned.about.secrets if pinned else None
        loaded = preload.take(options, known_secrets) if preload is not None else None
        if loaded is not None:
            pin(loaded, booked_generation or "")
            loaded.close()
        else:
            _load(pins, config, known_secrets, booked_generation or "")
        seconds = time.monotonic() - started
        log.info("loaded the kernel programs in %.2f s (%d slots)", seconds, options.slots)
        successor, is_loaded = pins.successor(), True
    if successor is None:
        assert current is not None
        log.info("using the pinned kernel programs")
        return Installed(current, None, is_loaded)
    if current is None:
        return Installed(pins.promote(), None, is_loaded)
    return Installed(successor, current, is_loaded)


def _load(pins: Pins, config: Config, known_secrets: tuple[int, ...] | None, follows: str) -> None:
    keep = config.state_dir / LOG_NAME
    compiled_here = None
    if config.compile:
        log.info("compiling the kernel programs")
        compiled_here = compile_here(keep=keep)
    load(flow_job(options_of(config), pins.next, known_secrets, follows, compiled_here), keep)


def preloaded(config: Config) -> Preload | None:
    """Begin to load what a start will need; None if it is to be compiled."""
    return None if config.compile else Preload(config.pin_dir, options_of(config))


def _whole(generation: Generation | None) -> Generation | None:
    """Return the generation if all of its maps are there: else its counts cannot be read."""
    missing = generation.missing_maps() if generation is not None else []
    if generation is None or not missing:
        return generation
    log.error(
        "%s under %s: what the kernel counted since the last checkpoint is lost; "
        "the programs are loaded again",
        f"the pinned map {missing[0]} is missing"
        if len(missing) == 1
        else f"the pinned maps {', '.join(missing)} are missing",
        generation.root,
    )
    return None


def settled(
    pins: Pins, booked_generation: str | None
) -> tuple[Generation | None, Generation | None]:
    """Finish a change of generations that an earlier start did not finish."""
    current, successor = pins.current(), _whole(pins.successor())
    if successor is not None:
        half_done = not (pins.next / "progs").is_dir()
        if half_done or booked_generation == successor.about.generation:
            return pins.promote(), None
    else:
        pins.discard_successor()  # left by a loader that was stopped
    if current is None and successor is None and (pins.root / "maps").is_dir():
        log.error("the maps under %s have no description: what they counted is lost", pins.root)
    return _whole(current), successor
