# SPDX-License-Identifier: Apache-2.0
"""The agent's Unix socket: where it lies, and names for it that fit into an address."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

API_SOCKET = "api.sock"  # in the state directory


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Yield a name of ``path`` for bind() or connect(), whose addresses end at 107 bytes
    (unix(7)): by way of its directory's descriptor. OSError where there is no such directory.
    """
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
