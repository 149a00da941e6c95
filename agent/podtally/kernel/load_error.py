# SPDX-License-Identifier: Apache-2.0
"""The error of programs that do not compile or load: its cause, and where the whole log is."""

import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

from podtally.errors import PodtallyError

LOG_NAME = "load-failure.log"  # in the state directory: one, however often the agent is restarted

_TAIL = 6  # lines of the log that the error shows
_WIDTH = 160  # of these, in characters
_PROGRAM = re.compile(r"the program (\w+)")


def load_error(source: str, output: str, keep: Path | None = None) -> PodtallyError:
    """Make the error of what a loader process wrote; a long log is kept in a file.

    ``keep`` is that file; without it, or if it cannot be written, one is made where temporary
    files are.
    """
    lines = [line.rstrip() for line in output.splitlines() if line.strip()]
    what = f"cannot load {source}: {cause(lines)}"
    if len(lines) <= 1:
        return PodtallyError(what, "`podtally doctor` checks what a host needs")
    tail = [line[:_WIDTH] for line in _shown(lines)]
    path = _write(output, keep)
    where = f"the whole log is {path}" if path else "the log could not be kept"
    return PodtallyError(what, "\n    ".join([f"{where}, which ends", *tail]))


def cause(lines: list[str]) -> str:
    """Return the verifier's verdict, the compiler's first error, or else the last line."""
    if not lines:
        return "the loader ended without a word"
    sums = _verdict_ends(lines)
    if sums:
        program = _PROGRAM.search(lines[-1])
        name = program.group(1) if program else "a program"
        return f"the kernel's verifier refuses {name}: {lines[sums - 1].strip()}"
    error = next((line for line in lines if ": error: " in line or "fatal error: " in line), None)
    return f"it does not compile: {error.strip()}" if error else lines[-1].strip()


def _verdict_ends(lines: list[str]) -> int:
    """The index of the verifier's sums, which follow its verdict; 0 if there are none."""
    found = (at for at, line in enumerate(lines) if line.startswith("processed "))
    return max(found, default=0)


def _shown(lines: list[str]) -> list[str]:
    end = _verdict_ends(lines) or len(lines)
    return lines[:end][-_TAIL:]


def _write(output: str, keep: Path | None) -> Path | None:
    if keep is not None:
        with suppress(OSError):
            beside = keep.with_name(f"{keep.name}.new")
            beside.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(beside, flags, 0o600), "w") as file:
                file.write(output)
            beside.replace(keep)
            return keep
    with (
        suppress(OSError),
        tempfile.NamedTemporaryFile(
            "w", prefix="podtally-load-", suffix=".log", delete=False
        ) as file,
    ):
        file.write(output)
        return Path(file.name)
    return None
