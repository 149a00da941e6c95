# SPDX-License-Identifier: Apache-2.0
"""Reports when a file is made in one of a few directories; Linux's inotify(7), nothing kept."""

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

_IN_CREATE = 0x100
_IN_MOVED_TO = 0x80
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)


class NewFiles:
    """Readable when something was made since the last ``clear()``."""

    def __init__(self, directories: Iterable[Path]) -> None:
        self._fd = _check(_libc.inotify_init1(_FLAGS), "inotify_init1")
        self._directories = tuple(directories)
        self._watch()

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)

    def clear(self) -> None:
        """Discard what was reported, and watch directories that are new."""
        try:
            while os.read(self._fd, 1 << 16):
                pass
        except BlockingIOError:
            pass
        self._watch()

    def _watch(self) -> None:
        """Watch each directory; of one that is missing, its parent, until it is made."""
        for directory in self._directories:
            place = directory if directory.is_dir() else directory.parent
            if place.is_dir():
                name = os.fsencode(place)
                mask = _IN_CREATE | _IN_MOVED_TO
                _check(_libc.inotify_add_watch(self._fd, name, mask), f"watching {place}")


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return int(result)
