# SPDX-License-Identifier: Apache-2.0
"""Reads the checkpoint that the last agent left, and puts one aside that cannot be used."""

import logging
from pathlib import Path

from podtally.kernel.pins import Generation
from podtally.ledger.checkpoint.checkpoint import Checkpoint, CheckpointError, Parts, Position

log = logging.getLogger(__name__)


def boot_id(proc: Path = Path("/proc")) -> str:
    return (proc / "sys/kernel/random/boot_id").read_text().strip()


def position_at(generation: Generation, epoch: int) -> Position:
    return Position(boot_id(), generation.about.generation, epoch)


def read_checkpoint(checkpoint: Checkpoint) -> tuple[Position | None, Parts | None]:
    """Return the checkpoint of this boot; one that cannot be used is put aside."""
    try:
        read = checkpoint.read()
    except CheckpointError as error:
        put_aside(checkpoint, str(error))
        return None, None
    if read is None:
        return None, None
    if read[0].boot_id != boot_id():
        log.info("the checkpoint is from before the last boot: the books restart from zero")
        return None, None
    return read


def put_aside(checkpoint: Checkpoint, why: str) -> None:
    log.error(
        "the checkpoint cannot be used: %s; it is now %s, and the sums restart from what the "
        "kernel holds",
        why,
        checkpoint.put_aside(),
    )
