# SPDX-License-Identifier: Apache-2.0
"""Memory between used parts of the heap goes back to the kernel."""

import ctypes
from pathlib import Path

import pytest

from podtally.runtime.free_memory import return_free_memory

PARTS, PART_BYTES = 512, 64 << 10  # below the least size that malloc maps by itself


def resident_kb() -> int:
    status = Path("/proc/self/status").read_text()
    [line] = [each for each in status.splitlines() if each.startswith("RssAnon:")]
    return int(line.split()[1])


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library has no malloc_trim"
)
def test_holes_in_the_heap_go_back() -> None:
    parts = [bytearray(b"x" * PART_BYTES) for _ in range(PARTS)]
    del parts[1::2]
    before = resident_kb()
    return_free_memory()
    returned = (before - resident_kb()) << 10
    assert returned > PARTS * PART_BYTES // 4
    assert all(each == b"x" * PART_BYTES for each in parts)
