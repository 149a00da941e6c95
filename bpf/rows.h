/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The flow table, its lanes and the books: the maps, and what adds a packet to them.
 */
#pragma once
#include "fingerprint.h"
#include "names.h"
#include "object.h"
#include "outcome.h"
#include "parse.h"
#include "quote.h"
#include "search.h"

PARAMETER(slots); /* in each half */
PARAMETER(slot_mask); /* slots - 1 */
PARAMETER(slot_shift); /* log2(slots) */
PARAMETER(rows); /* 2 * slots */
PARAMETER(book_entries);
PARAMETER(lane_entries);

MAP(cold, BPF_MAP_TYPE_ARRAY, u32, struct cold, SET_BY(rows), BPF_F_MMAPABLE);
MAP(handshakes, BPF_MAP_TYPE_ARRAY, u32, struct handshake, SET_BY(rows), BPF_F_MMAPABLE);
MAP(used, BPF_MAP_TYPE_ARRAY, u32, u64, SET_BY(rows), BPF_F_MMAPABLE);

/* Only the agent creates entries: nothing is allocated in advance. */
MAP(books, BPF_MAP_TYPE_PERCPU_HASH, struct book_key, struct book, SET_BY(book_entries),
    BPF_F_NO_PREALLOC);
MAP(lanes, BPF_MAP_TYPE_HASH, struct book_key, struct lane, SET_BY(lane_entries),
    BPF_F_NO_PREALLOC);

/* Updating `fence` from user space returns after an RCU grace period
 * (maybe_wait_bpf_programs() in kernel/bpf/syscall.c): no program that read the
 * old epoch is still running then. */
MAP(fence_inner, BPF_MAP_TYPE_HASH, u32, u32, 1, 0);
MAP_OF_MAPS(fence, BPF_MAP_TYPE_ARRAY_OF_MAPS, u32, fence_inner, 1);

/* The cumulative account of a packet that has no flow row. */
static __always_inline void book(u32 ifindex, u32 direction, u32 account, u64 bytes, u64 packets)
{
	struct book_key key = { .ifindex = ifindex, .direction = direction };
	struct book *book = lookup(books, &key);

	if (!book) { /* not attached by the agent: the account of unattributed interfaces */
		key.ifindex = 0;
		book = lookup(books, &key);
	}
	if (book) { /* per-CPU, but softirq may interrupt a process that sends */
		__sync_fetch_and_add(&book->bytes[account], bytes);
		__sync_fetch_and_add(&book->packets[account], packets);
	}
}

/*
 * A VLAN tag beside the data is not in skb->len. Whether the interface counted its
 * four bytes is not known here: it did if the tag came in the data and the kernel
 * removed it (skb_vlan_untag()), it did not if a VLAN device set it. So such frames
 * are counted, and the books distinguish the two cases.
 */
static __always_inline void note_tag(u32 ifindex, u32 direction)
{
	struct book_key key = { .ifindex = ifindex, .direction = direction };
	struct book *book = lookup(books, &key);

	if (book)
		__sync_fetch_and_add(&book->tagged, 1);
}

/* The fingerprint of a row of ICMP errors; 0 if the packet is not an ICMP error. */
static __always_inline u64 fingerprint_of_error(struct __sk_buff *skb, struct packet *packet,
						struct rest *rest, u32 ifindex, const u32 direction,
						const bool uplink)
{
	struct flow flow = { .ifindex = ifindex };
	struct packet quoted = {};
	u32 shift = direction;
	u64 fingerprint;

	if (packet->protocol != (packet->ipv4 ? IPPROTO_ICMP : IPPROTO_ICMPV6) || rest->place ||
	    !parse_quote(skb, packet, rest, &quoted, uplink || direction == TO_ENDPOINT))
		return 0;
	turn(&flow, &quoted, direction == FROM_ENDPOINT ? TO_ENDPOINT : FROM_ENDPOINT);
	if (packet->facts & SEEN_ICMP_RELAYED)
		shift += 2;
	fingerprint = fingerprint_of(&flow, packet->ipv4) ^ (u64)ERROR_FINGERPRINT << shift;
	return fingerprint ? fingerprint : 1;
}

/* The lane of an interface; one not attached by the agent shares that of ifindex 0. */
static __always_inline struct lane *lane_of(u32 ifindex, u32 number)
{
	struct book_key key = { .ifindex = ifindex, .direction = number };
	struct lane *lane = lookup(lanes, &key);

	if (!lane) {
		key.ifindex = 0;
		lane = lookup(lanes, &key);
	}
	return lane;
}

