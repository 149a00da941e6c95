"""Ends the counting: programs off, what they counted booked, nothing left pinned."""

import logging
import time

import numpy as np

from podtally.agent import boot_id, make_ledger
from podtally.config import Config
from podtally.epoch import Counters, Journal, World
from podtally.errors import PodtallyError
from podtally.identity.directory import Directory
from podtally.kernel.books import KernelBooks
from podtally.kernel.pins import Generation, Pins
from podtally.kernel.table import open_table
from podtally.ledger.checkpoint import Checkpoint, CheckpointError, Position
from podtally.links.attach import Attacher
from podtally.links.model import Attachment

log = logging.getLogger(__name__)

NOTHING_PINNED = ""  # the generation of a checkpoint that no maps belong to


def detach(config: Config) -> list[Attachment]:
    """Take everything of ours off this host; returns what was attached."""
    pins = Pins(config.pin_dir)
    try:
        attacher = Attacher(config.pin_dir, {}, state_dir=config.state_dir)
        removed = attacher.detach_all()
        attacher.close()
        for generation in (pins.current(), pins.successor()):
            if generation is not None:
                _book_the_rest(config, generation)
        pins.remove_all()
    finally:
        pins.close()
    return removed


def _book_the_rest(config: Config, generation: Generation) -> None:
    """Book what no agent has read yet, if there is a checkpoint that it can be added to."""
    checkpoint = Checkpoint(config.state_dir)
    try:
        read = checkpoint.read()
    except CheckpointError as error:
        raise PodtallyError(
            f"the checkpoint {checkpoint.path} cannot be used: {error}", "remove it"
        ) from None
    if read is None or read[0].boot_id != boot_id():
        return
    before, contents = read
    ledger, directory = make_ledger(config, generation), Directory((), {})
    contents.restore(ledger, time.monotonic_ns())
    directory.restore(contents.residents)
    directory.refresh(time.monotonic_ns())
    nobody = Counters(np.zeros(0, np.int64), np.zeros((0, 2), np.int64))

    def look() -> World:
        now = time.monotonic_ns()
        return World(directory.names, nobody, (), now, directory.residents())

    journal = Journal(open_table(generation), KernelBooks(generation), ledger, checkpoint)
    journal.recover(before, Position(before.boot_id, generation.about.generation, 0), look)
    journal.drain(look)
    ledger.forget_kernel_accounts()
    checkpoint.write(Position(before.boot_id, NOTHING_PINNED, 0), ledger, directory.residents())
