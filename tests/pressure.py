# SPDX-License-Identifier: Apache-2.0
"""Time as a test may judge it: without that in which the machine was short of CPU."""

import time
from pathlib import Path

_PRESSURE = Path("/proc/pressure/cpu")  # Documentation/accounting/psi.rst


def stalled_seconds() -> float:
    """Return how long, since boot, some task has waited for a CPU; 0 without PSI."""
    try:
        some = _PRESSURE.read_text().splitlines()[0]
    except OSError:
        return 0.0
    return int(some.rpartition("total=")[2]) / 1e6


class Stopwatch:
    """Runs from where it is made."""

    def __init__(self) -> None:
        self._stalled = stalled_seconds()
        self._began = time.monotonic()

    def unhindered(self) -> float:
        """Return the seconds in which no task waited for a CPU: what is held against a promise."""
        elapsed = time.monotonic() - self._began
        return max(0.0, elapsed - (stalled_seconds() - self._stalled))