/*
 * Later fragments belong to the flow of the first, which stores its ports in its lane.
 * Called for fragments only. A place is one word, so reads are never torn. Fragments whose
 * place another packet has taken, or that overtake their first, have no ports.
 */
static __always_inline void join_fragment(struct __sk_buff *skb, struct packet *packet,
					  const struct rest *rest, u32 ifindex, u32 number)
{
	struct flow parts = {
		.local = packet->source,
		.remote = packet->destination,
		.ifindex = ifindex,
		.local_port = rest->identification,
		.remote_port = rest->identification >> 16,
		.protocol = packet->ipv4 ? packet->protocol : IPPROTO_FRAGMENT,
	};
	u64 digest = fingerprint_of(&parts, packet->ipv4), kept;
	struct lane *lane = lane_of(ifindex, number);
	u64 *place;
	u8 flags;

	if (!lane)
		return;
	place = &lane->fragments[digest & (FRAGMENTS - 1)];
	if (rest->place == FIRST_FRAGMENT) {
		kept = packet->source_port | (u64)packet->destination_port << 16;
		if (packet->facts & SEEN_UNPARSED && !kept) {
			*place = 0;
			return;
		}
		*place = digest >> 40 << 40 | (u64)packet->protocol << 32 | kept;
		return;
	}
	kept = *(volatile u64 *)place;
	if (!kept || kept >> 40 != digest >> 40)
		return;
	packet->facts &= ~SEEN_UNPARSED;
	/* a segment cut behind its ports has its flags here: RFC 1858's tiny fragments */
	if (rest->place == SECOND_FRAGMENT && packet->protocol == IPPROTO_TCP &&
	    rest->size > TCP_FLAGS_OFFSET - 8 &&
	    !bpf_skb_load_bytes(skb, rest->offset + TCP_FLAGS_OFFSET - 8, &flags, sizeof(flags)))
		packet->tcp_flags = flags;
	packet->protocol = kept >> 32;
	packet->source_port = kept;
	packet->destination_port = kept >> 16;
}

/* Whether slots are first come, first served: see flow.h. */
static __always_inline bool is_roomy(u64 half)
{
	return *(volatile u64 *)&VALUE_OF(control)->used[half] < PARAMETER32(slots) / 8 * 3;
}

/* How many slots a lane may still claim. The count is approximate. */
static __always_inline u64 claims_left(u64 epoch, u32 ifindex, u32 number)
{
	u64 taken = *(volatile u64 *)&VALUE_OF(control)->used[epoch & 1], claimed, left;
	const u32 slots = PARAMETER32(slots);
	struct lane *lane;

	if (taken < slots / 8 * 3)
		return slots - taken;
	lane = lane_of(ifindex, number);
	if (!lane)
		return slots;
	left = taken < slots / 8 * 5 ? slots / 8 * 5 - taken : 0;
	if (taken < slots / 8 * 6 && left < slots / RESERVED_PART)
		left = slots / RESERVED_PART;
	claimed = *(volatile u64 *)&lane->claimed;
	if (claimed >> 32 != (u32)epoch)
		claimed = 0;
	return left > (u32)claimed ? left - (u32)claimed : 0;
}

/* The lane of a claimed slot pays for it. */
static __always_inline void note_claim(u64 epoch, u32 ifindex, u32 number)
{
	struct lane *lane;

	if (is_roomy(epoch & 1))
		return;
	lane = lane_of(ifindex, number);
	if (!lane)
		return;
	if (*(volatile u64 *)&lane->claimed >> 32 == (u32)epoch)
		__sync_fetch_and_add(&lane->claimed, 1);
	else
		lane->claimed = epoch << 32 | 1;
}

/*
 * Facts that change a few times in a connection, and those of a SYN; off the common path.
 * Only they read a clock and may touch the row's handshake.
 */
