# SPDX-License-Identifier: Apache-2.0
"""The agent's Unix socket: its path, and a short name for it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

API_SOCKET = "api.sock"  # in the state directory


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Yield a short name of ``path``, by its directory's descriptor: socket addresses have at
    most 107 bytes (unix(7)). OSError if there is no such directory.
    """
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
