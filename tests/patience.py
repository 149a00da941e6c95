# SPDX-License-Identifier: Apache-2.0
"""How long tests wait: a multiple on a slow machine, such as an emulated one."""

import os
import time

FACTOR = float(os.environ.get("PODTALLY_TEST_PATIENCE", "1"))


def deadline(seconds: float) -> float:
    """Return when, by ``time.monotonic()``, a wait of that many ordinary seconds is over."""
    return time.monotonic() + FACTOR * seconds
