# SPDX-License-Identifier: Apache-2.0
"""Mounts tracefs where a test needs it, for as long as the test."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from podtally.kernel.tracepoints import TRACEFS


@contextmanager
def tracefs() -> Iterator[None]:
    if (TRACEFS[0] / "events").is_dir():
        yield
        return
    subprocess.run(["mount", "-t", "tracefs", "tracefs", TRACEFS[0]], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", TRACEFS[0]], check=True)
