// SPDX-License-Identifier: GPL-2.0
/*
 * What podtally's programs are measured against: the plainest counter of 5-tuples
 * one would write, a hash map and two atomic adds; and the empty program, to
 * take its cost off both.
 *
 * rotate() makes each run of one packet the next of `turns.flows` flows, by its source
 * port and the word before it, and goes on to the program under test.
 *
 * The parameter `room` says how many flows the hash map has room for.
 */
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include "object.h"

#define IPV4_PORT (ETH_HLEN + sizeof(struct iphdr))
#define IPV6_PORT (ETH_HLEN + sizeof(struct ipv6hdr))

struct tuple {
	u32 source[4];
	u32 destination[4];
	u16 source_port;
	u16 destination_port;
	u8 protocol;
	u8 pad[3];
};

struct count {
	u64 bytes;
	u64 packets;
};

struct turns {
	u64 next;
	u64 flows; /* a power of two */
};

PARAMETER(room);

MAP(under_test, BPF_MAP_TYPE_PROG_ARRAY, u32, u32, 1, 0);
MAP(turns, BPF_MAP_TYPE_ARRAY, u32, struct turns, 1, 0);
MAP(counts, BPF_MAP_TYPE_HASH, struct tuple, struct count, SET_BY(room), 0);

PROGRAM(empty, BPF_PROG_TYPE_SCHED_CLS);
int empty(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

PROGRAM(plain, BPF_PROG_TYPE_SCHED_CLS);
int plain(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct tuple key = {};
	struct count first = { .bytes = skb->len, .packets = 1 }, *count;
	u16 *ports;

	if (skb->protocol == htons(ETH_P_IP)) {
		struct iphdr *ip = data + ETH_HLEN;

		ports = (void *)(ip + 1);
		if ((void *)(ports + 2) > end)
			return TC_ACT_UNSPEC;
		key.source[0] = ip->saddr;
		key.destination[0] = ip->daddr;
		key.protocol = ip->protocol;
	} else if (skb->protocol == htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = data + ETH_HLEN;

		ports = (void *)(ip + 1);
		if ((void *)(ports + 2) > end)
			return TC_ACT_UNSPEC;
		__builtin_memcpy(key.source, &ip->saddr, 16);
		__builtin_memcpy(key.destination, &ip->daddr, 16);
		key.protocol = ip->nexthdr;
	} else {
		return TC_ACT_UNSPEC;
	}
	key.source_port = ports[0];
	key.destination_port = ports[1];
	count = lookup(counts, &key);
	if (count) {
		__sync_fetch_and_add(&count->bytes, skb->len);
		__sync_fetch_and_add(&count->packets, 1);
	} else {
		update(counts, &key, &first, BPF_ANY);
	}
	return TC_ACT_UNSPEC;
}

PROGRAM(rotate, BPF_PROG_TYPE_SCHED_CLS);
int rotate(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	u32 zero = 0;
	struct turns *turn = lookup(turns, &zero);
	u16 *words;

	if (!turn)
		return TC_ACT_UNSPEC;
	words = data + (skb->protocol == htons(ETH_P_IP) ? IPV4_PORT : IPV6_PORT) - sizeof(*words);
	if ((void *)(words + 2) > end)
		return TC_ACT_UNSPEC;
	words[1] = turn->next;
	words[0] = turn->next >> 16;
	turn->next = (turn->next + 1) & (turn->flows - 1);
	((long (*)(void *, void *, u32))BPF_FUNC_tail_call)(skb, MAP_ADDRESS(under_test), 0);
	return TC_ACT_UNSPEC;
}
