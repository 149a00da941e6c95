# SPDX-License-Identifier: Apache-2.0
"""Chooses the near region of the flow table: the blocks in which the flows of an epoch lie.

Its size follows the most flows of the last epochs. It grows with the first epoch that has more,
and shrinks when none of the last ones needed its size, so an endpoint with bursts does not change
it each time. Flows for which it has no room are counted as ever, after a longer search.
"""

from collections import deque

RECENT_EPOCHS = 32
SLOTS_PER_FLOW = 4  # at a quarter full, hardly any flow finds its first NEAR_PROBES slots taken
MIN_BLOCKS = 8  # 32 KiB: what any processor's first-level cache holds


class NearRegion:
    """The near region of one table, as the number of halvings that make it of a half."""

    def __init__(self, slots: int, block_slots: int, shift: int) -> None:
        """``slots`` of a half, a power of two; ``shift`` is what the table has now."""
        self._blocks = slots // block_slots
        self._block_slots = block_slots
        self._recent = deque([(slots >> shift) // SLOTS_PER_FLOW], RECENT_EPOCHS)

    def next_shift(self, flows: int) -> int:
        """Return the shift after an epoch of so many flows; 0: the region is the whole half."""
        self._recent.append(flows)
        wanted = max(MIN_BLOCKS, -(-SLOTS_PER_FLOW * max(self._recent) // self._block_slots))
        blocks = 1 << (wanted - 1).bit_length()
        return max(0, self._blocks.bit_length() - blocks.bit_length())
