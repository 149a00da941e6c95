/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What becomes of a connection: the facts and times of its handshake. Uses no maps.
 *
 * Only packets with facts that are new to their row come here (see add()), so a packet of
 * an established connection pays nothing.
 */
#pragma once
#include "flow.h"
#include "parse.h"

/*
 * Without branches, of which each would double the verifier's work behind it: a fact is a bit, and
 * bits are combined. `seen` and `facts` are shifted so that the bit in question is the lowest.
 */
#define FACT(word, bit) ((word) >> __builtin_ctz(bit) & 1)

/* The bits of `seen` that a packet sets, before they are shifted to its direction. */
static __always_inline u64 facts_of(u64 flags)
{
	u64 syn = FACT(flags, TCP_SYN), ack = FACT(flags, TCP_ACK);

	return flags | (syn & ~ack) * SEEN_SYN_ONLY | (syn & ack) * SEEN_SYN_ACK;
}

/*
 * Which time of struct handshake a packet is, as a bit: the first of its kind in its row. `first`:
 * the row has no packet of this direction yet. Of TCP
 * without any flag but PSH nothing is expected; it may count as an answer, which is not used.
 */
static __always_inline u64 time_of(u64 seen, u64 facts, u32 direction, bool first)
{
	u64 own = seen >> direction * SEEN_SHIFT, other = seen >> (1 - direction) * SEEN_SHIFT;
	u64 tcp = FACT(facts, TCP_SYN) | FACT(facts, TCP_ACK) | FACT(facts, TCP_RST);
	u64 opened = FACT(facts & ~own, SEEN_SYN_ONLY);
	u64 answered = FACT(facts & ~own, SEEN_SYN_ACK) | (FACT(facts, SEEN_PACKET) & first & ~tcp);
	u64 completed = FACT(facts & ~own, TCP_ACK) & FACT(other, SEEN_SYN_ACK) &
			~FACT(facts, TCP_SYN) & ~FACT(facts, TCP_RST);

	return opened | answered << 1 | completed << 2;
}

/* 1 if a SYN repeats an earlier one of its row, and can still be counted. */
static __always_inline u64 retries_of(u64 seen, u64 facts, u32 direction)
{
	u64 full = seen >> SEEN_RETRIES_SHIFT >> 7;

	return FACT(facts & seen >> direction * SEEN_SHIFT, SEEN_SYN_ONLY) & ~full;
}
