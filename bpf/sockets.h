/* SPDX-License-Identifier: GPL-2.0-only */
/* Which packets on an uplink are for a socket of this host. */
#pragma once
#include <linux/bpf.h>
#include "parse.h"

#define AF_INET 2
#define AF_INET6 10

/* The socket, connected or listening, that a TCP or UDP packet is for; the caller releases it. */
static __always_inline struct bpf_sock *find_receiver(struct __sk_buff *skb,
						      const struct packet *packet)
{
	struct bpf_sock_tuple tuple = {};
	u32 size = packet->ipv4 ? sizeof(tuple.ipv4) : sizeof(tuple.ipv6);

	if (packet->ipv4) {
		tuple.ipv4.saddr = packet->source[1] >> 32;
		tuple.ipv4.daddr = packet->destination[1] >> 32;
		tuple.ipv4.sport = packet->source_port;
		tuple.ipv4.dport = packet->destination_port;
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, packet->source, sizeof(tuple.ipv6.saddr));
		__builtin_memcpy(tuple.ipv6.daddr, packet->destination, sizeof(tuple.ipv6.daddr));
		tuple.ipv6.sport = packet->source_port;
		tuple.ipv6.dport = packet->destination_port;
	}
	if (packet->protocol == IPPROTO_TCP)
		return bpf_sk_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (packet->protocol == IPPROTO_UDP)
		return bpf_sk_lookup_udp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	return NULL;
}

/* Whether the routes deliver a packet to this host. */
static __always_inline bool stays_here(struct __sk_buff *skb, const struct packet *packet)
{
	struct bpf_fib_lookup route = {};
	long answer;

	route.ifindex = SKB_FIELD(skb, ifindex);
	if (packet->ipv4) {
		route.family = AF_INET;
		route.ipv4_src = packet->source[1] >> 32;
		route.ipv4_dst = packet->destination[1] >> 32;
		if (is_group4(route.ipv4_dst))
			return true;
	} else {
		route.family = AF_INET6;
		__builtin_memcpy(route.ipv6_src, packet->source, sizeof(route.ipv6_src));
		__builtin_memcpy(route.ipv6_dst, packet->destination, sizeof(route.ipv6_dst));
		if (ntohl(route.ipv6_dst[0]) >> 24 == MULTICAST6)
			return true;
	}
	answer = bpf_fib_lookup(skb, &route, sizeof(route), 0);
	return answer == BPF_FIB_LKUP_RET_NOT_FWDED || answer == BPF_FIB_LKUP_RET_FWD_DISABLED;
}

/*
 * Whether a packet from outside is for a socket of this host, as far as is known before
 * the kernel translates and routes it. A socket bound to all addresses matches every
 * destination, also a pod's: there the routes decide. The socket's cgroup is not
 * available: tc programs may not call bpf_sk_cgroup_id(). Sockets in TIME_WAIT are not
 * found.
 */
static __always_inline bool is_for_socket(struct __sk_buff *skb, const struct packet *packet)
{
	struct bpf_sock *sk = find_receiver(skb, packet);
	bool bound;

	if (!sk)
		return false;
	if (packet->ipv4)
		bound = sk->src_ip4;
	else
		bound = sk->src_ip6[0] | sk->src_ip6[1] | sk->src_ip6[2] | sk->src_ip6[3];
	bpf_sk_release(sk);
	return bound || stays_here(skb, packet);
}
