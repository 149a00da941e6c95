/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The common packet: plain, of a flow that has its slot nearby, and with nothing to note but its
 * size. It touches two cache lines of the maps: the first of `control`, and the slot's. A plain
 * packet of a new flow is counted here, too, while slots are first come, first served.
 *
 * For all else count() begins from the packet again. So no value of this path outlives it: the
 * compiler keeps it in registers, and the verifier follows the rest once.
 */
#pragma once
#include "names.h"
#include "rows.h"
#include "sockets.h"

enum outcome { NOT_COUNTED, COUNTED, CLAIMED }; /* the last: counted, and the first of its row */

/* Makes the compiler read again what it has read of a packet, instead of keeping it. */
#define AFRESH(skb) asm volatile("" : "+r"(skb))

static __always_inline int parse_family(struct __sk_buff *skb, struct packet *packet,
					const bool ipv4)
{
	void *data = (void *)SKB_FIELD(skb, data), *end = (void *)SKB_FIELD(skb, data_end);

	return ipv4 ? parse_plain4(data, end, packet) : parse_plain6(data, end, packet);
}

/* A packet and its bytes, as a slot adds them. */
static __always_inline u64 traffic_of(struct __sk_buff *skb)
{
	u64 packets = SKB_FIELD(skb, gso_segs);

	return (packets ? packets : 1) << PACKET_SHIFT | SKB_FIELD(skb, len);
}

/* The facts of a plain packet, and those of every packet. */
static __always_inline u64 flags_of(struct __sk_buff *skb, u8 tcp_flags, const u32 direction,
				    const bool uplink)
{
	u64 flags = tcp_flags | *(volatile u64 *)&VALUE_OF(control)->always;

	return uplink && direction == FROM_ENDPOINT && skb->sk ? flags | SEEN_SOCKET : flags;
}

static __always_inline enum outcome count_family(struct __sk_buff *skb, const u32 direction,
						 const bool uplink, const bool ipv4,
						 struct hot **first)
{
	const u64 carry_bits = 1ULL << BYTE_CARRY_BIT | 1ULL << PACKET_CARRY_BIT;
	struct flow flow = { .ifindex = SKB_FIELD(skb, ifindex) };
	struct packet packet;
	u64 fingerprint, half, flags, traffic, before;
	struct block *block;
	struct hot *slot;
	u32 index, place;

	if (parse_family(skb, &packet, ipv4))
		return NOT_COUNTED;
	turn(&flow, &packet, direction);
	fingerprint = fingerprint_of(&flow, ipv4);
	half = *(volatile u64 *)&VALUE_OF(control)->epoch & 1; /* once: see flip() in table.py */
	index = near_block(fingerprint, half);
	block = lookup(hot, &index);
	if (!block)
		return NOT_COUNTED;
#pragma unroll
	for (int i = 0; i < NEAR_PROBES; i++) {
		u64 there;

		place = (fingerprint + i) & (BLOCK_SLOTS - 1);
		slot = &block->slots[place];
		there = *(volatile u64 *)&slot->fingerprint;
		if (there == fingerprint)
			goto known;
		if (!there)
			goto unknown;
	}
	return NOT_COUNTED;
known:
	if (news_of(slot, flags_of(skb, packet.tcp_flags, direction, uplink), direction))
		return NOT_COUNTED;
	traffic = traffic_of(skb);
	before = __sync_fetch_and_add(&slot->traffic[direction], traffic);
	if ((before + traffic) & carry_bits)
		carry(slot, index * BLOCK_SLOTS + place, direction);
	return COUNTED;
unknown:
	if (!is_roomy(half) || __sync_val_compare_and_swap(&slot->fingerprint, 0, fingerprint))
		return NOT_COUNTED;
	flags = flags_of(skb, packet.tcp_flags, direction, uplink);
	index = index * BLOCK_SLOTS + place;
	/* one atomic less: that there is a packet is in the row */
	add(slot, index, traffic_of(skb), flags & ~SEEN_PACKET, direction, 0, true);
	AFRESH(skb);
	if (parse_family(skb, &packet, ipv4))
		packet = (struct packet){};
	flow.ifindex = SKB_FIELD(skb, ifindex);
	turn(&flow, &packet, direction);
	write_row(&flow, index, half, direction);
	if (uplink && direction == FROM_ENDPOINT && flags & SEEN_SOCKET)
		note_sender(skb, index);
	*first = slot;
	return (uplink && direction == TO_ENDPOINT) || flags & SEEN_PLAIN ? CLAIMED : COUNTED;
}

/* Of a packet that claimed its row: what may take longer. */
static __always_inline void note_first(struct __sk_buff *skb, struct hot *slot, const u32 direction,
				       const bool uplink)
{
	struct packet packet;

	if (parse_plain(skb, &packet))
		return;
	if (uplink && direction == TO_ENDPOINT && is_for_socket(skb, &packet))
		__sync_fetch_and_or(&slot->seen, (u64)SEEN_SOCKET << direction * SEEN_SHIFT);
	if (VALUE_OF(control)->always & SEEN_PLAIN)
		capture(skb, &packet, slot, direction, uplink);
}

/* True if the packet is counted. */
static __always_inline bool count_plain(struct __sk_buff *skb, const u32 direction,
					const bool uplink)
{
	__be16 type = SKB_FIELD(skb, protocol);
	enum outcome outcome = NOT_COUNTED;
	struct hot *first = NULL; /* 5.15 does not see that only CLAIMED reads it */

	if (SKB_FIELD(skb, vlan_present))
		return false;
	if (type == htons(ETH_P_IP))
		outcome = count_family(skb, direction, uplink, true, &first);
	else if (type == htons(ETH_P_IPV6))
		outcome = count_family(skb, direction, uplink, false, &first);
	AFRESH(skb);
	if (first && outcome == CLAIMED)
		note_first(skb, first, direction, uplink);
	return outcome != NOT_COUNTED;
}
