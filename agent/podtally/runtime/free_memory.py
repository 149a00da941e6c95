# SPDX-License-Identifier: Apache-2.0
"""Gives memory that is free back to the kernel."""

import ctypes
from collections.abc import Callable


def _trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library than glibc
        return None
    return found


def return_free_memory() -> None:
    """Give back what large arrays left behind: glibc keeps it, as its thresholds grow with them."""
    trim = _trim()
    if trim is not None:
        trim(0)
