# SPDX-License-Identifier: Apache-2.0
"""Opens and locks the state directory, and makes it again if it is removed."""

import os
from pathlib import Path

from podtally.errors import PodtallyError
from podtally.kernel.pins import lock_directory


class StateDirectory:
    """Holds the lock for as long as it is open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _locked(path)

    def close(self) -> None:
        os.close(self._lock)

    def restore(self) -> bool:
        """Make the directory again if it is gone or replaced; return whether it was."""
        try:
            if os.path.samestat(os.stat(self.path), os.fstat(self._lock)):
                return False
        except FileNotFoundError:
            pass
        fresh = _locked(self.path)
        os.close(self._lock)
        self._lock = fresh
        return True


def _locked(path: Path) -> int:
    """Make, open and lock the directory; PodtallyError if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o750)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise PodtallyError(
            f"cannot make the state directory {path}: {error.strerror}", "check --state-dir"
        ) from None
    try:
        if not os.access(path, os.W_OK):
            raise PodtallyError(f"cannot write to the state directory {path}", "check --state-dir")
        lock_directory(fd, f"the state directory {path}", "--state-dir")
    except PodtallyError:
        os.close(fd)
        raise
    return fd
