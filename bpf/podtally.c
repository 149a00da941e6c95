// SPDX-License-Identifier: GPL-2.0-only
/*
 * Counts the packets and bytes of every flow that crosses a watched interface.
 *
 *   packet -> parse -> fingerprint -> a slot of the active half += (bytes, packets)
 *                                     no slot, or no flow: += in `books`
 *
 * The programs only watch: whatever happens here, the verdict is TC_ACT_UNSPEC, so
 * the packet goes on to the next program as though we were not attached.
 *
 * Maps are touched in this file only: bcc rewrites `map.lookup()` in the file it is
 * given, not in what that file includes.
 *
 * The loader sets SLOTS (a power of two, at least BLOCK_SLOTS; in each half) and the
 * secrets SECRET_0 .. SECRET_7, those with odd numbers odd.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include "parse.h"
#include "quote.h"

#define BLOCKS (SLOTS / BLOCK_SLOTS) /* in each half */
#define MMAPABLE 1024 /* BPF_F_MMAPABLE, as a literal: bcc wants one */
#define NO_PREALLOC 1 /* BPF_F_NO_PREALLOC: the agent makes the entries, a packet never does */

#define AF_INET 2
#define AF_INET6 10

struct block {
	struct hot slots[BLOCK_SLOTS];
};

BPF_F_TABLE("array", u32, struct control, control, 1, MMAPABLE);
BPF_F_TABLE("array", u32, struct block, hot, 2 * BLOCKS, MMAPABLE);
BPF_F_TABLE("array", u32, struct cold, cold, 2 * SLOTS, MMAPABLE);
BPF_F_TABLE("array", u32, u64, used, 2 * SLOTS, MMAPABLE);
BPF_F_TABLE("percpu_hash", struct book_key, struct book, books, BOOKS, NO_PREALLOC);

BPF_F_TABLE("hash", struct book_key, struct lane, lanes, BOOKS / 2 * LANES, NO_PREALLOC);

/* Updating `fence` from user space returns after an RCU grace period
 * (maybe_wait_bpf_programs() in kernel/bpf/syscall.c): no program that read the
 * old epoch is still running then. */
BPF_HASH(fence_inner, u32, u32, 1);
BPF_ARRAY_OF_MAPS(fence, "fence_inner", 1);

/* The cumulative account of a packet that has no flow row. */
static __always_inline void book(u32 ifindex, u32 direction, u32 account, u64 bytes, u64 packets)
{
	struct book_key key = { .ifindex = ifindex, .direction = direction };
	struct book *book = books.lookup(&key);

	if (!book) { /* attached by a stranger: the account of no interface */
		key.ifindex = 0;
		book = books.lookup(&key);
	}
	if (book) { /* per-CPU, but softirq may interrupt a process that sends */
		__sync_fetch_and_add(&book->bytes[account], bytes);
		__sync_fetch_and_add(&book->packets[account], packets);
	}
}

/*
 * A VLAN tag beside the data is not in skb->len. Whether the interface counted its
 * four bytes cannot be told here: it did if the tag came in the data and the kernel
 * took it out (skb_vlan_untag()), it did not if a VLAN device had put it beside. So
 * such frames are counted, and the books tell the one from the other.
 */
static __always_inline void note_tag(u32 ifindex, u32 direction)
{
	struct book_key key = { .ifindex = ifindex, .direction = direction };
	struct book *book = books.lookup(&key);

	if (book)
		__sync_fetch_and_add(&book->tagged, 1);
}

/* A packet turned to the endpoint's side; ports in network order. */
struct flow {
	const u64 *local;
	const u64 *remote;
	u32 ifindex;
	u16 local_port;
	u16 remote_port;
	u8 protocol;
};

/*
 * The fingerprint stands for the flow: two flows that share one would be booked as
 * one. So nobody may be able to aim at that, and neighbours must not meet by nature.
 * Each part of the key has a universal hash with secrets of its own, and these are
 * summed: two keys meet for at most one choice of secrets in 2^32. The products do
 * not wait for each other.
 *
 *   - 32 bits times an odd secret of 64: what differs in bit b makes 64 - b bits of
 *     the product differ. Hence host order, where what varies most stands low; hence
 *     also no 64 bits times 64: top bits of two words would cancel, whatever the secrets.
 *   - a word of an IPv6 address by NH (RFC 4418 5.2): both halves plus secrets, modulo
 *     2^32, multiplied.
 */
