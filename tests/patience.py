# SPDX-License-Identifier: Apache-2.0
"""How long a test waits for what must come: on a slow machine, such as an emulated one, a multiple."""

import os
import time

FACTOR = float(os.environ.get("PODTALLY_TEST_PATIENCE", "1"))


def deadline(seconds: float) -> float:
    """Return when, by ``time.monotonic()``, a wait of that many ordinary seconds is over."""
    return time.monotonic() + FACTOR * seconds