static __always_inline void note_flags(struct hot *slot, u32 index, u64 flags, u32 direction,
				       bool first, u16 icmp, const bool claimed)
{
	u64 seen = *(volatile u64 *)&slot->seen, facts = facts_of(flags);
	u64 time = claimed ? 0 : time_of(seen, facts, direction, first);
	struct handshake *handshake;

	if (time | (facts & SEEN_REJECTED)) {
		handshake = lookup(handshakes, &index);
		if (handshake && facts & SEEN_REJECTED)
			handshake->icmp = icmp;
		if (handshake && time)
			handshake->time[time >> 1 & 3] = bpf_ktime_get_ns() >> HANDSHAKE_SHIFT;
	}
	/* whether the row is plain is decided later, by capture() */
	facts &= ~SEEN_PLAIN;
	__sync_fetch_and_or(&slot->seen, facts << direction * SEEN_SHIFT | time << SEEN_TIMED_BIT);
	if (retries_of(seen, facts, direction))
		__sync_fetch_and_add(&slot->seen, 1ULL << SEEN_RETRIES_SHIFT);
}

/* One CPU gets each carry bit, because it is taken out atomically. */
static __always_inline void carry(struct hot *slot, u32 index, u32 direction)
{
	const u64 carry_bits = 1ULL << BYTE_CARRY_BIT | 1ULL << PACKET_CARRY_BIT;
	u64 taken = __sync_fetch_and_and(&slot->traffic[direction], ~carry_bits);
	struct cold *row = lookup(cold, &index);
	u64 carries = (taken >> BYTE_CARRY_BIT & 1) << direction * 16 |
		      (taken >> PACKET_CARRY_BIT) << (DIRECTIONS + direction) * 16;

	if (row)
		__sync_fetch_and_add(&row->carries, carries);
	__sync_fetch_and_or(&slot->seen, 1ULL << SEEN_CARRIED_BIT);
}

/*
 * The claimer of a slot lists it and writes the row; others may already add to it.
 * The row is rarely in the cache, and an atomic waits for all stores before it: so no
 * atomic follows the row, and its line is fetched while the next packet is parsed.
 */
static __always_inline void write_row(const struct flow *flow, u32 index, u32 half, u32 direction)
{
	struct cold *row = lookup(cold, &index);
	u32 number, place;
	u64 *listed;

	if (!row)
		return;
	number = __sync_fetch_and_add(&VALUE_OF(control)->used[half], 1);
	place = AND_PARAMETER(number, slot_mask) + SHIFT_BY_PARAMETER(half, slot_shift);
	listed = lookup(used, &place);
	if (listed)
		*listed = index;
	row->local_address[0] = flow->local[0];
	row->local_address[1] = flow->local[1];
	row->remote_address[0] = flow->remote[0];
	row->remote_address[1] = flow->remote[1];
	row->ifindex = flow->ifindex;
	row->local_port = ntohs(flow->local_port);
	row->remote_port = ntohs(flow->remote_port);
	row->protocol = flow->protocol;
	row->carries = 0;
	row->first_direction = direction;
	row->cgroup_high = 0;
	row->cgroup_low = 0;
	if (number < PARAMETER32(slots) / FINE_PART)
		row->first_seen_ns = bpf_ktime_get_ns() | FIRST_SEEN_FINE;
	else
		row->first_seen_ns = bpf_ktime_get_coarse_ns() & ~(u64)FIRST_SEEN_FINE;
}

/*
 * The sender of an outgoing packet is certain even under address translation: the packet
 * has its socket. The claimer, on another CPU, may still be writing the row and overwrite
 * the cgroup; SEEN_SOCKET is set all the same.
 */
static __always_inline void note_sender(struct __sk_buff *skb, u32 index)
{
	u64 cgroup = bpf_skb_cgroup_id(skb);
	struct cold *row = lookup(cold, &index);

	if (row && cgroup) {
		row->cgroup_high = cgroup >> 32;
		row->cgroup_low = cgroup;
	}
}

/*
 * The facts of a packet that its row may not have. A SYN always is one: its meaning depends on
 * the ACK beside it, and both bits may be set already.
 */
static __always_inline u64 news_of(const struct hot *slot, u64 flags, u32 direction)
{
	return flags & (~(slot->seen >> direction * SEEN_SHIFT) | TCP_SYN);
}

/* Adds a packet and its facts to its slot; returns those that are new. */
static __always_inline u64 add(struct hot *slot, u32 index, u64 traffic, u64 flags, u32 direction,
			       u16 icmp, const bool claimed)
{
	u64 before = __sync_fetch_and_add(&slot->traffic[direction], traffic);
	u64 news = news_of(slot, flags, direction);

	if (news)
		note_flags(slot, index, flags, direction, !before, icmp, claimed);
	if ((before + traffic) & (1ULL << BYTE_CARRY_BIT | 1ULL << PACKET_CARRY_BIT))
		carry(slot, index, direction);
	return news;
}
