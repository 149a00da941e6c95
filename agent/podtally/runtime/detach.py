# SPDX-License-Identifier: Apache-2.0
"""Detaches the programs, books what they counted, and removes all pins."""

import glob
import os
import shutil
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from podtally.attach.attacher import Attacher
from podtally.config import Config
from podtally.errors import PodtallyError
from podtally.identity.local.directory import Directory
from podtally.kernel.account_map import AccountMap
from podtally.kernel.load_error import LOG_NAME
from podtally.kernel.pins import Generation, Pins
from podtally.kernel.table import open_table
from podtally.ledger.checkpoint.checkpoint import Checkpoint, CheckpointError, Parts, Position
from podtally.ledger.checkpoint.saved import SavedError
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.netlink.model import Attachment
from podtally.runtime.bring_up import make_ledger
from podtally.runtime.epoch_inputs import EpochInputs
from podtally.runtime.extras import Extras, extras_of
from podtally.runtime.generations import settled
from podtally.runtime.journal import Journal
from podtally.runtime.last_checkpoint import boot_id, position_at
from podtally.runtime.state_directory import StateDirectory
from podtally.web.unix_socket import API_SOCKET

_STATE_FILES = ("checkpoint", "checkpoint.new", "clsact", API_SOCKET, LOG_NAME)


def detach(config: Config) -> list[Attachment]:
    """Remove podtally's programs and pins from this host; return what was attached."""
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


def purge(config: Config) -> list[Path]:
    """Remove what agents leave in the state directory, and the history, and return it.

    Nothing of others. The directories go as well if they are empty then, and no mount points.
    """
    return _purge_state(config.state_dir) + _purge_history(config)


def _purge_history(config: Config) -> list[Path]:
    """Remove the history's file, and those that belong to it."""
    file = config.history.file
    if not config.history.is_on or not file.parent.is_dir():
        return []
    removed = sorted(file.parent.glob(f"{glob.escape(file.name)}*"))
    for path in removed:
        path.unlink()
    with suppress(OSError):
        file.parent.rmdir()
        removed.append(file.parent)
    return removed


def _purge_state(state: Path) -> list[Path]:
    if not state.is_dir():
        return []
    removed = []
    with closing(StateDirectory(state)):
        for name in _STATE_FILES:
            path = state / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif os.path.lexists(path):
                path.unlink()
            else:
                continue
            removed.append(path)
        with suppress(OSError):
            state.rmdir()
            removed.append(state)
    return removed


def _position(checkpoint: Checkpoint) -> Position | None:
    read = _read(checkpoint)
    return read[0] if read is not None else None


def _read(checkpoint: Checkpoint) -> tuple[Position, Parts] | None:
    """Return the checkpoint; None without one of this boot."""
    try:
        read = checkpoint.read()
    except CheckpointError as error:
        raise _unusable(checkpoint, error) from None
    return read if read is not None and read[0].boot_id == boot_id() else None


def _unusable(checkpoint: Checkpoint, error: Exception) -> PodtallyError:
    return PodtallyError(f"the checkpoint {checkpoint.path} cannot be used: {error}", "remove it")


def _book_the_rest(config: Config, generation: Generation, checkpoint: Checkpoint) -> None:
    """Book what no agent has read yet; no program may write any more."""
    read = _read(checkpoint)
    if read is None:
        return
    before, parts = read
    ledger, directory = make_ledger(config, generation), Directory((), {})
    now_ns = time.monotonic_ns()
    try:
        ledger.load(parts, now_ns)
        saved = extras_of(parts)
    except SavedError as error:
        raise _unusable(checkpoint, error) from None
    directory.restore(saved.residents, saved.known_ns)
    directory.refresh(now_ns)
    extras = Extras(directory.interface_endpoints(), saved.own_metrics, saved.known_ns)

    inputs = EpochInputs(EpochContext(directory.names, now_ns))
    with closing(open_table(generation)) as table, closing(AccountMap(generation)) as accounts:
        journal = Journal(table, accounts, ledger, checkpoint)
        at_rest = journal.recover(before, position_at(generation, 0))
        if at_rest is not None:
            journal.book(at_rest, inputs)
            journal.commit(position_at(generation, 0), extras)
        journal.book(journal.flip(), inputs)
        here = position_at(generation, table.epoch)
    # All of it is booked, and this says so until the maps are gone; then no maps match it.
    checkpoint.write(here, ledger.save() | extras.save())