#define NH(word, secret)                           \
	((u64)(u32)((u32)(word) + (u32)(secret)) * \
	 (u32)((u32)((word) >> 32) + (u32)((secret) >> 32)))

static __always_inline u64 fingerprint_of(const struct flow *flow, bool ipv4)
{
	u64 interface = (u64)flow->protocol << 32 | flow->ifindex;
	u64 ports = ntohl(flow->local_port | (u32)flow->remote_port << 16);
	u64 sum = ports * SECRET_5 + interface * SECRET_7;

	if (ipv4)
		sum += (u64)ntohl(flow->local[1] >> 32) * SECRET_1 +
		       (u64)ntohl(flow->remote[1] >> 32) * SECRET_3;
	else
		sum += NH(flow->local[0], SECRET_0) + NH(flow->local[1], SECRET_2) +
		       NH(flow->remote[0], SECRET_4) + NH(flow->remote[1], SECRET_6);
	sum ^= sum >> 32;
	sum *= SECRET_1;
	sum ^= sum >> 29;
	return sum ? sum : 1; /* 0 is a free slot */
}

/* Turned to the endpoint's side. */
static __always_inline void turn(struct flow *flow, const struct packet *packet, u32 direction)
{
	bool from = direction == FROM_ENDPOINT;

	flow->protocol = packet->protocol;
	flow->local = from ? packet->source : packet->destination;
	flow->remote = from ? packet->destination : packet->source;
	flow->local_port = from ? packet->source_port : packet->destination_port;
	flow->remote_port = from ? packet->destination_port : packet->source_port;
}

/* The fingerprint of a row of ICMP errors; 0: the packet is none. */
static __always_inline u64 fingerprint_of_error(struct __sk_buff *skb, struct packet *packet,
						const struct rest *rest, u32 ifindex,
						const u32 direction, const bool uplink)
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

/* Of a stranger's interface: the lane of no interface. */
static __always_inline struct lane *lane_of(u32 ifindex, u32 number)
{
	struct book_key key = { .ifindex = ifindex, .direction = number };
	struct lane *lane = lanes.lookup(&key);

	if (!lane) {
		key.ifindex = 0;
		lane = lanes.lookup(&key);
	}
	return lane;
}

/*
 * Later fragments belong to the first one's flow: it leaves its ports in its lane. Only
 * fragments come here. Each place is one word, so nothing is half written; whose place is
 * taken by another packet's stays without ports, as do fragments that overtake their first.
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

/* Whether a lane may claim one more slot: see flow.h. It is a bound, no account. */
static __always_inline bool may_claim(struct control *ctl, u64 epoch, u32 ifindex, u32 number)
{
	u64 taken = *(volatile u64 *)&ctl->used[epoch & 1], claimed, left;
	struct lane *lane;

	if (taken < SLOTS / 8 * 3)
		return true;
	lane = lane_of(ifindex, number);
	if (!lane)
		return true;
	left = taken < SLOTS / 8 * 5 ? SLOTS / 8 * 5 - taken : 0;
	claimed = *(volatile u64 *)&lane->claimed;
	if (taken < SLOTS / 8 * 6 && left < SLOTS / RESERVED_PART)
		left = SLOTS / RESERVED_PART;
	if (claimed >> 32 != (u32)epoch) {
		if (left)
			lane->claimed = epoch << 32 | 1;
		return left;
	}
	if ((u32)claimed >= left)
		return false;
	__sync_fetch_and_add(&lane->claimed, 1);
	return true;
}

/* The socket that a TCP or UDP packet is for, connected or listening; to be released. */
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

/* Whether the routes say that a packet goes no further than this host. */
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
 * Whether a packet from outside is for a socket of this host, as far as can be told
 * before the kernel has translated and routed it. A socket bound to all addresses
 * matches whatever address the packet goes to, a pod's too: there the routes decide.
 * The socket's cgroup cannot be asked: bpf_sk_cgroup_id() is not for tc programs. One
 * in TIME_WAIT is not found.
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

