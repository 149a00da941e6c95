/* SPDX-License-Identifier: GPL-2.0-only */
/* Finds the slot of a flow: in its near block, then in the one behind the region; see flow.h. */
#pragma once
#include "flow.h"
#include "object.h"

struct block {
	struct hot slots[BLOCK_SLOTS];
};

PARAMETER(block_mask);
PARAMETER(block_shift);
PARAMETER(blocks); /* in both halves */

MAP(control, BPF_MAP_TYPE_ARRAY, u32, struct control, 1, BPF_F_MMAPABLE);
MAP(hot, BPF_MAP_TYPE_ARRAY, u32, struct block, SET_BY(blocks), BPF_F_MMAPABLE);

static __always_inline u32 near_block(u64 fingerprint, u64 half)
{
	return (AND_PARAMETER(fingerprint >> 32, block_mask) >>
		VALUE_OF(control)->near_shift[half]) +
	       SHIFT_BY_PARAMETER(half, block_shift);
}

/* Never in the region, which near blocks may have filled: other bits choose one behind it. */
static __always_inline u32 far_block(u64 fingerprint, u64 half)
{
	u64 shift = VALUE_OF(control)->near_shift[half], mask = PARAMETER32(block_mask);
	u64 number = fingerprint >> 32 & mask;

	if (shift && number <= mask >> shift)
		number = (fingerprint / BLOCK_SLOTS & mask) | (mask ^ mask >> 1);
	return number + SHIFT_BY_PARAMETER(half, block_shift);
}

/* The slot of a flow; NULL if it has none. */
struct found {
	struct hot *slot;
	u32 index;
	bool is_claimed;
};

/* Claims the first free slot for a flow that has none, if it may. */
static __always_inline struct found search(u64 fingerprint, u64 half, u64 may_claim)
{
	u32 near_index = near_block(fingerprint, half), start = fingerprint;
	u32 far_index = far_block(fingerprint, half);
	struct block *near = lookup(hot, &near_index), *far = lookup(hot, &far_index);
	struct found found = {};

	if (!near || !far)
		return found;
#pragma clang loop unroll(disable)
	for (int i = 0; i < NEAR_PROBES + PROBES; i++) {
		struct block *block = i < NEAR_PROBES ? near : far;
		u32 place = (start + i) & (BLOCK_SLOTS - 1);
		u64 there = *(volatile u64 *)&block->slots[place].fingerprint;

		if (!there) {
			if (!may_claim)
				break;
			there = __sync_val_compare_and_swap(&block->slots[place].fingerprint, 0,
							    fingerprint);
			found.is_claimed = !there;
		}
		if (found.is_claimed || there == fingerprint) {
			found.slot = &block->slots[place];
			found.index =
				(i < NEAR_PROBES ? near_index : far_index) * BLOCK_SLOTS + place;
			break;
		}
	}
	return found;
}
