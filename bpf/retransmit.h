/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Counts what TCP sends again, by addresses and ports, in all network namespaces of the
 * host. The ledger joins the counts to connections, and drops those of others.
 *
 * The contexts are the records of the tracepoints, up to the last field that is read. Before
 * it attaches, the agent compares them with the format that the kernel states
 * (kernel/tracepoints.py). No kernel structure is accessed.
 */
#pragma once
#include "flow.h"
#include "object.h"
#include "parse.h"
#include "search.h"

#define RETRANSMITS 16384 /* connections of both halves */
#define RETRANSMITTERS 4096 /* addresses whose shares are remembered */
#define RETRANSMIT_SHARE 1024 /* connections of one address and epoch */

/* Addresses and ports as in flow rows: the source is what sends again. */
struct retransmit_key {
	__u64 source[2];
	__u64 destination[2];
	__u16 source_port;
	__u16 destination_port;
	__u32 half; /* of the flow table: read and cleared with it */
};

struct retransmitter {
	__u64 address[2];
};

struct retransmit_skb_record {
	__u64 common;
	const void *skbaddr;
	const void *skaddr;
	int state;
	__u16 sport;
	__u16 dport;
	__u16 family;
	__u8 saddr[4];
	__u8 daddr[4];
	__u16 saddr_v6[8]; /* IPv4 as ::ffff:a.b.c.d */
	__u16 daddr_v6[8];
	int err; /* since 6.17: not 0 if it was not sent, which earlier kernels do not report */
};

struct retransmit_synack_record {
	__u64 common;
	const void *skaddr;
	const void *req;
	__u16 sport;
	__u16 dport;
	__u16 family;
	__u8 saddr[4];
	__u8 daddr[4];
	__u16 saddr_v6[8];
	__u16 daddr_v6[8];
};

MAP(retransmits, BPF_MAP_TYPE_HASH, struct retransmit_key, u64, RETRANSMITS, 0);
/* What could not be counted, by half. */
MAP(retransmit_lost, BPF_MAP_TYPE_ARRAY, u32, u64, 2, 0);
/* The epoch's lower 32 bits, and how many connections the address has in it. */
MAP(retransmitters, BPF_MAP_TYPE_LRU_HASH, struct retransmitter, u64, RETRANSMITTERS, 0);

/* Whether an address may have another connection counted in this epoch. */
static __always_inline bool has_share(const struct retransmit_key *key, u64 epoch)
{
	struct retransmitter who = { .address = { key->source[0], key->source[1] } };
	u64 first = epoch << 32 | 1, *share = lookup(retransmitters, &who);

	if (!share || *share >> 32 != (epoch & 0xffffffff)) {
		update(retransmitters, &who, &first, BPF_ANY);
		return true;
	}
	return (__sync_fetch_and_add(share, 1) & 0xffffffff) < RETRANSMIT_SHARE;
}

static __always_inline int count_retransmit(struct retransmit_key *key)
{
	u64 epoch = *(volatile u64 *)&VALUE_OF(control)->epoch, none = 0, *count;
	u32 half = epoch & 1;

	key->half = half;
	count = lookup(retransmits, key);
	if (!count && has_share(key, epoch)) {
		update(retransmits, key, &none, BPF_NOEXIST);
		count = lookup(retransmits, key);
	}
	if (!count)
		count = lookup(retransmit_lost, &half);
	if (count)
		__sync_fetch_and_add(count, 1);
	return 0;
}

/* Fills in a key from a record of either kind. */
#define READ_RETRANSMIT(key, record)                                            \
	do {                                                                    \
		u16 words[16];                                                  \
		_Pragma("unroll") for (int i = 0; i < 8; i++)                   \
		{                                                               \
			words[i] = *(volatile u16 *)&(record)->saddr_v6[i];     \
			words[8 + i] = *(volatile u16 *)&(record)->daddr_v6[i]; \
		}                                                               \
		__builtin_memcpy((key)->source, words, 16);                     \
		__builtin_memcpy((key)->destination, words + 8, 16);            \
		(key)->source_port = (record)->sport;                           \
		(key)->destination_port = (record)->dport;                      \
	} while (0)
