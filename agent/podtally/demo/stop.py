# SPDX-License-Identifier: Apache-2.0
"""Whether somebody has asked the demo to end."""

import signal
import time
from types import FrameType

_STEP_SECONDS = 0.1


class Stop:
    """Set by Ctrl-C and its like; the handler only sets the flag, so no step is cut in two."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True

    def pause(self, seconds: float) -> None:
        """Sleep, but not past a signal."""
        end = time.monotonic() + seconds
        while not self.asked and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _STEP_SECONDS))