/* Facts that change a few times in a connection, and those of a SYN; off the common path. */
static __always_inline void note_flags(struct hot *slot, u64 flags, u32 direction)
{
	if ((flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		flags |= SEEN_SYN_ONLY;
	else if (flags & TCP_SYN)
		flags |= SEEN_SYN_ACK;
	__sync_fetch_and_or(&slot->seen, flags << direction * SEEN_SHIFT);
}

/* One CPU gets each carry bit, because it is taken out atomically. */
static __always_inline void carry(struct hot *slot, u32 index, u32 direction)
{
	const u64 carry_bits = 1ULL << BYTE_CARRY_BIT | 1ULL << PACKET_CARRY_BIT;
	u64 taken = __sync_fetch_and_and(&slot->traffic[direction], ~carry_bits);
	struct cold *row = cold.lookup(&index);
	u64 carries = (taken >> BYTE_CARRY_BIT & 1) << direction * 16 |
		      (taken >> PACKET_CARRY_BIT) << (DIRECTIONS + direction) * 16;

	if (row)
		__sync_fetch_and_add(&row->carries, carries);
	__sync_fetch_and_or(&slot->seen, 1ULL << SEEN_CARRIED_BIT);
}

/*
 * The claimer of a slot lists it and writes the row; others may already add to it.
 * The row's cache line is seldom at hand, and an atomic waits for all stores before
 * it: so nothing atomic comes after the row, and the line is fetched while the next
 * packet is parsed.
 */
static __always_inline void write_row(const struct flow *flow, u32 index, u32 half, u32 direction)
{
	u32 zero = 0, place;
	struct cold *row = cold.lookup(&index);
	struct control *ctl = control.lookup(&zero);
	u64 *listed;

	if (!row || !ctl)
		return;
	place = __sync_fetch_and_add(&ctl->used[half], 1);
	place = (place & (SLOTS - 1)) + half * SLOTS;
	listed = used.lookup(&place);
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
	row->first_seen_ns = bpf_ktime_get_coarse_ns();
}

/*
 * Whose packet leaves is certain, whatever translates its addresses: its socket comes
 * with it. The claimer, on another CPU, may still be writing the row, and win; that
 * there was a socket is noted all the same.
 */
static __always_inline void note_sender(struct __sk_buff *skb, u32 index)
{
	u64 cgroup = bpf_skb_cgroup_id(skb);
	struct cold *row = cold.lookup(&index);

	if (row && cgroup) {
		row->cgroup_high = cgroup >> 32;
		row->cgroup_low = cgroup;
	}
}

/*
 * Adds a packet to its slot, and its facts that are new. A SYN is always new: what it means
 * depends on the ACK beside it, and both bits may be there already.
 */
static __always_inline u64 add(struct hot *slot, u32 index, u64 traffic, u64 flags, u32 direction)
{
	u64 before = __sync_fetch_and_add(&slot->traffic[direction], traffic);
	u64 news = flags & (~(slot->seen >> direction * SEEN_SHIFT) | TCP_SYN);

	if (news)
		note_flags(slot, flags, direction);
	if ((before + traffic) & (1ULL << BYTE_CARRY_BIT | 1ULL << PACKET_CARRY_BIT))
		carry(slot, index, direction);
	return news;
}

static __always_inline int count(struct __sk_buff *skb, const u32 direction, const bool uplink)
{
	struct packet packet;
	struct rest rest = {};
	struct flow flow;
	u64 packets = SKB_FIELD(skb, gso_segs), bytes = SKB_FIELD(skb, len);
	u64 epoch, fingerprint, traffic, flags, news, error = 0;
	u32 zero = 0, ifindex = SKB_FIELD(skb, ifindex), half, block_index, start, place = 0;
	u32 number = direction; /* of the lane */
	bool allowed, claimed = false, of_socket = false;
	struct control *ctl;
	struct block *block;
	struct hot *slot = NULL;

	if (!packets)
		packets = 1;
	if (SKB_FIELD(skb, vlan_present))
		note_tag(ifindex, direction);
	if (uplink && direction == FROM_ENDPOINT) {
		of_socket = skb->sk;
		number = of_socket ? FROM_ENDPOINT : LANE_PASSING;
	}
	if (parse_plain(skb, &packet)) {
		packet = (struct packet){}; /* else the common path stores zeroes for this one */
		if (parse_any(skb, &packet, &rest, uplink || direction == TO_ENDPOINT)) {
			book(ifindex, direction, ACCOUNT_OTHER, bytes, packets);
			return TC_ACT_UNSPEC;
		}
		if (rest.place != NO_FRAGMENT)
			join_fragment(skb, &packet, &rest, ifindex, number);
		else
			error = fingerprint_of_error(skb, &packet, &rest, ifindex, direction,
						     uplink);
	}
	flow.ifindex = ifindex;
	turn(&flow, &packet, direction);
	fingerprint = error ? error : fingerprint_of(&flow, packet.ipv4);
	flags = packet.tcp_flags | packet.facts;
	if (of_socket)
		flags |= SEEN_SOCKET;

	ctl = control.lookup(&zero);
	if (!ctl)
		return TC_ACT_UNSPEC;
	epoch = *(volatile u64 *)&ctl->epoch; /* read once: see the swap in table.py */
	half = epoch & 1;
	block_index = (fingerprint >> 32 & (BLOCKS - 1)) + half * BLOCKS;
	block = hot.lookup(&block_index);
	if (!block)
		return TC_ACT_UNSPEC;
	start = fingerprint;
	traffic = packets << PACKET_SHIFT | bytes;
#pragma unroll
	for (int i = 0; i < NEAR_PROBES; i++) {
		u64 found;

		place = (start + i) & (BLOCK_SLOTS - 1);
		found = *(volatile u64 *)&block->slots[place].fingerprint;
		if (found == fingerprint) {
			news = add(&block->slots[place], block_index * BLOCK_SLOTS + place, traffic,
				   flags, direction);
			if (uplink && direction == FROM_ENDPOINT && news & SEEN_SOCKET)
				note_sender(skb, block_index * BLOCK_SLOTS + place);
			return TC_ACT_UNSPEC;
		}
		if (!found)
			break;
	}
	allowed = may_claim(ctl, epoch, ifindex, number);
#pragma clang loop unroll(disable)
	for (int i = 0; i < PROBES; i++) { /* from the start: others claim slots, too */
		u64 found;

		place = (start + i) & (BLOCK_SLOTS - 1);
		found = *(volatile u64 *)&block->slots[place].fingerprint;
		if (!found) {
			if (!allowed)
				break;
			found = __sync_val_compare_and_swap(&block->slots[place].fingerprint, 0,
							    fingerprint);
			claimed = !found;
		}
		if (claimed || found == fingerprint) {
			slot = &block->slots[place];
			break;
		}
	}
	if (!slot) {
		book(ifindex, direction, ACCOUNT_OVERFLOW, bytes, packets);
		return TC_ACT_UNSPEC;
	}
	if (uplink && claimed && direction == TO_ENDPOINT && is_for_socket(skb, &packet))
		flags |= SEEN_SOCKET;
	news = add(slot, block_index * BLOCK_SLOTS + place, traffic, flags, direction);
	if (claimed)
		write_row(&flow, block_index * BLOCK_SLOTS + place, half, direction);
	if (uplink && direction == FROM_ENDPOINT && news & SEEN_SOCKET)
		note_sender(skb, block_index * BLOCK_SLOTS + place);
	return TC_ACT_UNSPEC;
}

int from_pod(struct __sk_buff *skb)
{
	return count(skb, FROM_ENDPOINT, false);
}

int to_pod(struct __sk_buff *skb)
{
	return count(skb, TO_ENDPOINT, false);
}

int from_host(struct __sk_buff *skb)
{
	return count(skb, FROM_ENDPOINT, true);
}

int to_host(struct __sk_buff *skb)
{
	return count(skb, TO_ENDPOINT, true);
}
