# SPDX-License-Identifier: Apache-2.0
"""What a loader process is asked to do, and running one."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from podtally.errors import PodtallyError
from podtally.kernel import abi, pins
from podtally.kernel.load_error import load_error

TIMEOUT_SECONDS = 600.0  # compiling takes some 5 s of CPU: on a starved host that may be minutes


class CompileJob(msgspec.Struct, frozen=True):
    """Compile ``source`` with ``defines``; pin ``programs`` and ``maps`` into ``into``."""

    source: str
    defines: dict[str, str]
    programs: tuple[str, ...]
    maps: tuple[str, ...]
    into: str  # a directory on a bpffs, which is made: progs/ and maps/ in it
    about: pins.About | None = None  # given: the layout is checked, and this pinned last


def flow_job(
    options: pins.Options,
    into: Path,
    known_secrets: tuple[int, ...] | None = None,
    follows: str = "",
) -> CompileJob:
    """The job that makes podtally's own programs; ``follows`` is the checkpoint's generation.

    Fingerprints are kept over an upgrade by passing the secrets of the generation
    before: connections are joined to their past by them.
    """
    words = known_secrets
    if words is None or len(words) != pins.SECRETS:
        words = tuple(secrets.randbits(64) | i & 1 for i in range(pins.SECRETS))
    about = pins.About(
        generation=secrets.token_hex(8),
        digest=pins.digest(options),
        options=options,
        secrets=words,
        header=abi.HEADER.read_text(),
        follows=follows,
    )
    return CompileJob(
        source=str(abi.BPF_DIR / "podtally.c"),
        defines={
            "SLOTS": str(options.slots),
            "BOOKS": str(options.books),
            **{f"SECRET_{i}": f"{word}ULL" for i, word in enumerate(words)},
        },
        programs=pins.PROGRAMS,
        maps=pins.MAPS,
        into=str(into),
        about=about,
    )


def run_loader(job: CompileJob, keep: Path | None = None) -> None:
    """Run ``job`` in a loader process; on failure nothing of it stays pinned.

    Raises PodtallyError. A long log of the compiler or the verifier goes to the file ``keep``.
    """
    into = Path(job.into)
    if into.is_dir():
        shutil.rmtree(into)
    try:
        result = subprocess.run(
            [sys.executable, "-m", "podtally.kernel.loader", str(os.getpid())],
            input=msgspec.json.encode(job),
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        _discard(into)
        raise PodtallyError(
            f"compiling {job.source} took longer than {TIMEOUT_SECONDS:.0f} s",
            "look for a host short of CPU or memory",
        ) from None
    if result.returncode:
        _discard(into)
        if result.returncode == -signal.SIGXCPU:
            raise PodtallyError(f"compiling {job.source} took more CPU than it ever needs")
        said = result.stderr.decode(errors="replace").strip() or f"exit {result.returncode}"
        raise load_error(job.source, said, keep)


def _discard(directory: Path) -> None:
    if directory.is_dir():
        shutil.rmtree(directory)
