# SPDX-License-Identifier: Apache-2.0
"""Ends the demo on a signal."""

import signal
import time
from types import FrameType

_STEP_SECONDS = 0.1


class Stop:
    """A flag that Ctrl-C, SIGTERM and SIGHUP set: no step is interrupted halfway."""

    def __init__(self) -> None:
        self.requested = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._set)

    def _set(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True

    def pause(self, seconds: float) -> None:
        """Sleep until the time is over or a signal arrives."""
        end = time.monotonic() + seconds
        while not self.requested and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _STEP_SECONDS))
