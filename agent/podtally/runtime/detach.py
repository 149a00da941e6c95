# SPDX-License-Identifier: Apache-2.0
"""Ends the counting: programs off, what they counted booked, nothing left pinned."""

import time
from contextlib import ExitStack

from podtally.attach.attacher import Attacher
from podtally.config import Config
from podtally.errors import PodtallyError
from podtally.identity.directory import Directory
from podtally.kernel.account_map import AccountMap
from podtally.kernel.pins import Generation, Pins
from podtally.kernel.table import Table, open_table
from podtally.ledger.checkpoint import Checkpoint, CheckpointError, Contents, Extras, Position
from podtally.ledger.epoch_context import EpochContext
from podtally.netlink.model import Attachment
from podtally.runtime.bring_up import boot_id, make_ledger
from podtally.runtime.generations import settled
from podtally.runtime.journal import NO_COUNTERS, EpochInputs, Journal
from podtally.runtime.state_directory import StateDirectory


def detach(config: Config) -> list[Attachment]:
    """Take everything of ours off this host; returns what was attached."""
    with ExitStack() as opened:
        pins = Pins(config.pin_dir)
        opened.callback(pins.close)
        if config.state_dir.is_dir():
            opened.callback(StateDirectory(config.state_dir).close)
        checkpoint = Checkpoint(config.state_dir)
        before = _position(checkpoint)
        attacher = Attacher(config.pin_dir, {}, state_dir=config.state_dir)
        removed = attacher.detach_all()
        attacher.close()
        found = settled(pins, before.generation if before else None)
        generations = [each for each in found if each is not None]
        abouts = [each.about for each in generations]
        ours = [name for about in abouts for name in (about.generation, about.follows)]
        for generation in generations:
            if before is not None and before.generation in ours:
                _book_the_rest(config, generation, checkpoint)
        pins.remove_all()
    return removed


def _position(checkpoint: Checkpoint) -> Position | None:
    read = _read(checkpoint)
    return read[0] if read is not None else None


def _read(checkpoint: Checkpoint) -> tuple[Position, Contents] | None:
    """What can be added to: None if there is nothing, or it is from before the last boot."""
    try:
        read = checkpoint.read()
    except CheckpointError as error:
        raise PodtallyError(
            f"the checkpoint {checkpoint.path} cannot be used: {error}", "remove it"
        ) from None
    return read if read is not None and read[0].boot_id == boot_id() else None


def _book_the_rest(config: Config, generation: Generation, checkpoint: Checkpoint) -> None:
    """Book what no agent has read yet; no program writes any more."""
    read = _read(checkpoint)
    if read is None:
        return
    before, contents = read
    ledger, directory = make_ledger(config, generation), Directory((), {})
    now_ns = time.monotonic_ns()
    contents.restore(ledger, now_ns)
    directory.restore(contents.extras.residents, contents.extras.known_ns)
    directory.refresh(now_ns)
    known_ns = contents.extras.known_ns
    extras = Extras(directory.residents(), contents.extras.own_metrics, known_ns)

    def look(_: Table) -> EpochInputs:
        return EpochInputs(EpochContext(directory.names, now_ns), NO_COUNTERS, (), extras)

    table = open_table(generation)
    journal = Journal(table, AccountMap(generation), ledger, checkpoint)
    journal.recover(before, Position(before.boot_id, generation.about.generation, 0), look)
    journal.drain(look)
    # All of it is booked, and this says so until the maps are gone; then no maps match it.
    here = Position(before.boot_id, generation.about.generation, table.epoch)
    checkpoint.write(here, ledger, extras)
