# SPDX-License-Identifier: Apache-2.0
"""kernel/near_region: the size of the region in which an epoch's flows lie."""

import pytest

from podtally.kernel.near_region import (
    MIN_BLOCKS,
    RECENT_EPOCHS,
    SLOTS_PER_FLOW,
    NearRegion,
)

BLOCK = 128
SLOTS = 1024 * BLOCK


def after(region: NearRegion, flows: int, epochs: int) -> int:
    return [region.next_shift(flows) for _ in range(epochs)][-1]


def region_slots(shift: int) -> int:
    return SLOTS >> shift


@pytest.mark.parametrize("shift", [0, 3, 7])
def test_a_table_keeps_its_region_until_enough_epochs_are_known(shift: int) -> None:
    """A new table has the whole half, one that an agent before left what that agent chose."""
    region = NearRegion(SLOTS, BLOCK, shift)
    assert after(region, 0, RECENT_EPOCHS - 1) == shift
    assert after(region, 0, 1) > shift or region_slots(shift) == MIN_BLOCKS * BLOCK


@pytest.mark.parametrize("flows", [0, 1, 255, 256, 257, 1024, 8192, 8193, 16384])
def test_there_is_room_for_four_times_the_flows_and_not_for_nine_times(flows: int) -> None:
    slots = region_slots(after(NearRegion(SLOTS, BLOCK, 0), flows, RECENT_EPOCHS + 1))
    assert slots >= SLOTS_PER_FLOW * flows
    assert slots <= max(MIN_BLOCKS * BLOCK, 2 * SLOTS_PER_FLOW * max(flows, 1))


def test_it_grows_at_once() -> None:
    region = NearRegion(SLOTS, BLOCK, 7)
    assert region.next_shift(1024) == 5
    assert region.next_shift(65536) == 0


def test_it_shrinks_when_none_of_the_last_epochs_needed_it() -> None:
    region = NearRegion(SLOTS, BLOCK, 7)
    region.next_shift(8192)
    assert after(region, 1, RECENT_EPOCHS - 1) == 2
    assert region.next_shift(1) == 7


def test_an_endpoint_with_bursts_does_not_change_it_each_time() -> None:
    region = NearRegion(SLOTS, BLOCK, 7)
    region.next_shift(8192)
    found = {region.next_shift(8192 if epoch % 7 == 0 else 10) for epoch in range(100)}
    assert found == {2}


@pytest.mark.parametrize("slots", [0, 64, BLOCK, 8 * BLOCK])
def test_a_small_table_is_its_own_region(slots: int) -> None:
    region = NearRegion(slots, BLOCK, 0)
    assert {region.next_shift(flows) for flows in (0, 1, 10**6) * RECENT_EPOCHS} == {0}
